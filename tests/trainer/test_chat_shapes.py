"""Chats, prompts and pairs as data sets in the wild write them: read where they say one thing, refused where two."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.dialogues import Dialogues, Skipped, conversations
from trainer.errors import CorpusError
from trainer.preference.judges import Case
from trainer.preference.rows import Pair, PreferenceError, read_cases, read_pairs
from trainer.readers.chats import asked, chat, compared, expected
from trainer.rewards.competition import Competition
from trainer.tokenizer import END_OF_TEXT, train_tokenizer

_TOKENIZER = train_tokenizer(["Hello there, user. I am the assistant of the tool and the system.\n" * 20], 300)
_Q, _A, _B = (
    {"role": role, "content": text} for role, text in (("user", "2+3?"), ("assistant", "5"), ("assistant", "6"))
)
_CALL = {"name": "add", "arguments": {"a": 1}}
_SHAREGPT = [{"from": "human", "value": "2+3?"}, {"from": "gpt", "value": "5"}]

_CHATS: dict[str, tuple[dict[str, Any], str]] = {
    "messages": ({"messages": [_Q, _A], "prompt": "not read"}, "u:2+3? A:5"),
    "a developer": ({"messages": [{"role": "developer", "content": "Be brief"}, _Q, _A]}, "s:Be brief u:2+3? A:5"),
    "parts": (
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "2+"}, {"type": "text", "text": "3?"}]},
                _A,
            ]
        },
        "u:2+3? A:5",
    ),
    "nulls": (
        {"messages": [_Q | {"name": None, "refusal": None}, _A | {"annotations": [], "audio": None}]},
        "u:2+3? A:5",
    ),
    "weights": ({"messages": [_Q, _B | {"weight": 0}, _Q, _A | {"weight": 1}]}, "u:2+3? a:6 u:2+3? A:5"),
    "weights of SlimOrca": (
        {"conversations": [{**_SHAREGPT[0], "weight": 0.0}, {**_SHAREGPT[1], "weight": 1.0}]},
        "u:2+3? A:5",
    ),
    "calls": (
        {"messages": [_Q, {"role": "assistant", "content": None, "tool_calls": [{"function": _CALL}]}]},
        'u:2+3? A:+add{"a": 1}',
    ),
    "the older calls": (
        {
            "messages": [
                _Q,
                {"role": "assistant", "content": None, "function_call": {"name": "add", "arguments": '{"a": 1}'}},
                {"role": "function", "name": "add", "content": "5"},
                _A,
            ],
            "functions": [{"name": "add"}],
        },
        'u:2+3? A:+add{"a": 1} t:5 A:5 1 tool',
    ),
    "ShareGPT": ({"conversations": [{"from": "system", "value": ""}, *_SHAREGPT], "id": "x_0"}, "u:2+3? A:5"),
    "ShareGPT's tools": (
        {
            "conversations": [
                _SHAREGPT[0],
                {"from": "function_call", "value": json.dumps(_CALL)},
                {"from": "observation", "value": "5"},
                {"from": "gpt", "value": "5"},
            ],
            "system": "Be brief",
            "tools": json.dumps([{"type": "function"}]),
        },
        's:Be brief u:2+3? A:+add{"a": 1} t:5 A:5 1 tool',
    ),
    "TRL, texts": ({"prompt": "2+3?", "completion": "5"}, "u:2+3? A:5"),
    "TRL, messages": ({"prompt": [_Q, _B, _Q], "completion": [_A]}, "u:2+3? a:6 u:2+3? A:5"),
    "Alpaca": ({"instruction": "Add", "input": "2 3", "output": "5", "text": "Below is"}, "u:Add\n\n2 3 A:5"),
    "Alpaca without input": ({"instruction": "2+3?", "input": "", "output": "5"}, "u:2+3? A:5"),
    "Alpaca with history": (
        {"instruction": "2+3?", "output": "5", "history": [["Hi", "Yes?"]]},
        "u:Hi a:Yes? u:2+3? A:5",
    ),
    "Dolly": ({"instruction": "Add", "context": "2 3", "response": "5", "category": "qa"}, "u:Add\n\n2 3 A:5"),
    "OpenOrca": ({"system_prompt": "Be brief", "question": "2+3?", "response": "5"}, "s:Be brief u:2+3? A:5"),
    "GSM8K": ({"question": "2+3?", "answer": "2+3=<<2+3=5>>5\n#### 5"}, "u:2+3? A:2+3=<<2+3=5>>5\n#### 5"),
}


def _shown(row: dict[str, Any]) -> str:
    """Roles by their letter, a capital where it is learnt."""
    found = chat(row)
    said = []
    for message, taught in zip(found.messages, found.taught, strict=True):
        calls = "".join(f"+{call.name}{json.dumps(call.arguments)}" for call in message.tool_calls)
        said.append(f"{message.role[0].upper() if taught else message.role[0]}:{message.content}{calls}")
    return " ".join([*said, *([f"{len(found.tools)} tool"] if found.tools else [])])


@pytest.mark.parametrize("name", _CHATS)
def test_conversations_of_every_shape(name: str) -> None:
    row, shown = _CHATS[name]
    assert _shown(row) == shown


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"question": "a", "answer": "b", "solution": "c"}, "two readings: there is answer and solution"),
        ({"prompt": "a", "instruction": "b", "output": "c"}, "two readings: there is prompt and instruction"),
        ({"question": "a", "context": "b", "answer": "c"}, "two readings: what belongs to question"),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "pairs of answers are for the stage `preference`"),
        ({"text": "a"}, "there is text; plain text is for a corpus"),
        ({"messages": [_Q, _A | {"weight": 0}]}, "each has the weight 0"),
        ({"messages": [_Q, _A | {"weight": 0.5}]}, "weights are 0 or 1"),
        ({"messages": [_Q, _A | {"reasoning_content": "hm"}]}, "unknown key: message 2 has 'reasoning_content'"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, _A]}, "is image_url"),
        ({"messages": [{"role": "system", "content": "a"}, _Q, _A], "system": "b"}, "two readings: `system`"),
        ({"messages": json.dumps([_Q, _A])}, "no conversation: there is messages"),
        ({"conversations": ["Hi", "Yes?"]}, "message 1 is no object"),
        ({"conversations": [{"from": ["human"], "value": "a"}]}, "unknown role"),
        ({"instruction": "a", "output": "b", "history": ["Hi"]}, "`history` is no list of"),
        ({"instruction": "a", "output": "b", "history": 3}, "`history` is no list of"),
        ({"prompt": 3, "completion": "b"}, "there is int"),
        ({"prompt": "a", "completion": [_A | {"tool_calls": [{"function": {"name": "f", "arguments": '"\\ud800"'}}]}]},
         "broken unicode"),
        ({"prompt": "a", "completion": "b", "tools": '[{"a": "\\ud800"}]'}, "broken unicode"),
        ({"prompt": "a", "completion": "b", "tools": "{"}, "malformed tools"),
    ],
)  # fmt: skip
def test_what_says_two_things_or_nothing_is_refused(row: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        chat(row)


_NAMES = (
    "messages conversations prompt instruction question input completion output answer solution system chosen rejected"
    " history tools role content from value tool_calls function_call weight type text function name arguments"
)
_KEY = st.sampled_from(_NAMES.split())
_LEAF = st.sampled_from(
    (None, "", "a", "user", "gpt", "text", 0, 1.5, True, "[{}]", "\n\nHuman: a", "\ud800", "\\boxed{")
)
_ANY = st.recursive(
    _LEAF, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEY, inner, max_size=4), max_leaves=12
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(_KEY, _ANY, max_size=5))
def test_whatever_a_row_is_it_is_read_or_refused_in_words(row: dict[str, Any]) -> None:
    found: list[Any] = []
    for read in (chat, asked, compared, expected):
        with suppress(ValueError):
            found.append(read(row))
    for text in (each for each in found if isinstance(each, str)):
        text.encode()


def test_an_answer_of_no_weight_is_read_and_not_learnt(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(
        json.dumps({"messages": [_Q, _B | {"weight": 0}, _Q, _A, _Q, _B]})
        + "\n" + json.dumps({"prompt": [_Q, _B, _Q], "completion": [_A]})
    )  # fmt: skip
    first, second = Dialogues.open(tmp_path / "rows.jsonl", _TOKENIZER).encoded

    def learnt(encoded: Any) -> str:
        return str(_TOKENIZER.decode(encoded.tokens[encoded.said].tolist(), skip_special_tokens=False))

    (row, other) = conversations([tmp_path / "rows.jsonl"], Skipped())
    assert (row.answer.count("6"), row.prompt.count("6")) == (1, 1)  # what a conversation asks ends where one learns
    assert other.answer == "5"
    assert learnt(first) == f"5{END_OF_TEXT}6{END_OF_TEXT}"
    assert learnt(second) == f"5{END_OF_TEXT}"
    assert "6" in _TOKENIZER.decode(second.tokens.tolist())


_HH = "\n\nHuman: Hi\n\nAssistant: Yes?\n\nHuman: 2+3?\n\nAssistant: "
_BEFORE = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}, _Q]
_SYSTEM = {"role": "system", "content": "Be brief"}
_PAIRS: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "texts": ({"prompt": "2+3?", "chosen": "5", "rejected": "6"}, [_Q]),
    "messages": ({"prompt": [_SYSTEM, _Q], "chosen": [_A], "rejected": [_B]}, [_SYSTEM, _Q]),
    "an implicit prompt": ({"chosen": [*_BEFORE, _A], "rejected": [*_BEFORE, _B]}, _BEFORE),
    "UltraFeedback": (
        {"prompt": "2+3?", "chosen": [_Q, _A], "rejected": [_Q, _B], "messages": [_Q, _A], "score_chosen": 8.0},
        [_Q],
    ),
    "the prompt twice": ({"prompt": _BEFORE, "chosen": [*_BEFORE, _A], "rejected": [*_BEFORE, _B]}, _BEFORE),
    "a prompt without its system": (
        {"prompt": "2+3?", "chosen": [_SYSTEM, _Q, _A], "rejected": [_SYSTEM, _Q, _B]},
        [_SYSTEM, _Q],
    ),
    "the first of several prompts": (
        {"prompt": "Hi ", "chosen": [_SYSTEM, *_BEFORE, _A], "rejected": [_SYSTEM, *_BEFORE, _B]},
        [_SYSTEM, *_BEFORE],
    ),
    "HH": ({"chosen": f"{_HH}5", "rejected": f"{_HH}6"}, _BEFORE),
    "HH with its prompt": ({"prompt": _HH[:-1], "chosen": " 5", "rejected": " 6"}, _BEFORE),
    "Orca": ({"system": "Be brief", "question": "2+3?", "chosen": "5", "rejected": "6"}, [_SYSTEM, _Q]),
    "ShareGPT": (
        {"conversations": _SHAREGPT[:1], "chosen": _SHAREGPT[1], "rejected": {"from": "gpt", "value": "6"}},
        [_Q],
    ),
}


@pytest.mark.parametrize("name", _PAIRS)
def test_pairs_of_every_shape(name: str) -> None:
    row, prompt = _PAIRS[name]
    found, chosen, rejected = compared(row)
    assert [message.model_dump(include={"role", "content"}) for message in found] == prompt
    assert (chosen, rejected) == ("5", "6")


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"prompt": "a", "completion": "b", "label": True}, "no pair: there is no `chosen`"),
        ({"chosen": "a", "rejected": "b"}, "nothing says what it answers"),
        ({"chosen": [_Q, _A], "rejected": [_Q, _A]}, "are the same"),
        ({"chosen": [_Q, _A], "rejected": [_Q, _A, _Q, _B]}, "no two answers"),
        ({"chosen": [_Q, _A, _Q, _A], "rejected": [_Q, _B, _Q, _A]}, "no two answers"),
        ({"chosen": [_A], "rejected": [_B]}, "no message of a user"),
        ({"prompt": "other", "chosen": [_Q, _A], "rejected": [_Q, _B]}, "two prompts"),
        ({"prompt": "2+3?", "chosen": [*_BEFORE[:2], _A], "rejected": [*_BEFORE[:2], _B]}, "two prompts"),
        ({"prompt": _BEFORE, "chosen": [_BEFORE[0], _A], "rejected": [_BEFORE[0], _B]}, "two prompts"),
        ({"prompt": [_Q, _A], "chosen": "b", "rejected": "c"}, "a begun answer"),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "tools": [{}]}, "no place for declarations of tools"),
        ({"prompt": "a", "chosen": 1, "rejected": "c"}, "`chosen` is neither"),
    ],
)  # fmt: skip
def test_what_is_no_pair_is_refused(row: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        compared(row)


def test_prompts_have_the_answer_that_can_be_verified() -> None:
    found: dict[str | None, dict[str, Any]] = {
        "5": {"prompt": "a", "answer": "5"},
        "12": {"prompt": "a", "answer": 12},
        "1,000": {"question": "a", "answer": "So <<10*100=1000>>1000.\n#### 1,000"},
        r"\frac{1}{2}": {"problem": "a", "solution": r"First $\boxed{3}$, then $\boxed{\frac{1}{2}}$."},
        None: {"problem": "a", "solution": "It is clear."},
    }
    assert {key: expected(row) for key, row in found.items()} == {key: key for key in found}
    assert all(asked(row)[-1].content == "a" for row in found.values())
    with pytest.raises(ValueError, match="`answer` is list"):
        expected({"answer": ["5"]})
    with pytest.raises(ValueError, match="no prompt: there is text"):
        asked({"text": "a"})


def test_competition_problems_are_read_as_gsm8k_and_math_have_them(tmp_path: Path) -> None:
    rows = [
        {"question": "2+3?", "answer": "2+3=<<2+3=5>>5\n#### 5"},
        {"problem": "2+3?", "solution": r"It is $\boxed{5}$.", "level": "Level 1"},
        {"problem": "2+3?", "answer": 5},
    ]
    for number, row in enumerate(rows):
        path = tmp_path / f"{number}.jsonl"
        path.write_text(json.dumps(row))
        problem = Competition(files=(path,)).problem(str(number), 0)
        assert (problem.prompt, problem.answer) == ("2+3?", "5")


def test_pairs_and_prompts_come_from_parquet_too(tmp_path: Path) -> None:
    rows = [{"prompt": "2+3?", "chosen": [_Q, _A], "rejected": [_Q, _B], "answer": None},
            {"prompt": "3+3?", "chosen": None, "rejected": None, "answer": "6"}]  # fmt: skip
    path = tmp_path / "rows"  # what was uploaded has no name
    pq.write_table(pa.Table.from_pylist(rows[:1]), path)
    (pair,) = read_pairs(path)
    assert pair == Pair(pair.prompt, "5", "6")
    assert read_cases(path) == [Case(pair.prompt)]
    pq.write_table(pa.Table.from_pylist(rows), path)
    with pytest.raises(PreferenceError, match="row 2: no pair"):
        read_pairs(path)
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(PreferenceError, match="not a readable Parquet file"):
        read_pairs(path)
    with pytest.raises(PreferenceError, match="cannot be read"):
        read_pairs(tmp_path / "none")


def test_a_long_row_of_a_table_is_refused_as_one_of_lines_is(tmp_path: Path) -> None:
    path = tmp_path / "chats.parquet"
    pq.write_table(
        pa.Table.from_pylist([{"prompt": text, "completion": "there"} for text in ("Hi", "x" * 10_000_000)]), path
    )
    with pytest.raises(CorpusError, match=r"row 2: a row is longer than 4 MiB: it has 9\.5"):
        Dialogues.open(path, _TOKENIZER)
    assert len(Dialogues.open(path, _TOKENIZER, on_bad="skip")) == 1
