"""Answers in OpenAI's shapes: whole, and in the chunks of a stream."""

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from trainer.generation import Completion, Event
from trainer.generation.text import TokenBytes

Kind = Literal["chat", "text"]
Json = dict[str, Any]


def usage(prompts: Sequence[Completion], completions: Sequence[Completion]) -> Json:
    """Tokens read and written; a prompt of several answers is read once. `prompts` has one completion of each."""
    read = sum(completion.prompt_tokens for completion in prompts)
    written = sum(len(completion.tokens) for completion in completions)
    return {
        "prompt_tokens": read,
        "completion_tokens": written,
        "total_tokens": read + written,
        "prompt_tokens_details": {"cached_tokens": sum(completion.cached_tokens for completion in prompts)},
    }


@dataclass
class Frame:
    """What every part of one answer repeats, and how its parts look."""

    kind: Kind
    model: str
    token_bytes: TokenBytes
    logprobs: int | None = None
    """How many of the likeliest tokens are shown beside the chosen one; None for no probabilities at all."""
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, texts: Sequence[str], events: Sequence[Sequence[Event]], used: Json) -> Json:
        """A finished answer; `events` are those of each choice."""
        choices = []
        for index, (text, said) in enumerate(zip(texts, events, strict=True)):
            content = (
                {"message": {"role": "assistant", "content": text, "refusal": None}}
                if self.kind == "chat"
                else {"text": text}
            )
            choices.append(self._choice(index, content, said, said[-1].finish))
        return self._framed("chat.completion", choices) | {"usage": used}

    def opening(self, index: int) -> Json:
        """The first chunk of a message."""
        return self._chunk([self._choice(index, {"delta": {"role": "assistant", "content": ""}}, (), None)])

    def chunk(self, index: int, text: str, events: Sequence[Event], finish: str | None = None) -> Json:
        """A further chunk: what became readable, or why the answer ended."""
        if self.kind == "text":
            return self._chunk([self._choice(index, {"text": text}, events, finish)])
        return self._chunk(
            [self._choice(index, {"delta": {"content": text} if text or events else {}}, events, finish)]
        )

    def closing(self, used: Json) -> Json:
        """The last chunk of a stream that tells what it used."""
        return self._chunk([]) | {"usage": used}

    def _chunk(self, choices: list[Json]) -> Json:
        return self._framed("chat.completion.chunk", choices)

    def _framed(self, name: str, choices: list[Json]) -> Json:
        prefix, kind = ("chatcmpl", name) if self.kind == "chat" else ("cmpl", "text_completion")
        return {
            "id": f"{prefix}-{self.id}",
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }

    def _choice(self, index: int, content: Json, events: Sequence[Event], finish: str | None) -> Json:
        logprobs = None
        if self.logprobs is not None and any(event.token is not None for event in events):
            logprobs = self._of_chat(events) if self.kind == "chat" else self._of_text(events)
        return {"index": index, **content, "logprobs": logprobs, "finish_reason": finish}

    def _of_chat(self, events: Sequence[Event]) -> Json:
        content = []
        for event in events:
            if event.token is not None:
                beside = [self._token(token, logprob) for token, logprob in event.top[: self.logprobs]]
                content.append(self._token(event.token, event.logprob) | {"top_logprobs": beside})
        return {"content": content, "refusal": None}

    def _token(self, token: int, logprob: float) -> Json:
        spelled = self.token_bytes(token)
        return {"token": self._text(token), "logprob": logprob, "bytes": list(spelled)}

    def _of_text(self, events: Sequence[Event]) -> Json:
        said = [event for event in events if event.token is not None]
        texts = [self._text(event.token or 0) for event in said]
        offsets = [sum(map(len, texts[:i])) for i in range(len(texts))]
        return {
            "tokens": texts,
            "token_logprobs": [event.logprob for event in said],
            # By text, as this interface has it: of tokens that read alike the likeliest stays.
            "top_logprobs": [{self._text(t): p for t, p in event.top[: self.logprobs][::-1]} for event in said],
            "text_offset": offsets,
        }

    def _text(self, token: int) -> str:
        return self.token_bytes(token).decode(errors="replace")
