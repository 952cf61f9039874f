"""Chats as tokens: the plain template that our own models learn, or the one that a checkpoint brings.

The plain template. A message is the end-of-text token, its role on a line of its own, and what was said:

    <|endoftext|>user
    Hello.<|endoftext|>assistant
    Hello to you.<|endoftext|>

A role counts only after the end-of-text token, and text never gives that token: what is said is encoded apart, with
special tokens read as plain text. So nobody can speak in another's name. An answer ends as a document does, and what
has been said keeps its tokens as a chat goes on, which is what a prefix cache needs.

Tools are declared in a message of the role `tools` before all others, one JSON object a line; what a tool gave back is
a message of the role `tool`. An assistant calls one by a line of its own message:

    <tool_call>{"name": "add", "arguments": {"a": 1, "b": 2}}</tool_call>

A checkpoint's own template is Jinja, in its tokenizer_config.json or chat_template.jinja, and is rendered as
transformers renders it (utils/chat_template_utils.py), in a sandbox. It writes special tokens as text, so that a
message which contains the text of one is refused. Where it marks what the assistant says, by `{% generation %}`, that
is the assistant's; or else what it adds to a request for an answer.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, NoReturn, Protocol

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import BaseModel, ConfigDict, model_validator
from tokenizers import Tokenizer

from trainer.errors import TrainerError
from trainer.files import write_text
from trainer.tokenizer import end_of_text

_CONFIGURATION, _TEMPLATE = "tokenizer_config.json", "chat_template.jinja"
_BEGINS, _ENDS = "\ufdd0", "\ufdd1"  # around what the assistant says; noncharacters, which no text holds

Role = Literal["system", "user", "assistant", "tool"]
Tool = Mapping[str, Any]
"""A tool's declaration, as OpenAI's: {"type": "function", "function": {"name": ..., "parameters": JSON Schema}}."""


class ChatError(TrainerError):
    """A chat that cannot be written as tokens: no messages, a template that refuses them, a forged token."""

    slug = "bad-chat"


class ToolCall(BaseModel):
    """What the assistant asks of a tool."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    arguments: dict[str, Any]


class Message(BaseModel):
    """What one party said; an assistant may call tools with it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()

    @model_validator(mode="after")
    def _assistants_call_tools(self) -> "Message":
        if self.tool_calls and self.role != "assistant":
            raise ValueError(f"only an assistant calls tools, not the role {self.role}")
        return self


@dataclass(frozen=True)
class Spoken:
    """A chat's tokens, and which of them the assistant said: its words and the token that ends them."""

    tokens: list[int]
    said: list[bool]


class ChatTemplate(Protocol):
    """Writes chats as tokens. `ends` are the tokens that end an answer."""

    ends: tuple[int, ...]

    def encode(self, messages: Sequence[Message], *, reply: bool = True, tools: Sequence[Tool] = ()) -> list[int]:
        """The chat's tokens; with `reply`, up to where the assistant begins to speak.

        Raises:
            ChatError: no messages, or some that cannot be written.
        """

    def spoken(self, messages: Sequence[Message], *, tools: Sequence[Tool] = ()) -> Spoken:
        """The whole chat, and who said what. What precedes an answer has the tokens that it is asked for with.

        Raises:
            ChatError: as for `encode`; or the template does not tell where an answer begins.
        """


class PlainTemplate:
    """The template of our own models; see the module."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = _reading(tokenizer, special=False)
        self._end = end_of_text(tokenizer)
        self.ends: tuple[int, ...] = (self._end,)

    def encode(self, messages: Sequence[Message], *, reply: bool = True, tools: Sequence[Tool] = ()) -> list[int]:
        """See `ChatTemplate`."""
        tokens = self.spoken(messages, tools=tools).tokens
        return tokens[:-1] + self._begin("assistant") if reply else tokens

    def spoken(self, messages: Sequence[Message], *, tools: Sequence[Tool] = ()) -> Spoken:
        """See `ChatTemplate`. The end of text after an answer is the assistant's, whoever speaks next."""
        _refuse_empty(messages)
        parts = [("tools", "\n".join(_to_json(tool) for tool in tools))] if tools else []
        parts += [(message.role, _with_calls(message)) for message in messages]
        tokens: list[int] = []
        said: list[bool] = []
        answered = False
        for role, text in parts:
            begin, words = self._begin(role), _ids(self._tokenizer, text)
            tokens += begin + words
            said += [answered] + [False] * (len(begin) - 1)
            answered = role == "assistant"
            said += [answered] * len(words)
        return Spoken([*tokens, self._end], [*said, answered])

    def _begin(self, role: str) -> list[int]:
        return [self._end, *_ids(self._tokenizer, f"{role}\n")]


class JinjaTemplate:
    """A checkpoint's own template; see the module."""

    def __init__(self, tokenizer: Tokenizer, source: str, special: Mapping[str, str]) -> None:
        """`special` are the tokens that the configuration names, such as eos_token.

        Raises:
            ChatError: the template is not Jinja.
        """
        self._tokenizer, self._special = _reading(tokenizer, special=True), special
        self._written = [added.content for added in tokenizer.get_added_tokens_decoder().values() if added.special]
        self._written += [_BEGINS, _ENDS]
        named = tokenizer.token_to_id(special.get("eos_token", ""))
        self.ends: tuple[int, ...] = tuple(dict.fromkeys((end_of_text(tokenizer), *([] if named is None else [named]))))
        added: list[type[Extension]] = [loopcontrols, _Generation]
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=added)
        environment.filters["tojson"] = _to_json
        environment.globals |= {"raise_exception": _refuse, "strftime_now": lambda how: datetime.now().strftime(how)}  # noqa: DTZ005  # the template's reader lives in local time
        try:
            self._template = environment.from_string(source)
        except TemplateError as wrong:
            raise ChatError(f"the chat template is malformed: {wrong}", advice="correct or remove it") from wrong

    def encode(self, messages: Sequence[Message], *, reply: bool = True, tools: Sequence[Tool] = ()) -> list[int]:
        """See `ChatTemplate`."""
        _refuse_empty(messages)
        return _ids(self._tokenizer, _unmarked(self._text(messages, reply, tools)))

    def spoken(self, messages: Sequence[Message], *, tools: Sequence[Tool] = ()) -> Spoken:
        """See `ChatTemplate`. Unless the template marks answers, one is what it adds to its request, up to its end."""
        _refuse_empty(messages)
        whole = self._text(messages, False, tools)
        parts = _marked(whole) if _BEGINS in whole else self._added(messages, whole, tools)
        encoded = [(_ids(self._tokenizer, text), answer) for text, answer in parts]
        tokens = [token for ids, _ in encoded for token in ids]
        return Spoken(tokens, [answer for ids, answer in encoded for _ in ids])

    def _added(self, messages: Sequence[Message], whole: str, tools: Sequence[Tool]) -> list[tuple[str, bool]]:
        """The text in parts, and whether each is an answer: from its request up to the token that ends it."""
        parts: list[tuple[str, bool]] = []
        done = 0
        for number, message in enumerate(messages):
            if message.role == "assistant":
                asked = self._text(messages[:number], True, tools)
                told = self._text(messages[: number + 1], False, tools)
                if len(asked) < done or not (told.startswith(asked) and whole.startswith(told)):
                    raise ChatError(
                        "the chat template rewrites what was said before, so that answers have no place of their own",
                        advice="give conversations of one answer each",
                    )
                end = self._ended(told, len(asked))
                parts += [(whole[done : len(asked)], False), (whole[len(asked) : end], True)]
                done = end
        return [*parts, (whole[done:], False)]

    def _ended(self, text: str, start: int) -> int:
        """Where the answer that begins at `start` ends: behind the first token that ends one."""
        names = [str(self._tokenizer.id_to_token(end)) for end in self.ends]
        found = [at + len(name) for name in names if (at := text.find(name, start)) >= 0]
        return min(found, default=len(text))

    def _text(self, messages: Sequence[Message], reply: bool, tools: Sequence[Tool]) -> str:
        for text in (*map(_with_calls, messages), *map(_to_json, tools)):
            if forged := next((token for token in self._written if token in text), None):
                raise ChatError(
                    f"a message contains {forged}, by which this model's template tells who speaks",
                    advice="write it in another way",
                )
        # Without tools they are none, as transformers says it: a template may ask whether they are.
        given = {"messages": [_as_openai(message) for message in messages], "tools": tools or None, "documents": None}
        try:
            return self._template.render(**given, add_generation_prompt=reply, **self._special)
        except (TemplateError, TypeError, ValueError) as wrong:
            raise ChatError(f"the chat template refuses these messages: {wrong}", advice="see the template") from wrong


@dataclass(frozen=True)
class OwnTemplate:
    """A template as a checkpoint's directory brings it: Jinja, and the tokens its configuration names (eos_token)."""

    source: str
    special: Mapping[str, str]

    @classmethod
    def of(cls, directory: Path) -> "OwnTemplate | None":
        """What a directory brings, if it does.

        Raises:
            ChatError: its configuration or template cannot be read.
        """
        try:
            path, beside = directory / _CONFIGURATION, directory / _TEMPLATE
            configuration: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
            source = beside.read_text("utf-8") if beside.exists() else _named(configuration.get("chat_template"))
            named = {key: value for key, value in configuration.items() if key.endswith("_token")}
            special = {key: value["content"] if isinstance(value, dict) else value for key, value in named.items()}
        except (OSError, ValueError, AttributeError, KeyError) as wrong:
            raise ChatError(f"{directory}: the chat template cannot be read: {wrong}", advice="correct it") from wrong
        known = {key: value for key, value in sorted(special.items()) if isinstance(value, str)}
        return cls(source, known) if source else None

    def write(self, directory: Path) -> None:
        """Bring it in a directory that has a tokenizer_config.json, as transformers does."""
        write_text(directory / _TEMPLATE, self.source)
        path = directory / _CONFIGURATION
        write_text(path, json.dumps(json.loads(path.read_text("utf-8")) | dict(self.special), indent=2) + "\n")

    def identity(self) -> str:
        """A text that differs where the template does."""
        return json.dumps([self.source, dict(self.special)])


def template_of(directory: Path, tokenizer: Tokenizer) -> ChatTemplate:
    """The template that a checkpoint's directory brings; without one, the plain one.

    Raises:
        ChatError: its configuration or template is malformed.
    """
    own = OwnTemplate.of(directory)
    return PlainTemplate(tokenizer) if own is None else JinjaTemplate(tokenizer, own.source, own.special)


class _Generation(Extension):
    """The tag by which a template says what the assistant does, as transformers has it; see `_marked`."""

    tags = {"generation"}  # noqa: RUF012  # Jinja's attribute

    def parse(self, parser: Parser) -> nodes.Node:
        """A block that is written between marks."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_between"), [], [], body).set_lineno(line)

    def _between(self, caller: Callable[[], str]) -> str:
        return f"{_BEGINS}{caller()}{_ENDS}"


def _marked(text: str) -> list[tuple[str, bool]]:
    """A text in parts, and whether each lies between marks."""
    parts: list[tuple[str, bool]] = []
    answer = False
    for part in re.split(f"([{_BEGINS}{_ENDS}])", text):
        if part in (_BEGINS, _ENDS):
            answer = part == _BEGINS
        else:
            parts.append((part, answer))
    return parts


def _unmarked(text: str) -> str:
    return text.replace(_BEGINS, "").replace(_ENDS, "")


def _reading(tokenizer: Tokenizer, *, special: bool) -> Tokenizer:
    """A copy to which the text of a special token stands for the token, or for plain text."""
    copy: Tokenizer = Tokenizer.from_str(tokenizer.to_str())
    copy.encode_special_tokens = not special
    return copy


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


def _with_calls(message: Message) -> str:
    """What a message says in the plain template: its content, then each call on a line."""
    calls = [f"<tool_call>{_to_json(call.model_dump())}</tool_call>" for call in message.tool_calls]
    return "\n".join([message.content, *calls] if message.content else calls)


def _as_openai(message: Message) -> dict[str, Any]:
    """As checkpoints' templates expect it; no calls are no key, which they may ask for."""
    calls = [{"type": "function", "function": call.model_dump()} for call in message.tool_calls]
    return {"role": message.role, "content": message.content, **({"tool_calls": calls} if calls else {})}


def _named(found: object) -> str:
    """A configuration has one template, or a list of named ones, as transformers reads it."""
    if isinstance(found, list):
        found = next((each.get("template") for each in found if each.get("name") == "default"), None)
    if found is not None and not isinstance(found, str):
        raise ValueError("chat_template is neither a text nor a list of named texts")
    return found or ""


def _refuse_empty(messages: Sequence[Message]) -> None:
    if not messages:
        raise ChatError("there are no messages", advice="send at least one")


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)


def _to_json(value: object, ensure_ascii: bool = False, indent: int | None = None) -> str:
    """As transformers does it: Jinja's own would escape what HTML escapes."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)
