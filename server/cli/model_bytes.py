"""`fulcrum model bytes`: what every byte of a Program is, and whether it keeps the promise on the phone."""

from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from device_agent.contracts import Blame, FulcrumError
from server.cli.options import JsonOption

if TYPE_CHECKING:
    from search.bytes import KvType, Row
    from search.memory import Term
    from trainer.architecture import Architecture
    from trainer.precision import Scheme

_KV_TYPES: "tuple[KvType, ...]" = ("float32", "float16", "int8")
_CONTEXTS = (4096, 32_768)
_PRESETS = {"lfm2-350m": "LFM2_350M", "lfm2-700m": "LFM2_700M", "lfm2-1.2b": "LFM2_1_2B", "lfm2-2.6b": "LFM2_2_6B"}
Memory = dict[tuple[int, str], "tuple[list[Term], int]"]
"""By context and type of the KV cache: what a running Program takes, and what loading it takes."""


class UnknownShape(FulcrumError):
    """What was named is neither a preset nor a file that holds an Architecture."""

    blame, slug = Blame.USER, "unknown-shape"


def bytes_(
    source: Annotated[
        str, typer.Argument(help=f"{', '.join(_PRESETS)}, a checkpoint's directory, or an architecture's JSON file.")
    ],
    program: Annotated[Path | None, typer.Option(help="A .pte file of it: account for its bytes as they are.")] = None,
    weights: Annotated[str, typer.Option(help="Precision of the layers: 4g32, 4g64, 4g128, 8 or 32.")] = "4g32",
    embedding: Annotated[
        str | None, typer.Option(help="Of the table that tokens are read from; else as weights.")
    ] = None,
    head: Annotated[str | None, typer.Option(help="Of the matrix that writes logits; else as weights.")] = None,
    context: Annotated[
        list[int] | None, typer.Option(help="Context lengths; repeatable. 4096 and 32768 without it.", min=1)
    ] = None,
    kv: Annotated[
        list[str] | None, typer.Option(help=f"Types of the KV cache: {', '.join(_KV_TYPES)}; repeatable. Else all.")
    ] = None,
    chunk: Annotated[int, typer.Option(help="Tokens of a prompt that are read at once.", min=1)] = 128,
    json: JsonOption = False,
) -> None:
    """Account for every byte of a model's Program, in its file and in memory, and hold it to the promised 1000 MB.

    Weights, scales, tables and caches are arithmetic; what exporting and XNNPACK add is modelled, and the table says
    which is which. With --program the file's bytes are read from the file itself.

    Examples:

        fulcrum model bytes lfm2-350m

        fulcrum model bytes lfm2-1.2b --embedding 4g128 --kv float16 --kv int8 --context 32768

        fulcrum model bytes runs/9a1b/sealed/5fbd... --program winner.pte --context 512
    """
    from search.memory import Deployment, terms, while_loading

    architecture, scheme = architecture_of(source), _scheme(weights, embedding, head)
    scheme.check(architecture)
    lengths, asked = dict.fromkeys(context or _CONTEXTS), dict.fromkeys(kv or _KV_TYPES)
    types = [name for name in _KV_TYPES if name in asked]
    if unknown := [name for name in asked if name not in _KV_TYPES]:
        raise typer.BadParameter(f"{unknown[0]} is none of {', '.join(_KV_TYPES)}", param_hint="--kv")
    first, kind = next(iter(lengths)), types[0]
    rows, unexplained = _file(architecture, scheme, (first, kind), program)
    memory: Memory = {}
    for length, name in product(lengths, types):
        deployment = Deployment(scheme, length, min(chunk, length), name)
        memory[length, name] = terms(architecture, deployment), while_loading(architecture, deployment)
    if json:
        typer.echo(_json(architecture, rows, unexplained, memory))
        return
    assumed = "" if program else f", context {first}, {kind} cache"
    _show_file(rows, unexplained, f"The file of {source}{assumed}")
    _show_memory(memory, chunk)


def architecture_of(source: str) -> "Architecture":
    """The Architecture that a preset, a checkpoint's directory or a JSON file names.

    Raises:
        UnknownShape: none of them.
        CheckpointError: a directory that is no checkpoint.
    """
    from pydantic import ValidationError

    from trainer import architecture as shapes
    from trainer.architecture import Architecture

    if source.lower() in _PRESETS:
        preset: Architecture = getattr(shapes, _PRESETS[source.lower()])
        return preset
    path = Path(source)
    if path.is_dir():
        from trainer.checkpoint import Checkpoint

        return Checkpoint(path).architecture
    if not path.is_file():
        raise UnknownShape(
            f"{source} is no file, and no preset.", advice=f"There are {', '.join(_PRESETS)}; or name a checkpoint."
        )
    try:
        return Architecture.model_validate_json(path.read_bytes())
    except ValidationError as wrong:
        from server.cli.words import mistakes

        raise UnknownShape(
            f"{source} holds no Architecture:\n{mistakes(wrong)}", advice="A checkpoint's architecture.json is one."
        ) from wrong


def _scheme(weights: str, embedding: str | None, head: str | None) -> "Scheme":
    from trainer.precision import Precision, Scheme

    given = {"weights": weights, "embedding": embedding, "head": head}
    return Scheme.model_validate({name: Precision.parse(text) for name, text in given.items() if text})


def _file(
    architecture: "Architecture", scheme: "Scheme", cache: "tuple[int, KvType]", program: Path | None
) -> "tuple[list[Row], int]":
    if program is None:
        from search.bytes import file_rows

        return file_rows(architecture, scheme, *cache), 0
    from search.export.contents import account, contents

    return account(contents(program), architecture, scheme, cache[0])


def _show_file(rows: "list[Row]", unexplained: int, title: str) -> None:
    from server.cli.show import console, new_table

    whole = sum(row.bytes for row in rows) + unexplained
    table = new_table(title, "part", ">weights", ">scales", ">bytes", ">MB", ">share", "known")
    for row in rows:
        known = "exact" if row.exact else "modelled"
        share = f"{100 * row.bytes / whole:.1f} %"
        table.add_row(row.part, f"{row.values:,}", f"{row.scales:,}", f"{row.bytes:,}", _mb(row.bytes), share, known)
    if unexplained:
        table.add_row("[red]of no part of this shape[/]", "", "", f"{unexplained:,}", _mb(unexplained), "", "")
    table.add_section()
    table.add_row("the file", "", "", f"{whole:,}", _mb(whole), "", "")
    console.print(table)


def _show_memory(memory: Memory, chunk: int) -> None:
    from search.memory import EMPTY_RUNNER, PROMISE
    from server.cli.show import console, new_table

    columns = [f">{length // 1024}K {name}" if length % 1024 == 0 else f">{length} {name}" for length, name in memory]
    table = new_table(f"Memory once the context is full, MB; prompts in chunks of {chunk}", "", "known", *columns)
    for same in zip(*(terms for terms, _ in memory.values()), strict=True):
        table.add_row(same[0].name, same[0].certainty, *(_mb(term.bytes) for term in same))
    sums = [(sum(term.bytes for term in terms), loading) for terms, loading in memory.values()]
    table.add_section()
    table.add_row("above the empty runner", "", *(_mb(running) for running, _ in sums))
    table.add_row("while the head is packed, before there is state", "", *(_mb(loading) for _, loading in sums))
    table.add_row("the empty runner, on this host", "measured", *[_mb(EMPTY_RUNNER)] * len(sums))
    table.add_row(f"left of the promised {PROMISE // 10**6}", "", *(_left(max(pair)) for pair in sums))
    console.print(table)
    console.print("Mapped pages are clean, and are counted although a phone short of memory may drop them.")


def _left(above: int) -> str:
    from search.memory import EMPTY_RUNNER, PROMISE

    left = PROMISE - EMPTY_RUNNER - above
    return f"[{'red' if left < 0 else 'green'}]{_mb(left)}[/]"


def _mb(size: int) -> str:
    return f"{size / 1e6:.2f}"


def _json(architecture: "Architecture", rows: "list[Row]", unexplained: int, memory: Memory) -> str:
    from json import dumps

    from search.memory import EMPTY_RUNNER, PROMISE

    def of(terms: "list[Term]", loading: int) -> dict[str, Any]:
        listed = [{"name": t.name, "bytes": t.bytes, "known": t.certainty, "mapped": t.mapped} for t in terms]
        above = sum(term.bytes for term in terms)
        peak = max(above, loading)
        left = PROMISE - EMPTY_RUNNER - peak
        return {"terms": listed, "running": above, "loading": loading, "peak": peak, "left": left}

    known = [{"part": r.part, "weights": r.values, "scales": r.scales, "exact": r.exact} for r in rows]
    whole = sum(row.bytes for row in rows) + unexplained
    return dumps(
        {
            "architecture": architecture.hash,
            "parameters": architecture.parameters,
            "file": {"parts": known, "unexplained": unexplained, "bytes": whole},
            "memory": [{"context": c, "kv": kv, **of(*found)} for (c, kv), found in memory.items()],
            "empty_runner": EMPTY_RUNNER,
            "promise": PROMISE,
        },
        indent=2,
    )
