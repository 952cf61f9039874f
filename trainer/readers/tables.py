"""Columns of text in Parquet and Arrow files, a batch of rows at a time."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from trainer.errors import CorpusError

_ROWS = 1024
_ARROW_FILE = b"ARROW1"
_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"  # Arrow's columnar format, "IPC streaming format"


def parquet(path: Path, label: str, field: str) -> Iterator[str]:
    """The column's strings.

    Raises:
        CorpusError: damaged, without the column, or the column holds something else.
    """
    with _readable(label, "Parquet"), pq.ParquetFile(path) as table:
        _check(table.schema_arrow, label, field)
        for rows in table.iter_batches(batch_size=_ROWS, columns=[field]):
            yield from (value for value in rows.column(0).to_pylist() if value)


def arrow(path: Path, label: str, field: str) -> Iterator[str]:
    """The column's strings out of an Arrow stream or file.

    Raises:
        CorpusError: as for Parquet. A stream without its end is refused: the reader alone would take it for whole.
    """
    with _readable(label, "Arrow"), pa.memory_map(str(path)) as source:
        if source.size() >= len(_ARROW_FILE) and source.read(len(_ARROW_FILE)) == _ARROW_FILE:
            table = pa.ipc.open_file(source)
            batch: Callable[[int], Any] = table.get_batch
            batches = (batch(number) for number in range(table.num_record_batches))
        else:
            source.seek(max(0, source.size() - len(_END_OF_STREAM)))
            if source.read() != _END_OF_STREAM:
                raise CorpusError(f"{label} is cut short: the stream has no end", advice="copy it again")
            source.seek(0)
            table = pa.ipc.open_stream(source)
            batches = iter(table)
        _check(table.schema, label, field)
        for rows in batches:
            column = rows.column(rows.schema.get_field_index(field))
            for start in range(0, len(column), _ROWS):
                yield from (value for value in column.slice(start, _ROWS).to_pylist() if value)


def _check(schema: Any, label: str, field: str) -> None:
    if field not in schema.names:
        raise CorpusError(
            f"{label} has no column {field!r} (there is: {', '.join(schema.names)})",
            advice="name the column that holds the text",
        )
    kind = schema.field(field).type
    inner = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_string(inner) or pa.types.is_large_string(inner) or pa.types.is_string_view(inner)):
        raise CorpusError(f"{label}: column {field!r} holds {kind}, not text", advice="name a column of strings")


@contextmanager
def _readable(label: str, format_: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as wrong:
        raise CorpusError(
            f"{label} is not a readable {format_} file: {wrong}", advice="it may be cut short; copy it again"
        ) from wrong
