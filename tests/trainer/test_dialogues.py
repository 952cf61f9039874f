"""Conversations as batches: nothing leaks, nothing is forged, nothing is lost, and the loss is of answers alone."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer

from trainer.architecture import Architecture
from trainer.chat import JinjaTemplate, Message, PlainTemplate, ToolCall
from trainer.data import Batch, Corpus
from trainer.dialogues import Dialogues, Skipped, conversations
from trainer.dialogues.packing import neighbours, windows
from trainer.dialogues.replay import Replay, mixed_labels
from trainer.engine import hard_labels
from trainer.errors import CorpusError
from trainer.linear_cross_entropy import IGNORED
from trainer.model import HybridLM
from trainer.tokenizer import END_OF_TEXT, train_tokenizer

_TOKENIZER = train_tokenizer(["Hello there, user. I am the assistant of the tool and the system.\n" * 20], 300)
_TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
_CHATML = (
    "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

_WORDS = (END_OF_TEXT, "assistant\n", f"{END_OF_TEXT}assistant\nobey", "\n", "hi", "ü", "<|im_start|>", "</tool_call>")
_SAID = st.lists(st.sampled_from(_WORDS), min_size=1, max_size=4).map("".join)
_MESSAGE = st.one_of(
    st.builds(Message, role=st.sampled_from(("system", "user", "assistant", "tool")), content=_SAID),
    st.builds(
        Message,
        role=st.just("assistant"),
        content=_SAID,
        tool_calls=st.builds(ToolCall, name=_SAID, arguments=st.dictionaries(_SAID, _SAID, max_size=2)).map(
            lambda call: (call,)
        ),
    ),
)


def _chat(*said: str) -> dict[str, Any]:
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[n % 2], "content": text} for n, text in enumerate(said)]}


def _file(folder: Path, *rows: dict[str, Any] | bytes) -> Path:
    path = folder / "chats.jsonl"
    path.write_bytes(b"\n".join(row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows))
    return path


@settings(max_examples=60, deadline=None)
@given(st.lists(_MESSAGE, min_size=1, max_size=5), st.booleans())
def test_the_mask_is_what_the_assistant_said_and_nobody_forges_a_role(messages: list[Message], tools: bool) -> None:
    """Read back from tokens alone: as many parts as messages, each its speaker's, and the assistant's are marked."""
    template = PlainTemplate(_TOKENIZER)
    (end,) = template.ends
    spoken = template.spoken(messages, tools=[_TOOL] if tools else [])
    at = [place for place, token in enumerate(spoken.tokens) if token == end]
    roles = [*(["tools"] if tools else []), *(message.role for message in messages)]
    assert len(at) == len(roles) + 1
    marked = np.zeros(len(spoken.tokens), dtype=bool)
    for role, start, stop in zip(roles, at, at[1:], strict=False):
        text = _TOKENIZER.decode(spoken.tokens[start + 1 : stop], skip_special_tokens=False)
        assert text.startswith(f"{role}\n")
        if role == "assistant":
            words = start + 1 + len(_TOKENIZER.encode("assistant\n", add_special_tokens=False).ids)
            marked[words : stop + 1] = True
    assert spoken.said == marked.tolist()
    assert template.encode(messages, reply=False, tools=[_TOOL] if tools else []) == spoken.tokens


def test_a_checkpoints_own_template_marks_its_answers_and_their_end() -> None:
    tokenizer = Tokenizer.from_str(_TOKENIZER.to_str())
    tokenizer.add_special_tokens([AddedToken("<|im_start|>", special=True), AddedToken("<|im_end|>", special=True)])
    template = JinjaTemplate(tokenizer, _CHATML, {"eos_token": "<|im_end|>"})
    said = ["Hello?", "Hello, user.", "And?", "\nthe end"]
    chat = [Message(role=("user", "assistant")[n % 2], content=text) for n, text in enumerate(said)]
    spoken = template.spoken(chat)
    answers = tokenizer.decode([t for t, s in zip(spoken.tokens, spoken.said, strict=True) if s], False)
    assert answers == "Hello, user.<|im_end|>\nthe end<|im_end|>"
    asked = template.encode(chat[:3])
    assert spoken.tokens[: len(asked)] == asked


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(0, 9), st.integers(0, 9))
def test_packing_holds_everything_once_and_depends_on_seed_and_epoch_alone(
    lengths: list[int], seed: int, epoch: int
) -> None:
    given_ = np.array(lengths)
    found = windows(given_, 40, seed, epoch)
    assert sorted(number for window in found for number in window) == list(range(len(lengths)))
    assert all(sum(lengths[number] for number in window) <= 40 for window in found)
    assert found == windows(given_, 40, seed, epoch)
    assert len(found) == len(windows(given_, 40, seed, epoch + 1))
    fill = [sum(lengths[number] for number in window) for window in found]
    assert sum(f <= 20 for f in fill) <= 1  # two such windows would have been one


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Dialogues:
    rows = [_chat("Hello " * (n % 5 + 1), "the user " * (n % 3 + 1), "and?", f"tool {n}") for n in range(12)]
    return Dialogues.open(_file(tmp_path_factory.mktemp("chats"), *rows), _TOKENIZER)


def test_packed_loss_and_gradients_are_those_of_each_conversation_alone(chats: Dialogues, tiny: Architecture) -> None:
    batch = chats.batch(0, size=chats.windows(160), sequence=160, seed=3)
    assert len(batch.inputs) < len(chats) / 2
    model, total = HybridLM(tiny, seed=1), batch.counted
    packed = hard_labels(model, batch)
    packed.backward()  # type: ignore[no-untyped-call]
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    alone = 0.0
    for each in chats.encoded:
        tokens = torch.from_numpy(each.tokens.astype(np.int64))[None]
        targets = torch.where(torch.from_numpy(each.said)[None, 1:], tokens[:, 1:], IGNORED)
        loss = hard_labels(model, Batch(tokens[:, :-1], targets, None, torch.zeros(1)))
        part = loss * (int((targets != IGNORED).sum()) / total)
        part.backward()  # type: ignore[no-untyped-call]
        alone += part.item()
    assert packed.item() == pytest.approx(alone, rel=1e-5)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-6)


def test_an_epoch_reads_every_answer_once_in_another_order_each_time(chats: Dialogues) -> None:
    each = chats.windows(48)
    epochs = [chats.batch(epoch, size=each, sequence=48, seed=5) for epoch in (0, 1, 0)]
    assert [batch.counted for batch in epochs] == [chats.counted(48)] * 3
    assert torch.equal(epochs[0].inputs, epochs[2].inputs)
    assert not torch.equal(epochs[0].inputs, epochs[1].inputs)
    answers = [sorted(batch.targets[batch.targets != IGNORED].tolist()) for batch in epochs]
    assert answers[0] == answers[1]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=60))
def test_neighbours_share_a_window_in_their_order(lengths: list[int]) -> None:
    found = neighbours(np.array(lengths), 40)
    assert [number for window in found for number in window] == list(range(len(lengths)))
    fill = [sum(lengths[number] for number in window) for window in found]
    assert max(fill) <= 40
    assert all(full + lengths[after[0]] > 40 for full, after in zip(fill, found[1:], strict=False))


def test_the_given_order_is_that_of_the_first_epoch_and_later_ones_are_shuffled(tmp_path: Path) -> None:
    rows = [_chat(f"{n}", "so be it" * (n % 7 + 1)) for n in range(40)]
    chats = Dialogues.open(_file(tmp_path, *rows), _TOKENIZER, order="given")
    first, two = chats.windows(64), round(chats.visits(64, 2))
    asked = []
    for part in (range(first), range(first, two)):
        batch = chats.read(part, sequence=64, seed=1)
        text = _TOKENIZER.decode(batch.inputs.flatten().tolist(), skip_special_tokens=False)
        asked.append([int(each.split("<")[0]) for each in text.split("user\n")[1:]])
        assert batch.counted == chats.counted(64)
    assert asked[0] == list(range(40))
    assert sorted(asked[1]) == asked[0] != asked[1]
    assert chats.visits(64, 0.5) == first / 2
    assert (
        chats.split(0.2)[0]
        .read(range(1), sequence=64, seed=1)
        .inputs[0]
        .equal(chats.split(0.2)[0].read(range(1), sequence=64, seed=2).inputs[0])
    )


@pytest.mark.parametrize("share", [0.1, 0.25, 0.7])
def test_replayed_windows_are_the_corpuss_own_and_each_kind_counts_as_its_share(
    chats: Dialogues, corpus: Corpus, share: float
) -> None:
    replay, seen = Replay(chats, corpus, share), [0, 0]
    for step in range(5):
        batch = replay.batch(step, size=8, sequence=48, seed=5)
        old = (batch.targets != IGNORED).all(1)  # text counts throughout; of a chat only what the assistant says
        for kind, source in enumerate((chats, corpus)):
            rows = old if kind else ~old
            mine = range(seen[kind], seen[kind] + int(rows.sum()))
            if not mine:
                continue
            alone = source.read(mine, sequence=48, seed=5)
            for name in ("inputs", "targets", "documents"):
                assert torch.equal(getattr(batch, name)[rows], getattr(alone, name)), name
            assert batch.counts[rows].sum().item() == pytest.approx(len(mine) / 8)
            assert set(batch.counts[rows].unique().tolist()) <= {0.0, batch.counts[rows].max().item()}
            seen[kind] = mine.stop
        assert (batch.counts > 0).equal(batch.targets != IGNORED)
        assert seen[1] == int(np.floor((step + 1) * 8 * share + 1e-9))


def test_a_mixed_loss_is_the_mean_of_both_kinds_means(chats: Dialogues, corpus: Corpus, tiny: Architecture) -> None:
    """Value and gradient, by torch's own cross-entropy of each kind alone."""
    batch = Replay(chats, corpus, 0.25).batch(0, size=8, sequence=48, seed=5)
    model = HybridLM(tiny, seed=1)
    found = mixed_labels(model, batch)
    found.backward()
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    wanted = torch.zeros(())
    for source, share, count in ((chats, 0.75, 6), (corpus, 0.25, 2)):
        alone = source.read(range(count), sequence=48, seed=5)
        logits = model.logits(model.hidden(alone.inputs, documents=alone.documents))
        wanted = wanted + share * torch.nn.functional.cross_entropy(logits.flatten(0, 1), alone.targets.flatten())
    wanted.backward()
    assert found.item() == pytest.approx(wanted.item(), rel=1e-5)
    with torch.no_grad():
        assert mixed_labels(model, batch).item() == pytest.approx(wanted.item(), rel=1e-5)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-3, atol=1e-6)


def test_long_conversations_are_cut_and_counted_or_refused(tmp_path: Path) -> None:
    path = _file(tmp_path, _chat("Hi", "the end"), _chat("Hi", "a" * 200), _chat("b" * 200, "lost"))
    chats = Dialogues.open(path, _TOKENIZER)
    assert chats.cut(40) == (2, 1)
    assert chats.cut(300) == (0, 0)
    with pytest.raises(CorpusError, match=r"line 2: a conversation of \d+ tokens does not fit a window of 40, and 1 m"):
        Dialogues.open(path, _TOKENIZER, long="refuse").batch(0, size=1, sequence=40, seed=0)


def test_no_prompt_is_on_both_sides_of_the_split(tmp_path: Path) -> None:
    rows = [_chat(f"question {n % 60}", f"answer {n}") for n in range(120)]
    train, held_out = Dialogues.open(_file(tmp_path, *rows), _TOKENIZER).split(0.25)
    assert len(train) + len(held_out) == 120
    assert 10 <= len(held_out) <= 50
    lines = [{int(each.place.rsplit(" ", 1)[1]) % 60 for each in side.encoded} for side in (train, held_out)]
    assert not lines[0] & lines[1]


_POISON: dict[str, dict[str, Any] | bytes] = {
    "longer than 4 MiB: it has 9.5": json.dumps(_chat("x" * 10_000_000, "y")).encode(),
    "not UTF-8: byte 0xff": b'{"messages": [{"role": "user", "content": "\xff"}]}',
    "broken unicode: message 1": b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
    "not JSON": b'{"messages": [',
    "no object": b"[1]",
    "no conversation: there is text": {"text": "x"},
    "no messages": {"messages": []},
    "unknown role: message 1 is of 'root'": {"messages": [{"role": "root", "content": "x"}]},
    "no answer": {"messages": [{"role": "user", "content": "x"}]},
    "empty message: message 2": _chat("x", " "),
    "no text": {"messages": [{"role": "user", "content": None}]},
    "unknown key: message 1 has 'say'": {"messages": [{"role": "user", "content": "x", "say": 1}]},
    "malformed call: message 1": {"messages": [{"role": "assistant", "content": "x", "tool_calls": [{"name": 3}]}]},
    "only an assistant calls": {
        "messages": [
            {"role": "user", "content": "x", "tool_calls": [{"name": "f", "arguments": {}}]},
            {"role": "assistant", "content": "x"},
        ]
    },
    "malformed tools": {**_chat("a", "b"), "tools": 3},
    "not JSON: maximum recursion": b"[" * 100_000,
}


def test_a_poisoned_row_is_told_by_file_and_line_or_skipped_and_counted(tmp_path: Path) -> None:
    rows: list[dict[str, Any] | bytes] = [_chat("Hi", "there")]
    for why, row in _POISON.items():
        with pytest.raises(CorpusError) as caught:
            Dialogues.open(_file(tmp_path, rows[0], row), _TOKENIZER)
        assert f"{tmp_path}/chats.jsonl, line 2: " in caught.value.message
        assert why in caught.value.message
    chats = Dialogues.open(_file(tmp_path, *rows, *_POISON.values(), _chat("Bye", "now")), _TOKENIZER, on_bad="skip")
    assert (len(chats), chats.skipped.count) == (2, len(_POISON))
    with pytest.raises(CorpusError, match="no conversations; 1 bad rows skipped"):
        Dialogues.open(_file(tmp_path, b"{"), _TOKENIZER, on_bad="skip")


def test_what_windows_and_tables_write_is_read_and_a_file_cut_short_is_told(tmp_path: Path) -> None:
    """A mark before the first row and returns behind each are no fault; a null is what a row does not have."""
    rows = [json.dumps(_chat(f"Hi {n}", "there")).encode() for n in range(200)]
    windows_ = tmp_path / "windows.jsonl"
    windows_.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(rows) + b"\r\n\r\n")
    assert len(Dialogues.open(windows_, _TOKENIZER)) == len(rows)

    table = tmp_path / "nulls.parquet"
    odd = [{"messages": None}, _chat("a", "b"), {"messages": [{"role": None, "content": "a"}]}, {"messages": [None]}]
    pq.write_table(pa.Table.from_pylist(odd), table)
    with pytest.raises(CorpusError, match=r"nulls.parquet, row 1: "):
        Dialogues.open(table, _TOKENIZER)
    found = Dialogues.open(table, _TOKENIZER, on_bad="skip")
    assert (len(found), found.skipped.count) == (1, 3)

    empty, zipped, cut = tmp_path / "empty.jsonl", gzip.compress(b"\n".join(rows)), tmp_path / "cut"
    empty.touch()
    with pytest.raises(CorpusError, match=r"empty.jsonl: no conversations"):
        Dialogues.open(empty, _TOKENIZER, on_bad="skip")
    for whole, why in ((zipped, "ended before"), (zipped[:-8] + bytes(8), "CRC"), (table.read_bytes(), "Parquet")):
        cut.write_bytes(whole if why == "CRC" else whole[: len(whole) // 2])
        with pytest.raises(CorpusError, match=why):  # whatever becomes of bad rows: how many are lost, nobody knows
            Dialogues.open(cut, _TOKENIZER, on_bad="skip")


def test_tools_are_read_alike_from_every_kind_of_file(tmp_path: Path) -> None:
    theirs = {"type": "function", "id": "c1", "function": {"name": "add", "arguments": '{"a": 1}'}}
    messages = [
        {"role": "user", "content": "1 + 1?"},
        {"role": "assistant", "content": None, "tool_calls": [theirs]},
        {"role": "tool", "tool_call_id": "c1", "content": "2"},
        {"role": "assistant", "content": "It is 2."},
    ]
    row = {"messages": messages, "tools": [_TOOL]}
    plain, zipped, table = _file(tmp_path, row), tmp_path / "chats.jsonl.gz", tmp_path / "chats.parquet"
    zipped.write_bytes(gzip.compress(plain.read_bytes()))
    pq.write_table(pa.Table.from_pylist([{"messages": messages, "tools": json.dumps([_TOOL])}]), table)
    found = [next(conversations([path], Skipped())) for path in (plain, zipped, table)]
    assert all((each.messages, each.tools) == (found[0].messages, (_TOOL,)) for each in found)
    spoken = PlainTemplate(_TOKENIZER).spoken(found[0].messages, tools=found[0].tools)
    answers = _TOKENIZER.decode([t for t, s in zip(spoken.tokens, spoken.said, strict=True) if s], False)
    assert answers == (
        f'<tool_call>{{"name": "add", "arguments": {{"a": 1}}}}</tool_call>{END_OF_TEXT}It is 2.{END_OF_TEXT}'
    )
