"""OpenAI's chat completions on the wire (platform.openai.com/docs/api-reference/chat): what is sent, what is read.

`top_k`, `min_p` and `repetition_penalty` are not OpenAI's; vLLM, llama.cpp and our own server know them. What is at its
default is not sent, so that a server which lacks them is not bothered.
"""

import json
import math
from typing import Any

from trainer.generation.params import SamplingParams
from trainer.generation.sampling import seed_of_sample
from trainer.tutors.port import Answer, Finish, Question, TutorError

_SEEDS = 2**63
_COMPLAINT = 1 << 16  # characters of one that are looked at
_CHARACTERS_A_TOKEN = 4  # of English text; only for rate limits, and for servers that do not count
_SENT_UNLESS_DEFAULT = ("top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")
_FINISHES: dict[str, Finish] = {
    **dict.fromkeys(("length", "max_tokens", "model_length"), "length"),
    **dict.fromkeys(("content_filter", "safety", "recitation"), "filtered"),
}
_BROKEN_OFF = ("abort", "cancelled", "error")


class Garbage(Exception):
    """An answer that is no chat completion."""


class Failed(Exception):
    """An answer that says of itself that it failed."""


def body_of(model: str, question: Question, sample: int) -> dict[str, Any]:
    """The request for one sample of a question.

    Raises:
        TutorError: sampling that this interface has no words for.
    """
    sampling = question.sampling
    if sampling.no_repeat_ngram or sampling.stop_tokens:
        raise TutorError(
            "an endpoint takes neither no_repeat_ngram nor stop_tokens", advice="use stop, or a penalty on repetition"
        )
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": message.role, "content": message.content} for message in question.messages],
        "temperature": sampling.temperature,
        "seed": seed_of_sample(sampling.seed, sample) % _SEEDS,
    }
    usual = SamplingParams()
    body |= {
        name: getattr(sampling, name)
        for name in _SENT_UNLESS_DEFAULT
        if getattr(sampling, name) != getattr(usual, name)
    }
    if sampling.max_tokens is not None:
        body["max_tokens"] = sampling.max_tokens
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    if sampling.logit_bias:
        body["logit_bias"] = {str(token): bias for token, bias in sampling.logit_bias}
    return body


def tokens_of(body: dict[str, Any]) -> int:
    """What a request may take of a limit on tokens, before it is known."""
    said = sum(len(message["content"]) for message in body["messages"])
    return _estimated(said) + int(body.get("max_tokens") or 0)


def answer_in(body: dict[str, Any], kind: str, content: bytes) -> Answer:
    """The answer in a response of content type `kind`; refused is one whose message says nothing.

    What a model thought apart from its content is not read.

    Raises:
        Garbage: there is none in it.
        Failed: there is a complaint in its place, or it was broken off.
    """
    if "json" not in kind.lower():
        raise Garbage(f"an answer of type {kind or 'unknown'!r}, not JSON")
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as wrong:
        raise Garbage(f"what is no JSON ({type(wrong).__name__})") from wrong
    choices = found.get("choices") if isinstance(found, dict) else None
    if not choices and isinstance(found, dict) and found.get("error"):
        raise Failed(f"no answer: {complaint_in(content)[0]}")  # some vendors' gateways do so with status 200
    if not isinstance(choices, list) or not choices:
        raise Garbage("no choices")
    choice = choices[0]
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        raise Garbage("a choice without a message")
    ended = str(choice.get("finish_reason")).lower()
    if ended in _BROKEN_OFF:
        raise Failed(f"an answer that was broken off ({ended})")
    finish = _FINISHES.get(ended, "stop")
    text = _text(message.get("content"))
    if text is None and isinstance(message.get("refusal"), str):
        text, finish = message["refusal"], "filtered"
    used = found.get("usage")
    said = sum(len(each["content"]) for each in body["messages"])
    prompt = _count(used, "prompt_tokens", said)
    if text is None and finish == "stop":
        return Answer("", _count(used, "completion_tokens", 0), "refused", prompt, why="it says nothing")
    text = _whole(text or "")
    return Answer(text, _count(used, "completion_tokens", len(text)), finish, prompt)


def _text(content: object) -> str | None:
    """A message's content: a text, or parts of which some are texts. None where there is none."""
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise Garbage("a message without text")
    texts = [part.get("text") for part in content if part.get("type") == "text"]
    return "".join(text for text in texts if isinstance(text, str)) if texts else None


def _whole(text: str) -> str:
    """JSON can say half a surrogate pair; no file can hold it."""
    return text.encode("utf-8", "replace").decode()


def complaint_in(content: bytes) -> tuple[str, str]:
    """(what a server says is wrong, its code) from the body of an error, in OpenAI's shape or any other."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return _shown(content.decode(errors="replace")), ""
    error = found.get("error", found) if isinstance(found, dict) else found
    if not isinstance(error, dict):
        return _shown(str(error)), ""
    return _shown(str(error.get("message") or error.get("detail") or error)), str(error.get("code") or "")


def _shown(text: str) -> str:
    """On one line, without what a terminal obeys."""
    words = " ".join(_whole(text[:_COMPLAINT]).split())
    return "".join(sign if sign.isprintable() else "?" for sign in words)


def _count(used: object, name: str, characters: int) -> int:
    found = used.get(name) if isinstance(used, dict) else None
    if isinstance(found, int) and not isinstance(found, bool) and found >= 0:
        return found
    return _estimated(characters)


def _estimated(characters: int) -> int:
    return math.ceil(characters / _CHARACTERS_A_TOKEN)
