"""A tutor behind OpenAI's interface: vLLM, llama.cpp, `fulcrum chat serve`, any vendor. The trainer's only HTTP.

What fails and may pass (no connection, time run out, 408, 425, 429, 5xx) is sent again after waits that double, with
jitter, and as late as Retry-After says, for as long as the patience lasts: an outage of an hour is survived by whoever
has the patience of one. What cannot pass (no such model, a wrong key) ends at once, in words.
"""

import asyncio
import email.utils
import queue
import random
import ssl
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import httpx2
from pydantic import BaseModel, ConfigDict, Field, field_validator

from trainer.tutors.asking import Asking
from trainer.tutors.cache import AnswerCache
from trainer.tutors.pace import Clock, Pace
from trainer.tutors.port import Answer, Prices, Question, TutorError, Usage
from trainer.tutors.secret import Secret
from trainer.tutors.wire import Failed, Garbage, answer_in, body_of, complaint_in, tokens_of

_FIRST_WAIT, _LONGEST_WAIT = 0.5, 60.0
_GARBAGE_TRIES = 4
_MOST_BYTES = 64 << 20
_REFUSALS = 8  # so many, and no answer: then it is not the questions
_COMPLAINT = 300  # characters of one that are told
_NOT_ALLOWED = (401, 403)
_REFUSED = (400, 413, 422)
_PASSING = (408, 425, 429)


class EndpointOptions(BaseModel):
    """Where the tutor is, and how it may be asked."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str = Field(description="Up to and with /v1")
    model: str = Field(min_length=1)
    concurrency: int = Field(default=8, ge=1, le=1024, description="Requests under way at once")
    requests_per_minute: int | None = Field(default=None, ge=1)
    tokens_per_minute: int | None = Field(default=None, ge=1, description="Of prompts and answers together")
    timeout: float = Field(default=120.0, gt=0, description="Seconds for one answer, from asking to its last byte")
    patience: float = Field(default=600.0, ge=0, description="Seconds that a question is asked again for")

    @field_validator("url")
    @classmethod
    def _is_plain(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("an endpoint is http://... or https://..., up to and with /v1")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("an endpoint's address holds no name, key or question: keys come from the environment")
        return url.rstrip("/")


class _Passing(Exception):
    """It failed, and may not fail again."""

    def __init__(self, why: str, *, after: float = 0.0, garbage: bool = False) -> None:
        super().__init__(why)
        self.after, self.garbage = after, garbage


class _Bearer(httpx2.Auth):
    """Puts the key into a request, and into nothing that a traceback shows."""

    def __init__(self, key: Secret) -> None:
        self._key = key

    def auth_flow(self, request: httpx2.Request) -> Generator[httpx2.Request, httpx2.Response, None]:
        """See httpx."""
        request.headers["authorization"] = f"Bearer {self._key.reveal()}"
        yield request


class Endpoint:
    """See `Tutor` and the module. A cache makes an interrupted run go on where it was, without asking again."""

    def __init__(
        self,
        options: EndpointOptions,
        *,
        key: Secret | None = None,
        cache: AnswerCache | None = None,
        prices: Prices | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.name = f"{options.url}#{options.model}"
        self.usage = Usage(prices)
        self._options, self._key, self._cache = options, key, cache
        self._clock = clock or Clock()
        self._pace = Pace(options.requests_per_minute, options.tokens_per_minute, self._clock)
        self._limit_name = "max_tokens"

    def ask(
        self, questions: Sequence[Question], heard: Callable[[Usage], None] | None = None
    ) -> Iterator[tuple[int, list[Answer]]]:
        """See `Tutor`. Requests go on while the caller looks at answers; leaving the iterator ends them.

        Raises:
            TutorError: a wrong key or address, a model that is not there, nothing but garbage, or patience at its end.
        """
        told: queue.SimpleQueue[tuple[int, int, Answer] | BaseException] = queue.SimpleQueue()
        # Bodies are made first: what this interface has no words for is said before anything is paid for.
        bodies = [
            (index, sample, body_of(self._options.model, question, sample))
            for index, question in enumerate(questions)
            for sample in range(question.samples)
        ]
        asking = Asking(self._all(bodies, told.put), told.put)
        known: list[dict[int, Answer]] = [{} for _ in questions]
        try:
            for _ in bodies:
                came = told.get()
                if isinstance(came, BaseException):
                    raise came
                index, sample, answer = came
                known[index][sample] = answer
                if heard:
                    heard(self.usage)
                if len(known[index]) == questions[index].samples:
                    yield index, [known[index][number] for number in range(questions[index].samples)]
        finally:
            asking.end()

    async def _all(
        self, bodies: list[tuple[int, int, dict[str, Any]]], tell: Callable[[tuple[int, int, Answer]], None]
    ) -> None:
        left = iter(bodies)
        key = None if self._key is None else _Bearer(self._key)
        limits = httpx2.Limits(max_connections=self._options.concurrency)
        async with httpx2.AsyncClient(auth=key, timeout=self._options.timeout, limits=limits) as client:

            async def work() -> None:
                for index, sample, body in left:
                    tell((index, sample, await self._answer(client, body, sample)))

            async with asyncio.TaskGroup() as group:
                for _ in range(min(self._options.concurrency, len(bodies))):
                    group.create_task(work())

    async def _answer(self, client: httpx2.AsyncClient, body: dict[str, Any], sample: int) -> Answer:
        asked = {**body, "sample": sample}
        found = self._cache.get(asked) if self._cache else None
        answer = found or await self._patiently(client, body)
        if self._cache and not found and answer.finish != "refused":
            self._cache.put(asked, answer)
        self.usage.count(answer, cached=found is not None)
        if self.usage.answers == self.usage.refused == _REFUSALS:
            raise TutorError(f"{self.name} refuses every question: {answer.why}", advice="correct what it names")
        return answer

    async def _patiently(self, client: httpx2.AsyncClient, body: dict[str, Any]) -> Answer:
        began: float | None = None
        tries = garbage = 0
        while True:
            place = await self._pace.enter(tokens_of(body))
            try:
                answer = await self._within_time(client, body)
                self._pace.correct(place, answer.prompt_tokens + answer.tokens)
                return answer
            except _Passing as wrong:
                now = self._clock.now()
                began = now if began is None else began
                tries, garbage = tries + 1, garbage + wrong.garbage
                doubled = min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** min(tries, 16))
                wait = max(wrong.after * random.uniform(1, 1.1), doubled * random.uniform(0.5, 1))
                if garbage == _GARBAGE_TRIES or now + wait - began > self._options.patience:
                    raise self._out_of_patience(wrong, tries, now - began) from wrong
                self.usage.retried()
                if wrong.after:
                    self._pace.hold(wrong.after)
                await self._clock.sleep(wait)

    def _out_of_patience(self, wrong: _Passing, tries: int, seconds: float) -> TutorError:
        if wrong.garbage:
            return TutorError(
                f"{self.name} sent {wrong}, {tries} times", advice="is this OpenAI's interface, up to /v1?"
            )
        waits = f", and asks to wait {wrong.after:.0f} s more" if wrong.after else ""
        return TutorError(
            f"{self.name}: {wrong}; tried {tries} times in {seconds:.0f} s{waits}",
            advice="see that it runs, or have more patience; answers that came are kept",
        )

    async def _within_time(self, client: httpx2.AsyncClient, body: dict[str, Any]) -> Answer:
        try:
            async with asyncio.timeout(self._options.timeout):
                return await self._once(client, body)
        except (TimeoutError, httpx2.TimeoutException) as late:
            raise _Passing(f"no whole answer within {self._options.timeout:g} s") from late
        except (httpx2.RequestError, OSError) as wrong:
            if _distrusted(wrong):
                raise TutorError(
                    f"{self.name} shows no certificate that is trusted: {wrong}",
                    advice="check the address; an authority of your own is named by SSL_CERT_FILE",
                ) from wrong
            raise _Passing(self._hidden(str(wrong) or type(wrong).__name__)) from wrong

    async def _once(self, client: httpx2.AsyncClient, body: dict[str, Any]) -> Answer:
        limit = self._limit_name
        sent = {limit if name == "max_tokens" else name: value for name, value in body.items()}
        async with client.stream("POST", f"{self._options.url}/chat/completions", json=sent) as response:
            content = await _whole(response)
        if response.status_code == httpx2.codes.OK:
            try:
                answer = answer_in(body, response.headers.get("content-type", ""), content)
                return replace(answer, text=self._hidden(answer.text))
            except (Garbage, Failed) as wrong:
                raise _Passing(self._hidden(str(wrong))[:_COMPLAINT], garbage=isinstance(wrong, Garbage)) from None
        said, code = complaint_in(content)
        if response.status_code in _REFUSED and "max_completion_tokens" in said and limit == "max_tokens":
            self._limit_name = "max_completion_tokens"  # OpenAI's newer models want the newer name
            return await self._once(client, body)
        return self._refusal(response, self._hidden(said)[:_COMPLAINT], code)

    def _refusal(self, response: httpx2.Response, said: str, code: str) -> Answer:
        """A refused answer, where it is the question that is refused."""
        status = response.status_code
        if status in _NOT_ALLOWED:
            raise TutorError(f"{self.name} does not let us in ({status}): {said}", advice="check the key")
        if status == 404:
            raise TutorError(f"{self.name} is not there (404): {said}", advice="check the address and the model's name")
        if status == 402 or code == "insufficient_quota":
            raise TutorError(
                f"{self.name}: the account is used up: {said}", advice="pay, then start again: no answer is lost"
            )
        if status in _PASSING or status >= 500:
            raise _Passing(f"{status}: {said}", after=_retry_after(response.headers.get("retry-after")))
        if status in _REFUSED:
            return Answer("", 0, "refused", why=said)
        raise TutorError(
            f"{self.name} answers with status {status}: {said}", advice="check the address; redirects are not followed"
        )

    def _hidden(self, text: str) -> str:
        return text if self._key is None else self._key.hide_in(text)


def _distrusted(wrong: BaseException | None) -> bool:
    """A certificate does not get better by waiting."""
    while wrong is not None and not isinstance(wrong, ssl.SSLCertVerificationError):
        wrong = wrong.__cause__ or wrong.__context__
    return wrong is not None


async def _whole(response: httpx2.Response) -> bytes:
    parts, size = [], 0
    async for part in response.aiter_bytes():
        parts.append(part)
        size += len(part)
        if size > _MOST_BYTES:
            raise _Passing(f"more than {_MOST_BYTES >> 20} MiB for one answer", garbage=True)
    return b"".join(parts)


def _retry_after(header: str | None) -> float:
    """Seconds, from seconds or a date (RFC 9110, section 10.2.3); 0 for neither."""
    if header is None:
        return 0.0
    try:
        return max(0.0, float(header)) if float(header) < 1e9 else 0.0
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0
