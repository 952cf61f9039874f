r"""Chats as data sets write them: a row's keys tell its shape, and every shape becomes messages of ours.

    messages, conversations   role and content, or from and value (ShareGPT)
    an ask and an answer      `prompt` and `completion`, `instruction`, `input` and `output`, `question` and `answer`
    chosen and rejected       two answers beside an ask, or two conversations that begin alike

An ask, an answer, a side is a text, a message or a list of messages. What can be read in two ways is refused.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from trainer.chat import Message, Role, ToolCall

_ROLES: dict[str, Role] = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "bot", "function_call"), "assistant"),
    **dict.fromkeys(("tool", "function", "function_response", "observation", "ipython"), "tool"),
}
_LISTS = ("messages", "conversations", "conversation")
_ASKS = ("prompt", "instruction", "question", "problem", "query")
_MORE = ("input", "context")  # belongs to an instruction
_ANSWERS = ("completion", "output", "response", "answer", "solution")
_SYSTEMS = ("system", "system_prompt")
_RENAMED = {"from": "role", "value": "content"}
_KEYS = {
    "role",
    "content",
    "tool_calls",
    "function_call",
    "weight",
    "tool_call_id",
    "name",
}  # the last two repeat the order
_ELSEWHERE = {
    "chosen": "; pairs of answers are for the stage `preference`",
    "text": "; plain text is for a corpus",
}
_TURN = re.compile(r"\n\n(Human|Assistant):")  # of Anthropic's HH-RLHF
_FINAL, _BOXED = "####", r"\boxed{"


@dataclass(frozen=True)
class Chat:
    """A whole conversation; `taught` says of each message whether its words are to be learnt."""

    messages: tuple[Message, ...]
    taught: tuple[bool, ...]
    tools: tuple[dict[str, Any], ...]


def chat(row: Any) -> Chat:
    """The conversation that a row is. An answer of weight 0 is not to be learnt, nor one within a `prompt`.

    Raises:
        ValueError: it is none, or could be two; what stands before the colon is a kind of reason.
    """
    found = _object(row)
    if (name := _list_of(found)) is not None:
        read = _messages(found[name])
    else:
        ask, answer = _one_of(found, _ASKS), _one_of(found, _ANSWERS)
        if ask is None or answer is None:
            hint = next((hint for name, hint in _ELSEWHERE.items() if name in found), "")
            raise ValueError(f"no conversation: there is {', '.join(map(str, found)) or 'nothing'}{hint}")
        before = [(message, False) for message, _ in _ask(found, ask)]
        read = [*before, *_messages(found[answer], "assistant")]
    read = [*_system(found, [message for message, _ in read]), *read]
    if not read:
        raise ValueError("no messages: the list is empty")
    if all(message.role != "assistant" for message, _ in read):
        raise ValueError("no answer: no message is the assistant's")
    if not any(taught for _, taught in read):
        raise ValueError("no answer: each has the weight 0")
    messages, taught = zip(*read, strict=True)
    return Chat(messages, taught, _tools(found))


def asked(row: Any) -> tuple[Message, ...]:
    """What a row asks: its conversation without the last answer, or its prompt.

    Raises:
        ValueError: it asks nothing, or could ask two things.
    """
    found = _object(row)
    if {"chosen", "rejected"} <= set(found) and not {*_LISTS, *_ASKS} & set(found):
        return compared(found)[0]
    prompt = _prompt(found)
    while prompt and prompt[-1].role == "assistant":
        prompt = prompt[:-1]
    return _of_a_user(found, prompt)


def expected(row: dict[str, Any]) -> str | None:
    r"""The verifiable answer of a row: `answer` or `ground_truth`, or what a `solution` puts into its last \boxed{}.

    Of a worked answer it is the end: what follows #### (GSM8K), or the last box.

    Raises:
        ValueError: it is neither a text nor a number.
    """
    for name in ("answer", "ground_truth", "solution"):
        found = row.get(name)
        if isinstance(found, int | float) and not isinstance(found, bool):
            return str(found)
        if found is not None and not isinstance(found, str):
            raise ValueError(f"no text: `{name}` is {type(found).__name__}")
        if found is not None:
            end = _end_of(_whole(f"`{name}`", found))
            return found if end is None and name != "solution" else end
    return None


def compared(row: Any) -> tuple[tuple[Message, ...], str, str]:
    """(what is asked, the chosen answer, the rejected one) of a row.

    Where the sides are conversations, what both begin with is asked; a prompt beside them must be of that.

    Raises:
        ValueError: it is no pair, the answers are the same, or they are more than one message each.
    """
    found = _object(row)
    if missing := [name for name in ("chosen", "rejected") if found.get(name) is None]:
        raise ValueError(f"no pair: there is no `{missing[0]}`")
    prompt = _prompt(found, needed=False)
    sides = [_side(found, name, prompt) for name in ("chosen", "rejected")]
    shared = next((n for n, (one, two) in enumerate(zip(*sides, strict=False)) if one != two), min(map(len, sides)))
    begin, rests = tuple(sides[0][:shared]), [side[shared:] for side in sides]
    if not any(rests):
        raise ValueError("the chosen and the rejected answer are the same")
    answers = [rest[0].content for rest in rests if len(rest) == 1 and rest[0].role == "assistant"]
    if len(answers) != 2 or any(message.tool_calls for rest in rests for message in rest):
        raise ValueError(
            "no two answers: after what they share, each side has to be one message of the assistant's text"
        )
    longer, shorter = max(begin, prompt, key=len), min(prompt, begin, key=len)
    if not (_ends_with(longer, shorter) or any(_ends_with(begin[:n], prompt) for n in (1, 2))):
        raise ValueError("two prompts: what both sides begin with is not what `prompt` says")
    if longer and longer[-1].role == "assistant":
        raise ValueError("a begun answer: the prompt ends with the assistant's words")
    return _of_a_user(found, longer), answers[0], answers[1]


def _ends_with(messages: Sequence[Message], end: Sequence[Message]) -> bool:
    """But for white space around what is said."""
    pairs = zip(messages[len(messages) - len(end) :], end, strict=False)
    return len(end) <= len(messages) and all(
        (one.role, one.content.strip()) == (two.role, two.content.strip()) for one, two in pairs
    )


def _object(row: Any) -> dict[str, Any]:
    """A row without what is null."""
    if not isinstance(row, dict):
        raise ValueError(f"no object: it is {type(row).__name__}")
    return {key: value for key, value in row.items() if value is not None}


def _list_of(row: dict[str, Any]) -> str | None:
    """`messages` go before all else."""
    return next((name for name in _LISTS if isinstance(row.get(name), list)), None)


def _one_of(row: dict[str, Any], names: Sequence[str]) -> str | None:
    there = [name for name in names if name in row]
    if len(there) > 1:
        raise ValueError(f"two readings: there is {' and '.join(there)}; write the conversation as messages")
    return there[0] if there else None


def _prompt(row: dict[str, Any], *, needed: bool = True) -> tuple[Message, ...]:
    name = _one_of(row, _ASKS)
    listed = _list_of(row)
    if listed is not None and (needed or (name is None and listed != "messages")):
        read = _messages(row[listed])
    elif name is not None:
        read = _ask(row, name)
    elif needed:
        raise ValueError(f"no prompt: there is {', '.join(map(str, row)) or 'nothing'}")
    else:
        read = []
    messages = tuple(message for message, _ in read)
    return (*(message for message, _ in _system(row, messages)), *messages)


def _ask(row: dict[str, Any], name: str) -> list[tuple[Message, bool]]:
    """Earlier questions and answers under `history`, the ask, and what belongs to it."""
    given = row[name]
    more = [row[other] for other in _MORE if row.get(other)]
    if more and (name != "instruction" or len(more) > 1 or not isinstance(given, str) or not isinstance(more[0], str)):
        raise ValueError(f"two readings: what belongs to {name} may stand in {', '.join(_MORE)}; write messages")
    before = row.get("history") or []
    if not isinstance(before, list) or not all(isinstance(turn, list) and len(turn) == 2 for turn in before):
        raise ValueError("malformed message: `history` is no list of [question, answer]")
    earlier = [
        {"role": role, "content": text}
        for turn in before
        for role, text in zip(("user", "assistant"), turn, strict=True)
    ]
    if isinstance(given, str) and given.startswith("\n\nHuman:"):
        return [*_messages(earlier), *_messages(_turns(given.removesuffix(" ").removesuffix("\n\nAssistant:")))]
    return [*_messages(earlier), *_messages(given if not more else f"{given}\n\n{more[0]}", "user")]


def _side(row: dict[str, Any], name: str, prompt: Sequence[Message]) -> list[Message]:
    """A side as messages: with the prompt before them, or without."""
    given = row[name]
    if isinstance(given, str):
        if given.startswith("\n\nHuman:"):
            return [message for message, _ in _messages(_turns(given), empty=True)]
        if not prompt:
            raise ValueError(f"no prompt: `{name}` is a text, and nothing says what it answers")
        begun = isinstance(row.get("prompt"), str) and row["prompt"].startswith("\n\nHuman:")
        return [Message(role="assistant", content=given.strip() if begun else given)]
    if not isinstance(given, list | dict):
        raise ValueError(f"no answer: `{name}` is neither a text nor messages")
    return [message for message, _ in _messages(given, empty=True)]


def _turns(text: str) -> list[dict[str, Any]]:
    """A text of HH-RLHF, which begins with a human's turn."""
    parts = _TURN.split(text)[1:]
    return [{"role": {"Human": "user", "Assistant": "assistant"}[who], "content": said.strip()}
            for who, said in zip(parts[::2], parts[1::2], strict=True)]  # fmt: skip


def _of_a_user(row: dict[str, Any], prompt: tuple[Message, ...]) -> tuple[Message, ...]:
    if _tools(row):
        raise ValueError("tools: prompts and pairs have no place for declarations of tools")
    if not any(message.content.strip() for message in prompt if message.role == "user"):
        raise ValueError("the prompt has no message of a user")
    return prompt


def _end_of(text: str) -> str | None:
    if _FINAL in text:
        return text.rpartition(_FINAL)[2].strip() or None
    _, boxed, rest = text.rpartition(_BOXED)
    depth = 1
    for place, sign in enumerate(rest if boxed else ""):
        depth += (sign == "{") - (sign == "}")
        if not depth:
            return rest[:place].strip() or None
    return None


def _system(row: dict[str, Any], messages: Sequence[Message]) -> list[tuple[Message, bool]]:
    """The message of the system that stands beside the conversation."""
    name = _one_of(row, _SYSTEMS)
    text = row[name] if name else ""
    if not isinstance(text, str):
        raise ValueError(f"no text: `{name}` is {type(text).__name__}")
    first = messages[0].content if messages and messages[0].role == "system" else None
    if not text.strip() or text == first:
        return []
    if first is not None:
        raise ValueError(f"two readings: `{name}` says another thing than the first message")
    return [(Message(role="system", content=_whole(f"`{name}`", text)), False)]


def _messages(given: Any, role: Role | None = None, *, empty: bool = False) -> list[tuple[Message, bool]]:
    """(message, whether it is to be learnt) of messages, or of a text of `role`. A system that says nothing is none."""
    if role is not None and isinstance(given, str):
        given = {"role": role, "content": given}
    if isinstance(given, dict):
        given = [given]
    if not isinstance(given, list):
        raise ValueError(f"no text: where a text or messages were looked for, there is {type(given).__name__}")
    read = [_message(number, each, empty) for number, each in enumerate(given, start=1)]
    return [(message, taught) for message, taught in read if message.role != "system" or message.content.strip()]


def _message(number: int, given: Any, empty: bool) -> tuple[Message, bool]:
    if not isinstance(given, dict):
        raise ValueError(f"malformed message: message {number} is no object")
    found = {_RENAMED.get(key, key): value for key, value in given.items() if value is not None and value != []}
    name = found.get("role")
    role = _ROLES.get(name.lower()) if isinstance(name, str) else None
    if role is None:
        raise ValueError(
            f"unknown role: message {number} is of {name!r:.60}, roles are system, user, assistant and tool"
        )
    if unknown := sorted(str(key) for key in set(found) - _KEYS):
        raise ValueError(f"unknown key: message {number} has {', '.join(unknown)!r:.60}")
    content, calls = found.get("content"), found.get("tool_calls", ())
    if name == "function_call":
        content, calls = "", [content]
    elif "function_call" in found:
        calls = [*calls, found["function_call"]]
    if not isinstance(calls, list | tuple):
        raise ValueError(f"malformed call: the calls of message {number} are no list")
    asks = tuple(call for each in calls for call in _calls(number, each))
    text = "" if content is None and (asks or role == "tool") else _content(number, content)
    if not text.strip() and not asks and role not in ("tool", "system") and not (empty and role == "assistant"):
        raise ValueError(f"empty message: message {number} says nothing")
    weight = found.get("weight", 1)
    if role == "assistant" and weight not in (0, 1):
        raise ValueError(f"malformed message: message {number} has the weight {weight!r:.20}, and weights are 0 or 1")
    try:
        return Message(role=role, content=text, tool_calls=asks), role == "assistant" and bool(weight)
    except ValidationError as wrong:
        raise ValueError(f"malformed message: message {number}: {wrong.errors()[0]['msg']}") from wrong


def _content(number: int, content: Any) -> str:
    """A text, or texts in parts, one after another."""
    texts: list[str] = []
    for part in content if isinstance(content, list) else [content]:
        text = part.get("text") if isinstance(part, dict) and part.get("type") == "text" else part
        if not isinstance(text, str):
            kind = part.get("type") if isinstance(part, dict) else type(part).__name__
            raise ValueError(f"no text: the content of message {number} is {kind!s:.60}")
        texts.append(text)
    return _whole(f"message {number}", "".join(texts))


def _calls(number: int, given: Any) -> list[ToolCall]:
    """OpenAI's {"function": {"name": ..., "arguments": JSON text}}, or name and arguments alone; or those as JSON."""
    given = _read(given)
    if isinstance(given, list):
        return [call for each in given for call in _calls(number, each)]
    called = given.get("function", given) if isinstance(given, dict) else None
    arguments = _read(called.get("arguments") or {}) if isinstance(called, dict) else None
    if not isinstance(called, dict) or not isinstance(arguments, dict) or not isinstance(called.get("name"), str):
        raise ValueError(f"malformed call: message {number} calls a tool without a name or an object of arguments")
    return [ToolCall(name=called["name"], arguments=arguments)]


def _tools(row: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    """Declarations; `functions` are OpenAI's older ones. Parquet has no place for objects of any shape: then JSON."""
    declared, older = (_read(row.get(name) or []) for name in ("tools", "functions"))
    if not all(
        isinstance(found, list) and all(isinstance(tool, dict) for tool in found) for found in (declared, older)
    ):
        raise ValueError("malformed tools: they are no list of objects")
    return (*declared, *({"type": "function", "function": each} for each in older))


def _read(given: Any) -> Any:
    """What a text says in JSON, None where it says nothing; or what is no text, as it is."""
    try:
        found = json.loads(given) if isinstance(given, str) else given
        _whole("a call or a tool", json.dumps(found, ensure_ascii=False))
    except (json.JSONDecodeError, RecursionError):
        return None
    return found


def _whole(what: str, text: str) -> str:
    """JSON can spell half a surrogate pair, which is no text: what was meant is lost."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"broken unicode: {what} holds half a surrogate pair") from None
    return text
