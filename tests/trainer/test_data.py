import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trainer import pipeline
from trainer.architecture import Architecture
from trainer.data import Corpus, corpus_key, prepare
from trainer.data.split import Places, place
from trainer.errors import CorpusError, TokenizerError
from trainer.files import fresh_draft
from trainer.sources import Source
from trainer.tokenizer import END_OF_TEXT

_POEMS = [f"Poem {number}: roses are {colour}, it rained {number} times.\n" * 6 for number, colour in enumerate(
    ["red", "blue", "white", "pink", "black", "green", "grey", "brown"] * 4
)]  # fmt: skip


def _jsonl(folder: Path, records: list[object], name: str = "a.jsonl") -> Path:
    path = folder / name
    path.write_text("\n".join(json.dumps(record) for record in records) + "\n", encoding="utf-8")
    return path


def _stream(corpus: Corpus, split: str) -> list[int]:
    return corpus._whole[split].tokens.read(0, corpus.tokens(split)).tolist()  # type: ignore[index,arg-type]  # looks inside


def test_every_document_is_in_one_split_once_and_comes_back_byte_for_byte(tmp_path: Path) -> None:
    source = Source(path=_jsonl(tmp_path, [{"text": poem} for poem in _POEMS]), format="jsonl")
    corpus = prepare([source], tmp_path / "c", vocab_size=300)
    found = []
    for split in ("train", "held_out"):
        tokens = _stream(corpus, split)
        assert tokens[0] == corpus.end_of_text
        starts = [i for i, token in enumerate(tokens) if token == corpus.end_of_text]
        pieces = [tokens[a + 1 : b] for a, b in zip(starts, [*starts[1:], None], strict=True)]
        found += [corpus.tokenizer.decode(piece) for piece in pieces]
        assert corpus.meta["splits"][split]["documents"] == len(pieces) > 0
        bytes_of = int(corpus.token_bytes[torch.tensor(tokens)].sum())
        assert corpus.meta["splits"][split]["bytes"] == bytes_of
    assert sorted(found) == sorted(_POEMS)


def test_the_same_documents_in_parquet_jsonl_and_another_order_are_split_alike(tmp_path: Path) -> None:
    pq.write_table(pa.table({"body": _POEMS}), tmp_path / "a.parquet")
    by_row = Source(path=tmp_path / "a.parquet", format="parquet", field="body")
    by_line = Source(path=_jsonl(tmp_path, [{"text": poem} for poem in reversed(_POEMS)]), format="jsonl")
    first = prepare([by_row], tmp_path / "c1", vocab_size=300)
    second = prepare([by_line], tmp_path / "c2", vocab_size=300)
    assert first.meta["splits"] == second.meta["splits"]


def test_preparing_again_opens_what_is_there_and_another_corpus_is_refused(
    corpus: Corpus, text_files: list[Path]
) -> None:
    sources = [Source(path=path) for path in text_files]
    written = (corpus.directory / "meta.json").stat().st_mtime_ns
    again = prepare(sources, corpus.directory, vocab_size=300, seed=1)
    assert again.meta == corpus.meta
    assert (corpus.directory / "meta.json").stat().st_mtime_ns == written
    with pytest.raises(CorpusError, match="another corpus"):
        prepare(sources, corpus.directory, vocab_size=301, seed=1)
    assert corpus_key(sources, vocab_size=300, seed=1) == corpus.meta["key"]


def test_a_tokenizer_from_a_file_gives_the_same_corpus(corpus: Corpus, text_files: list[Path], tmp_path: Path) -> None:
    loaded = prepare(
        [Source(path=path) for path in text_files],
        tmp_path / "c",
        vocab_size=300,
        seed=1,
        tokenizer=corpus.directory / "tokenizer.json",
    )
    assert loaded.meta["shards"] == corpus.meta["shards"]


def test_half_a_surrogate_pair_in_json_is_no_trap(tmp_path: Path) -> None:
    path = _jsonl(tmp_path, [{"text": poem} for poem in _POEMS])
    path.write_text(path.read_text() + '{"text": "half \\ud83d of a pair"}\n')
    corpus = prepare([Source(path=path, format="jsonl")], tmp_path / "c", vocab_size=300)
    assert corpus.meta["documents"] == len(_POEMS) + 1


def test_the_end_of_text_written_in_a_document_ends_nothing(tmp_path: Path) -> None:
    poems = [f"{poem} {END_OF_TEXT} and on" for poem in _POEMS]
    source = Source(path=_jsonl(tmp_path, [{"text": poem} for poem in poems]), format="jsonl")
    corpus = prepare([source], tmp_path / "c", vocab_size=300)
    ends = sum(_stream(corpus, split).count(corpus.end_of_text) for split in ("train", "held_out"))
    assert ends == len(poems)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(step=st.integers(0, 10_000), size=st.integers(1, 5), sequence=st.integers(8, 200), seed=st.integers(0, 99))
def test_batches_are_a_pure_function_of_seed_and_step(
    corpus: Corpus, step: int, size: int, sequence: int, seed: int
) -> None:
    batch = corpus.batch(step, size=size, sequence=sequence, seed=seed)
    again = Corpus.open(corpus.directory).batch(step, size=size, sequence=sequence, seed=seed)
    assert torch.equal(batch.inputs, again.inputs)
    assert batch.inputs.shape == batch.targets.shape == batch.documents.shape == (size, sequence)
    assert torch.equal(batch.inputs[:, 1:], batch.targets[:, :-1])
    begins = batch.documents.diff(dim=1)
    assert torch.equal(begins == 1, batch.inputs[:, 1:] == corpus.end_of_text)


def test_an_epoch_visits_every_window_once(corpus: Corpus) -> None:
    sequence = 64
    windows = (corpus.tokens("train") - 1) // sequence - 1
    seen = [corpus.batch(step, size=1, sequence=sequence, seed=3).inputs[0].tolist() for step in range(windows)]
    stream = _stream(corpus, "train")
    expected = [stream[i : i + sequence] for i in range(sequence)]
    offset = next(i for i, row in enumerate(expected) if row in seen)
    cut = [stream[offset + i * sequence : offset + (i + 1) * sequence] for i in range(windows)]
    assert sorted(seen) == sorted(cut)
    assert seen != cut


def _bad_utf8(folder: Path) -> Source:
    (folder / "latin.txt").write_bytes("Gr\u00fc\u00dfe\n".encode("latin-1") * 100)
    return Source(path=folder / "latin.txt")


def _cut_parquet(folder: Path) -> Source:
    pq.write_table(pa.table({"text": _POEMS}), folder / "cut.parquet")
    whole = (folder / "cut.parquet").read_bytes()
    (folder / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    return Source(path=folder / "cut.parquet", format="parquet")


def _other_column(folder: Path) -> Source:
    pq.write_table(pa.table({"body": _POEMS}), folder / "o.parquet")
    return Source(path=folder / "o.parquet", format="parquet")


def _numbers(folder: Path) -> Source:
    pq.write_table(pa.table({"text": [1, 2, 3]}), folder / "n.parquet")
    return Source(path=folder / "n.parquet", format="parquet")


def _empty(folder: Path) -> Source:
    (folder / "empty.txt").write_text(" \n\n")
    return Source(path=folder / "empty.txt")


def _one_line(folder: Path) -> Source:
    (folder / "one.txt").write_text("Only one line.")
    return Source(path=folder / "one.txt")


def _broken_line(folder: Path) -> Source:
    (folder / "b.jsonl").write_text('{"text": "a"}\n{"text": \n')
    return Source(path=folder / "b.jsonl", format="jsonl")


def _deep_line(folder: Path) -> Source:
    (folder / "d.jsonl").write_text("[" * 100_000)
    return Source(path=folder / "d.jsonl", format="jsonl")


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda folder: Source(path=folder / "nowhere.txt", name="my book"), "my book: there is no such file"),
        (
            lambda folder: Source(path=_jsonl(folder, [{"body": "x"}]), format="jsonl"),
            "line 1 .*'text'.*there is: body",
        ),
        (_empty, "no text"),
        (_one_line, "too few to hold any out"),
        (_bad_utf8, "not UTF-8"),
        (_broken_line, "line 2 is not JSON"),
        (_deep_line, "line 1 is not JSON"),
        (_cut_parquet, "not a readable Parquet"),
        (_other_column, "no column 'text'.*body"),
        (_numbers, "holds int64"),
    ],
)
def test_bad_sources_say_what_is_wrong_and_leave_nothing(make, named: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    source = make(tmp_path)
    with pytest.raises(CorpusError, match=named) as caught:
        prepare([source], tmp_path / "corpora" / "c", vocab_size=300)
    assert caught.value.advice
    assert not (tmp_path / "corpora").exists() or not list((tmp_path / "corpora").iterdir())


def test_a_vocabulary_below_the_bytes_is_refused(text_files: list[Path], tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="256 bytes"):
        prepare([Source(path=text_files[0])], tmp_path / "c", vocab_size=256)


def test_changed_and_cut_shards_are_noticed(text_files: list[Path], tmp_path: Path) -> None:
    corpus = prepare([Source(path=path) for path in text_files], tmp_path / "c", vocab_size=300)
    corpus.verify()
    shard = corpus.directory / corpus.meta["shards"][0]["file"]
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)
    with pytest.raises(CorpusError, match="changed"):
        corpus.verify()
    shard.write_bytes(data[:-2])
    with pytest.raises(CorpusError, match="cut short"):
        Corpus.open(corpus.directory)


def test_the_standard_library_is_a_corpus_of_real_code() -> None:
    documents = list(Source(format="stdlib").documents())
    assert len(documents) > 300
    assert sum(map(len, documents)) > 5_000_000
    assert documents == list(Source(format="stdlib").documents())


def test_drafts_of_dead_processes_are_swept_and_those_of_living_ones_kept(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait(timeout=30)
    dead, living = tmp_path / f".c.{ended.pid}.draft", tmp_path / f".c.{os.getppid()}.draft"
    dead.mkdir()
    living.mkdir()
    mine = fresh_draft(tmp_path / "c")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([mine.name, living.name])


def test_no_run_begins_on_shards_that_changed(text_files: list[Path], tiny: Architecture, tmp_path: Path) -> None:
    corpus = prepare([Source(path=path) for path in text_files], tmp_path / "c", vocab_size=300)
    shard = next(corpus.directory.glob("*-train-tokens-*.bin"))
    data = bytearray(shard.read_bytes())
    data[-3] ^= 1
    shard.write_bytes(data)
    with pytest.raises(CorpusError, match="has changed on disk"):
        pipeline.run([], tiny, corpus.directory, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@given(sizes=st.lists(st.integers(1, 1000), min_size=2, max_size=60), seed=st.integers(0, 5))
def test_something_is_held_out_and_most_is_not(sizes: list[int], seed: int) -> None:
    texts = [f"{number} {'x' * size}" for number, size in enumerate(sizes)]
    places = Places()
    places.source((place(text, seed), len(text)) for text in texts)
    chosen = places.chosen()
    away = [len(text) for text in texts if place(text, seed) in chosen]
    assert 0 < len(away) < len(texts)
    assert len(away) >= len(texts) // 20
    assert max(map(len, texts)) * 2 <= sum(map(len, texts)) or max(map(len, texts)) not in away
