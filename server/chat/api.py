"""The addresses: chats, completions, models, and what the prefix cache saved."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response, StreamingResponse

from server.chat import problems
from server.chat.answers import Frame, Json, usage
from server.chat.desk import Answers, Desk, any_seed
from server.chat.requests import ChatRequest, CompletionRequest, Sampled
from server.errors import Unacceptable
from trainer.generation import Event, SamplingParams
from trainer.generation.text import TokenBytes
from trainer.tokenizer import end_of_text, refuse_overlong

router = APIRouter()


def desk_of(request: Request) -> Desk:
    """The application's desk."""
    desk: Desk = request.app.state.desk
    return desk


OurDesk = Annotated[Desk, Depends(desk_of)]


@router.get("/healthz")
async def health() -> Json:
    """Whether there is an answer."""
    return {"status": "ok"}


@router.get("/v1/models")
async def models(desk: OurDesk) -> Json:
    """The one model that is served."""
    return {"object": "list", "data": [_model(desk)]}


@router.get("/v1/models/{name:path}")
async def model(name: str, desk: OurDesk) -> Json:
    """It by its name."""
    _refuse_others(name, desk)
    return _model(desk)


@router.get("/v1/cache")
async def cache(desk: OurDesk) -> Json:
    """What the prefix cache holds, and what it saved since the server began. Not OpenAI's."""
    found = desk.engine.statistics
    return {
        "requests": found.requests,
        "hits": found.hits,
        "hit_rate": found.hits / found.requests if found.requests else 0.0,
        "prompt_tokens": found.tokens,
        "saved_tokens": found.tokens_known,
        "saved_share": found.tokens_known / found.tokens if found.tokens else 0.0,
        "evictions": found.evictions,
        "unanswered": desk.unanswered,
        "capacity": desk.capacity,
    }


@router.post("/v1/chat/completions")
async def chat(asked: ChatRequest, request: Request, desk: OurDesk) -> Response:
    """The next message of a chat."""
    _refuse_others(asked.model, desk)
    shown = (asked.top_logprobs or 0) if asked.logprobs else None
    params = asked.sampling(seed=any_seed(), ends=desk.model.template.ends, max_tokens=asked.limit, logprobs=shown or 0)

    def prompts() -> list[list[int]]:
        messages = [message.plain for message in asked.messages]
        _refuse_overlong(desk, "".join(message.content for message in messages))
        return [desk.model.template.encode(messages)]

    answers = await _submit(desk, prompts, params, asked.n)
    frame = Frame("chat", desk.model.name, TokenBytes(desk.model.tokenizer), shown)
    return await _answer(request, asked, answers, frame)


@router.post("/v1/completions")
async def completions(asked: CompletionRequest, request: Request, desk: OurDesk) -> Response:
    """Continuations of texts, each read as a document begins."""
    _refuse_others(asked.model, desk)
    if asked.echo and asked.logprobs is not None:
        raise Unacceptable("logprobs of an echoed prompt are not computed", advice="Ask for one of the two.")
    end = end_of_text(desk.model.tokenizer)
    params = asked.sampling(seed=any_seed(), ends=(end,), max_tokens=asked.max_tokens, logprobs=asked.logprobs or 0)

    def read(given: str | list[int]) -> list[int]:
        if isinstance(given, list):
            return given
        _refuse_overlong(desk, given)
        return [end, *desk.model.tokenizer.encode(given, add_special_tokens=False).ids]

    def prompts() -> list[list[int]]:
        return [read(given) for given in asked.prompts]

    answers = await _submit(desk, prompts, params, asked.n)
    frame = Frame("text", desk.model.name, TokenBytes(desk.model.tokenizer), asked.logprobs)
    return await _answer(request, asked, answers, frame, _echoes(asked, desk) if asked.echo else None)


async def _submit(desk: Desk, prompts: Callable[[], list[list[int]]], params: SamplingParams, samples: int) -> Answers:
    loop = asyncio.get_running_loop()
    # A prompt of megabytes takes seconds to encode; others are served meanwhile.
    return await run_in_threadpool(lambda: desk.submit(prompts(), params, samples, loop))


async def _answer(
    request: Request, asked: Sampled, answers: Answers, frame: Frame, echoes: Sequence[str] | None = None
) -> Response:
    if asked.stream:
        stream = _stream(request, asked, answers, frame, echoes)
        return StreamingResponse(stream, media_type="text/event-stream", headers={"cache-control": "no-store"})
    said: list[list[Event]] = [[] for _ in answers.completions]
    async with _until_gone(request, answers):
        async for index, event in answers.events():
            said[index].append(event)
    texts = [completion.text for completion in answers.completions]
    if echoes:
        texts = [before + text for before, text in zip(echoes, texts, strict=True)]
    return JSONResponse(frame.whole(texts, said, _used(asked, answers)))


async def _stream(
    request: Request, asked: Sampled, answers: Answers, frame: Frame, echoes: Sequence[str] | None
) -> AsyncIterator[str]:
    rest: Json = {"usage": None} if asked.wants_usage else {}
    try:
        async with _until_gone(request, answers):
            for index in range(len(answers.completions)):
                if frame.kind == "chat":
                    yield _sse(frame.opening(index) | rest)
                if echoes:
                    yield _sse(frame.chunk(index, echoes[index], ()) | rest)
            async for index, event in answers.events():
                shown = frame.logprobs is not None and event.token is not None
                if event.text or shown:
                    yield _sse(frame.chunk(index, event.text, (event,) if shown else ()) | rest)
                if event.finish:
                    yield _sse(frame.chunk(index, "", (), event.finish) | rest)
        if asked.wants_usage:
            yield _sse(frame.closing(_used(asked, answers)))
        yield "data: [DONE]\n\n"
    except Exception as error:  # the status has been sent: the stream is where it can still be said
        yield _sse(problems.body_of(error)[1])


@asynccontextmanager
async def _until_gone(request: Request, answers: Answers) -> AsyncIterator[None]:
    """Within it, a client that hangs up ends its answers; so does leaving it."""

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        answers.cancel()

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()
        answers.cancel()


def _used(asked: Sampled, answers: Answers) -> Json:
    return usage(answers.completions[:: asked.n], answers.completions)


def _echoes(asked: CompletionRequest, desk: Desk) -> list[str]:
    decode = desk.model.tokenizer.decode
    texts = [given if isinstance(given, str) else str(decode(given)) for given in asked.prompts]
    return [text for text in texts for _ in range(asked.n)]


def _sse(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False, separators=(',', ':'))}\n\n"


def _model(desk: Desk) -> Json:
    return {"id": desk.model.name, "object": "model", "created": desk.model.created, "owned_by": "fulcrum"}


def _refuse_overlong(desk: Desk, text: str) -> None:
    refuse_overlong(desk.model.tokenizer, text, desk.engine.context)


def _refuse_others(name: str, desk: Desk) -> None:
    if name != desk.model.name:
        raise problems.UnknownModel(f"{name} is not served here", advice=f"This server has {desk.model.name}.")
