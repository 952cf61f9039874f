"""Mixtures, long windows and the place in the stream."""

import json
import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trainer.architecture import Architecture, Attention, ShortConv
from trainer.data import Corpus, order, prepare
from trainer.data.shards import Tokens
from trainer.errors import CorpusError
from trainer.model import HybridLM
from trainer.sources import Source

_WORDS = ["the", "a", "red", "blue", "fox", "dog", "runs", "sleeps", "over", "under", "lazy", "quick", "moon", "river"]


def _written(folder: Path, name: str, lengths: list[int], mark: str, **fields: object) -> Source:
    """Documents of so many words, each with the source's mark in it."""
    chance = random.Random(name)
    with (folder / f"{name}.jsonl").open("w") as file:
        for length in lengths:
            words = " ".join(mark + chance.choice(_WORDS) for _ in range(length))
            file.write(json.dumps({"text": words}) + "\n")
    return Source.model_validate({"path": folder / f"{name}.jsonl", "format": "jsonl", **fields})


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("mixed")
    sources = [
        _written(folder, "short", [40] * 200, "s", weight=0.5),
        _written(folder, "long", [60, 900] * 30, "l", weight=0.2),
        _written(folder, "one", [50] * 150, "o"),
        _written(folder, "two", [50] * 50, "t"),
    ]
    return prepare(sources, folder / "c", vocab_size=300)


def test_weights_are_shares_and_the_rest_goes_by_size(mixed: Corpus) -> None:
    shares = mixed.shares
    assert mixed.sources == ("short", "long", "one", "two")
    assert (shares["short"], shares["long"]) == (0.5, 0.2)
    assert shares["one"] + shares["two"] == pytest.approx(0.3)
    sizes = mixed.tokens("train", "one"), mixed.tokens("train", "two")
    assert shares["one"] / shares["two"] == pytest.approx(sizes[0] / sizes[1])
    read = dict.fromkeys("slot", 0)
    for step in range(40):
        for row in mixed.batch(step, size=5, sequence=16, seed=7).inputs.tolist():
            text = mixed.tokenizer.decode(row)
            read[max("slot", key=lambda mark: text.count(f" {mark}"))] += 1
    assert read["s"] == pytest.approx(100, abs=3)  # any stretch has about the mixture: no binomial scatter
    assert read["l"] == pytest.approx(40, abs=3)
    epochs = mixed.epochs(200, sequence=16, seed=7)
    for name, mark in zip(mixed.sources, "slot", strict=True):
        assert epochs[name] == pytest.approx(read[mark] * 16 / mixed.tokens("train", name), rel=0.25, abs=0.1)


def test_each_source_has_held_out_text_of_its_own(mixed: Corpus) -> None:
    for name, mark in zip(mixed.sources, "slot", strict=True):
        for batch in mixed.held_out(size=4, sequence=32, windows=4, source=name):
            words = mixed.tokenizer.decode(batch.inputs.flatten().tolist()).split()
            assert all(mark in word for word in words if len(word) > 4)
    with pytest.raises(CorpusError, match="no source 'else'"):
        next(mixed.held_out(size=1, sequence=8, windows=1, source="else"))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(step=st.integers(0, 5000), share=st.floats(0.05, 1.0), sequence=st.sampled_from([64, 200]))
def test_long_windows_lie_within_one_document(mixed: Corpus, step: int, share: float, sequence: int) -> None:
    size = 40
    batch = mixed.batch(step, size=size, sequence=sequence, seed=2, long_share=share)
    within = (batch.documents == batch.documents[:, :1]).all(dim=1).sum()
    assert within >= round(share * size) - 2
    assert batch.indices.tolist() == list(range(step * size, (step + 1) * size))
    again = Corpus.open(mixed.directory).batch(step, size=size, sequence=sequence, seed=2, long_share=share)
    assert torch.equal(batch.inputs, again.inputs)


def test_long_windows_of_an_epoch_are_each_visited_once(mixed: Corpus) -> None:
    stream, sequence = mixed._trained[mixed._members.index([1])], 100
    windows = stream.long_windows(sequence)
    starts = sorted(stream.long_start(window, sequence, 0.7) for window in range(windows))
    assert all(b - a >= sequence for a, b in pairwise(starts))
    ends = np.cumsum(stream.lengths.astype(np.int64))
    for start in starts:
        assert np.searchsorted(ends, start, side="right") == np.searchsorted(ends, start + sequence - 1, side="right")


@settings(max_examples=40, deadline=None)
@given(
    weights=st.lists(st.floats(0.01, 1), min_size=1, max_size=6),
    long=st.floats(0, 1),
    there=st.lists(st.booleans(), min_size=6, max_size=6),
    visits=st.integers(0, 60_000),
)
def test_every_visit_belongs_to_one_window_and_shares_are_kept(
    weights: list[float], long: float, there: list[bool], visits: int
) -> None:
    shares, has_long = [weight / sum(weights) for weight in weights], there[: len(weights)]
    long = long if any(has_long) else 0.0
    parts = order.components(shares, long, has_long)
    assert sum(part.share for part in parts) == pytest.approx(1)
    assert sum(part.share for part in parts if part.long) == pytest.approx(long, abs=1e-9)
    counts = order.visits_of(parts, visits, 3)
    assert sum(counts) == visits
    assert counts == pytest.approx([part.share * visits for part in parts], abs=1 + visits / 8000 + len(parts))
    part, before = order.deal(parts, visits, 3)
    assert counts[parts.index(part)] == before


def test_what_cannot_be_mixed_is_said(mixed: Corpus, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no training document has 2000 tokens, the longest has"):
        mixed.batch(0, size=1, sequence=2000, seed=0, long_share=0.5)
    heavy = _written(tmp_path, "heavy", [40] * 40, "h", weight=1.0)
    with pytest.raises(CorpusError, match="nothing is left"):
        prepare([heavy, _written(tmp_path, "light", [40] * 40, "l")], tmp_path / "c", vocab_size=300)
    few = prepare([heavy, _written(tmp_path, "few", [40] * 40, "f", weight=1.0)], tmp_path / "c", vocab_size=300)
    with pytest.raises(CorpusError, match=r"training text of heavy has .* too few for windows of 4000"):
        few.batch(0, size=1, sequence=4000, seed=0)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(step=st.integers(0, 300), sequence=st.integers(8, 160), share=st.sampled_from([0.0, 0.5]))
def test_packed_windows_are_read_as_each_document_alone(mixed: Corpus, step: int, sequence: int, share: float) -> None:
    blocks = (ShortConv(), Attention(heads=2, kv_heads=1, head_dim=16), ShortConv(kernel=5))
    model = HybridLM(Architecture(vocab_size=300, width=32, ffn_width=64, blocks=blocks), seed=1).double().eval()
    batch = mixed.batch(step, size=3, sequence=sequence, seed=5, long_share=share)
    with torch.no_grad():
        packed = model(batch.inputs, documents=batch.documents)
        row, documents = batch.inputs[0], batch.documents[:1]
        for number in documents.unique().tolist():
            mine = documents[0] == number
            # Whatever else the window holds, not a bit of this document's logits moves: nothing leaks.
            others = torch.where(mine, row, (row + 17) % 300)[None]
            torch.testing.assert_close(model(others, documents=documents)[0, mine], packed[0, mine], atol=1e-12, rtol=0)
            # A window may begin amid a document: its first part is read from where the window begins. Places differ
            # from those in the window, and the angles of rotation are rounded to fp32: 1e-5 at place 160.
            torch.testing.assert_close(model(row[mine][None])[0], packed[0, mine], atol=1e-5, rtol=0)


def test_a_small_source_is_held_out_by_its_share(mixed: Corpus) -> None:
    for about in mixed.meta["sources"]:
        counts = {split: about["splits"][split]["documents"] for split in ("train", "held_out")}
        assert counts["held_out"] >= sum(counts.values()) // 20
    assert mixed.sources_held_out(32) == mixed.sources
    assert mixed.sources_held_out(100_000) == ()


@given(sizes=st.lists(st.integers(0, 9), min_size=1, max_size=6), data=st.data())
def test_shards_read_as_one_sequence(sizes: list[int], data: st.DataObject) -> None:
    whole = np.arange(sum(sizes) + 1, dtype=np.uint16)
    tokens = Tokens(np.split(whole, np.cumsum(sizes)))
    start = data.draw(st.integers(0, len(whole) - 1))
    stop = data.draw(st.integers(start + 1, len(whole)))
    assert len(tokens) == len(whole)
    assert tokens.read(start, stop).tolist() == whole[start:stop].tolist()
