"""Readers: every format gives the same documents, and damage is named."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trainer.data.encode import encoded
from trainer.errors import CorpusError
from trainer.sources import Source
from trainer.tokenizer import train_tokenizer

_TEXTS = [f"Document {number}, in prose \u2014 with \u00fcmlauts.\nAnd a line." for number in range(2500)]


def _stream(path: Path, texts: list[str], kind: Any = None) -> None:
    table = pa.table({"text": pa.array(texts, kind or pa.string()), "id": list(range(len(texts)))})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=700)


def _saved(folder: Path, texts: list[str]) -> Path:
    """The layout of datasets' save_to_disk."""
    folder.mkdir(parents=True)
    half = len(texts) // 2
    names = ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]
    for name, part in zip(names, (texts[:half], texts[half:]), strict=True):
        _stream(folder / name, part)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (folder / "dataset_info.json").write_text("{}")
    return folder


def _dict(folder: Path, texts: list[str]) -> Path:
    _saved(folder / "train", texts)
    _saved(folder / "test", ["held", "back"])
    (folder / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    return folder


def _hub(folder: Path, texts: list[str]) -> Path:
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text("# A card, not a document")
    pq.write_table(pa.table({"text": texts[:1000]}), folder / "data" / "train-00000-of-00002.parquet")
    pq.write_table(pa.table({"text": texts[1000:]}), folder / "data" / "train-00001-of-00002.parquet")
    pq.write_table(pa.table({"text": ["other"]}), folder / "data" / "validation-00000-of-00001.parquet")
    return folder


def _lines(path: Path, texts: list[str]) -> Path:
    data = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
    if path.suffix == ".gz":
        data = gzip.compress(data)
    if path.suffix == ".zst":
        data = _zstd(data)
    path.write_bytes(data)
    return path


def _zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return bytes(sink.getvalue())


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: _saved(folder / "d", _TEXTS),
        lambda folder: _dict(folder / "d", _TEXTS),
        lambda folder: _hub(folder / "d", _TEXTS),
        lambda folder: _lines(folder / "d.jsonl", _TEXTS),
        lambda folder: _lines(folder / "d.jsonl.gz", _TEXTS),
        lambda folder: _lines(folder / "d.jsonl.zst", _TEXTS),
    ],
    ids=["saved", "dict", "hub", "jsonl", "gzip", "zstandard"],
)
def test_every_format_gives_the_same_documents(make: Callable[[Path], Path], tmp_path: Path) -> None:
    source = Source.at(make(tmp_path))
    assert list(source.documents()) == _TEXTS
    assert source.title == "d"
    assert len(source.fingerprint()) == 64


def test_splits_are_chosen_by_name(tmp_path: Path) -> None:
    _dict(tmp_path / "a", _TEXTS)
    _hub(tmp_path / "b", _TEXTS)
    assert list(Source.at(tmp_path / "a", split="test").documents()) == ["held", "back"]
    assert list(Source.at(tmp_path / "b", split="validation").documents()) == ["other"]
    with pytest.raises(CorpusError, match="no split 'dev'") as caught:
        list(Source.at(tmp_path / "a", split="dev").documents())
    assert caught.value.advice == "say one of test, train"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(alphabet=st.sampled_from("ab \n\u00e9\u4e2d\U0001f600"), max_size=400), piece=st.integers(4, 60))
def test_text_is_cut_but_never_changed(text: str, piece: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.readers.lines._PIECE", piece)
    (tmp_path / "t.txt").write_text(text, encoding="utf-8", newline="")
    found = list(Source(path=tmp_path / "t.txt").documents())
    assert "".join(found).replace(" ", "").replace("\n", "") == text.replace(" ", "").replace("\n", "")
    assert all(len(part) < 2 * piece + 2 for part in found)


def test_a_mark_of_utf8_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_bytes(b"\xef\xbb\xbfHello.")
    assert list(Source(path=tmp_path / "t.txt").documents()) == ["Hello."]


def _cut(path: Path, share: float) -> Path:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    return path


def _written(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def _without_end(folder: Path) -> Path:
    """Cut where a message ends, which Arrow's reader takes for the end of the stream."""
    saved = _saved(folder / "d", _TEXTS)
    shard = saved / "data-00001-of-00002.arrow"
    _written(shard, shard.read_bytes()[:-8])
    return saved


def _cut_shard(folder: Path) -> Path:
    saved = _saved(folder / "d", _TEXTS)
    _cut(saved / "data-00000-of-00002.arrow", 0.6)
    return saved


def _missing_shard(folder: Path) -> Path:
    saved = _saved(folder / "d", _TEXTS)
    (saved / "data-00000-of-00002.arrow").unlink()
    return saved


def _nothing(folder: Path) -> Path:
    (folder / "d").mkdir()
    return folder / "d"


def _damaged_page(folder: Path) -> Path:
    pq.write_table(pa.table({"text": _TEXTS}), folder / "d.parquet", compression="none", use_dictionary=False)
    data = bytearray((folder / "d.parquet").read_bytes())
    data[1000:1400] = b"\xff" * 400
    return _written(folder / "d.parquet", bytes(data))


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda f: _written(f / "d.txt", "Grüße\n".encode("utf-16")), "is UTF-16, not UTF-8"),
        (lambda f: _written(f / "d.txt", "one\ntwo\n".encode("utf-16-le")), "line 1 holds a NUL byte"),
        (lambda f: _written(f / "d.txt", b"fine\n" * 9000 + b"caf\xe9\n"), "line 9001 is not UTF-8: byte 0xe9"),
        (lambda f: _written(f / "d.txt", b"caf\xc3"), "line 1 is not UTF-8"),
        (lambda f: _written(f / "d.jsonl", b'{"text": "a"}\n\x00\n'), "line 2 holds a NUL byte"),
        (lambda f: _written(f / "d.jsonl", b'{"text": "a"}\n{"text": "b'), "line 2 is not JSON"),
        (lambda f: _cut(_lines(f / "d.jsonl.gz", _TEXTS), 0.5), "cannot be read"),
        (lambda f: _cut(_lines(f / "d.jsonl.zst", _TEXTS), 0.5), "cannot be read|is not JSON"),
        (_cut_shard, r"data-00000-of-00002.arrow.*(cut short|not a readable Arrow)"),
        (_without_end, r"data-00001-of-00002.arrow is cut short"),
        (_missing_shard, r"lacks data-00000-of-00002.arrow"),
        (_nothing, "holds no dataset"),
        (_damaged_page, "not a readable Parquet"),
    ],
)
def test_damage_is_named(make: Callable[[Path], Path], named: str, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=named) as caught:
        list(Source.at(make(tmp_path)).documents())
    assert caught.value.advice


def test_a_long_document_has_the_tokens_of_one_that_is_encoded_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    text = " ".join(_TEXTS[:40]) + "\n\n  an end \t of 12,345 things" + "x" * 900
    tokenizer = train_tokenizer(_TEXTS, 400)
    whole = tokenizer.encode(text, add_special_tokens=False).ids
    monkeypatch.setattr("trainer.data.encode._CHARACTERS", 120)
    documents = [text, "short", text]
    found = list(encoded(tokenizer, iter(documents), 7))
    assert [given for given, _ in found] == documents
    # A word of 900 letters has no seam: it alone is cut where the limit falls.
    seamless = len(tokenizer.encode("x" * 900, add_special_tokens=False).ids)
    assert found[0][1].tolist()[: len(whole) + 1 - seamless] == [7, *whole][:-seamless]
    assert tokenizer.decode(found[2][1].tolist()[1:]) == text
