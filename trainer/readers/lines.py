"""Plain text and JSONL, as they are or compressed with gzip or Zstandard."""

import codecs
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow as pa

from trainer.errors import CorpusError

_PIECE = 32_768  # a plain text file is cut at line ends into documents of about this many characters
_MARKS = {codecs.BOM_UTF32_LE: "UTF-32", codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16"}
_CONVERT = "convert it first, for example with iconv -f {} -t UTF-8"


def text(path: Path, label: str) -> Iterator[str]:
    """Documents of about 32,768 characters, cut at line ends; a longer line is cut at a space.

    Raises:
        CorpusError: not UTF-8, with NUL bytes, or a compressed file that is damaged.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    pieces: list[str] = []
    size, number = 0, 1
    for raw in raw_lines(path, label, _PIECE):
        ends = raw.endswith(b"\n")
        pieces.append(_decoded(decoder, raw, ends, label, number))
        size += len(pieces[-1])
        number += ends
        if size >= _PIECE:
            whole = "".join(pieces)
            cut = len(whole) if ends else whole.rfind(" ") + 1 or len(whole)
            yield whole[:cut]
            pieces, size = [whole[cut:]], len(whole) - cut
    pieces.append(_decoded(decoder, b"", True, label, number))
    yield "".join(pieces)


def jsonl(path: Path, label: str, field: str) -> Iterator[str]:
    """The text of each line's object.

    Raises:
        CorpusError: as for text; a line that is no object with text under `field`, by its number.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    for number, raw in enumerate(raw_lines(path, label, -1), start=1):
        line = _decoded(decoder, raw, True, label, number)
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as wrong:
            raise CorpusError(
                f"{label}, line {number} is not JSON: {wrong}", advice="one JSON object per line"
            ) from wrong
        if not isinstance(record, dict) or not isinstance(record.get(field), str):
            there = ", ".join(map(str, record)) if isinstance(record, dict) else "no object"
            raise CorpusError(
                f"{label}, line {number} has no text under {field!r} (there is: {there})",
                advice="name the field that holds the text",
            )
        # JSON can spell half a surrogate pair, which is no text: no encoder takes it.
        yield record[field].encode("utf-8", "replace").decode("utf-8")


def _decoded(decoder: codecs.IncrementalDecoder, raw: bytes, ends: bool, label: str, number: int) -> str:
    if b"\0" in raw:
        raise CorpusError(
            f"{label}, line {number} holds a NUL byte: it is UTF-16 without a mark, or no text at all",
            advice=_CONVERT.format("UTF-16LE"),
        )
    try:
        return decoder.decode(raw, ends)
    except UnicodeDecodeError as wrong:
        raise CorpusError(
            f"{label}, line {number} is not UTF-8: byte 0x{wrong.object[wrong.start]:02x} ({wrong.reason})",
            advice=_CONVERT.format("LATIN1"),
        ) from wrong


def raw_lines(path: Path, label: str, limit: int) -> Iterator[bytes]:
    """Lines, or parts of at most `limit` bytes of a longer one; a UTF-8 mark at the beginning is dropped."""
    with _decompressed(path, label) as stream:
        first = True
        while raw := stream.readline(limit):
            if first:
                first = False
                for mark, name in _MARKS.items():
                    if raw.startswith(mark):
                        raise CorpusError(f"{label} is {name}, not UTF-8", advice=_CONVERT.format(name))
                raw = raw.removeprefix(codecs.BOM_UTF8)
            yield raw


@contextmanager
def _decompressed(path: Path, label: str) -> Iterator[BinaryIO]:
    with path.open("rb") as file:
        magic = file.read(4)
    try:
        if magic.startswith(b"\x1f\x8b"):
            with gzip.open(path) as unzipped:
                yield cast(BinaryIO, unzipped)
        elif magic == b"\x28\xb5\x2f\xfd":
            with pa.input_stream(str(path), compression="zstd") as stream:
                yield cast(BinaryIO, io.BufferedReader(stream, 1 << 20))
        else:
            with path.open("rb") as file:
                yield file
    except (EOFError, gzip.BadGzipFile, zlib.error, OSError, pa.ArrowException) as wrong:
        raise CorpusError(f"{label} cannot be read: {wrong}", advice="it may be cut short; copy it again") from wrong
