"""`fulcrum quantise`: round any checkpoint to what a phone runs, with or without training."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from server.cli.options import JsonOption

if TYPE_CHECKING:
    from trainer.checkpoint import Checkpoint
    from trainer.data import Corpus
    from trainer.ptq import Ptq
    from trainer.qat import Qat

_BITS = "4g32, 4g64, 4g128 (4 bits in groups of so many inputs), 8 or 32"


def quantise(
    checkpoint: Annotated[
        Path, typer.Argument(help="A checkpoint of ours, or a Hugging Face folder of an Lfm2 model.")
    ],
    out: Annotated[Path, typer.Option(help="Directory of everything that is made; run it again to carry on.")],
    text: Annotated[list[Path] | None, typer.Option(help="Text, .jsonl or .parquet to train or calibrate on.")] = None,
    python_stdlib: Annotated[
        bool, typer.Option("--python-stdlib", help="This interpreter's own source as text.")
    ] = False,
    corpus: Annotated[Path | None, typer.Option(help="A prepared corpus, in the place of text.")] = None,
    method: Annotated[str, typer.Option(help="qat trains; gptq and nearest only calibrate.")] = "qat",
    weights: Annotated[str, typer.Option(help=f"Precision of the layers' matrices: {_BITS}.")] = "4g32",
    embedding: Annotated[str | None, typer.Option(help="Of the embedding; as the weights without it.")] = None,
    head: Annotated[str | None, typer.Option(help="Of the head; as the weights without it.")] = None,
    activations: Annotated[bool, typer.Option(help="Round activations to 8 bits, as phones do.")] = True,
    byte_budget: Annotated[
        int | None, typer.Option(help="Bytes of all matrices: choose every matrix's precision by what it costs.")
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", help="NAME=VALUE of the stage: scales, tokens, masters, seed, ...")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Quantise a checkpoint: 4-bit QAT with self-distillation, GPTQ, or rounding to nearest.

    Examples:

        fulcrum quantise runs/9a1b/sealed/5d0c --out rounded --python-stdlib

        fulcrum quantise LFM2-350M --out rounded --text notes.txt --method gptq --embedding 8

        fulcrum quantise LFM2-350M --out rounded --text a.txt --text b.txt --byte-budget 230000000 \\
            --option scales=learned --option masters=bfloat16 --option tokens=2000000
    """
    from trainer import pipeline
    from trainer.checkpoint import gathered

    given = {"weights": weights, "embedding": embedding, "head": head, "activations": activations}
    stage = _stage(method, given, byte_budget, _options(option or []))
    start = gathered(checkpoint, out / "sealed")
    stage.scheme.check(start.architecture)
    with _progress(method) as (prepared, heard), _interruptible() as should_stop:
        read = _corpus(start, out, text or [], python_stdlib, corpus, prepared)
        final, (outcome,) = pipeline.run(
            [stage], start.architecture, read.directory, out, start=start, report=heard, should_stop=should_stop
        )
    found = {"checkpoint": str(final.directory), "before": outcome.before, "after": outcome.after}
    _show(final, found, json)


def _stage(method: str, given: dict[str, Any], byte_budget: int | None, options: dict[str, Any]) -> "Qat | Ptq":
    from trainer.errors import QuantisationError
    from trainer.precision import Precision, Scheme
    from trainer.ptq import Ptq
    from trainer.qat import Qat

    if method not in ("qat", "gptq", "nearest"):
        raise QuantisationError(f"{method!r} is no method", advice="say qat, gptq or nearest")
    named = {n: Precision.parse(value) for n, value in given.items() if n != "activations" and value is not None}
    scheme = Scheme.model_validate({**named, "activations": given["activations"]})
    fields = {"scheme": scheme, "byte_budget": byte_budget, **options}
    return Qat.model_validate(fields) if method == "qat" else Ptq.model_validate({"method": method, **fields})


def _options(pairs: list[str]) -> dict[str, Any]:
    from server.cli.stages import parse_options

    return parse_options(pairs)


def _corpus(
    start: "Checkpoint",
    out: Path,
    text: list[Path],
    python_stdlib: bool,
    corpus: Path | None,
    report: Callable[[str, int, int], None],
) -> "Corpus":
    from trainer.data import Corpus, corpus_key, prepare
    from trainer.errors import CorpusError, TokenizerError
    from trainer.sources import Source

    if corpus is not None:
        found = Corpus.open(corpus)
        if found.tokenizer.to_str() != start.tokenizer.to_str():
            raise TokenizerError(
                f"{corpus} was prepared with another tokenizer than the checkpoint's",
                advice="give the text itself: it is read with the checkpoint's tokenizer",
            )
        return found
    formats = {".jsonl": "jsonl", ".parquet": "parquet"}
    sources = [Source.model_validate({"format": formats.get(path.suffix, "text"), "path": path}) for path in text]
    sources += [Source(format="stdlib")] if python_stdlib else []
    if not sources:
        raise CorpusError("there is no text to train or calibrate on", advice="say --text FILE or --python-stdlib")
    tokenizer, vocabulary = start.directory / "tokenizer.json", start.architecture.vocab_size
    key = corpus_key(sources, vocab_size=vocabulary, tokenizer=tokenizer)
    directory = out / "corpora" / key
    directory.parent.mkdir(parents=True, exist_ok=True)
    return prepare(sources, directory, vocab_size=vocabulary, tokenizer=tokenizer, report=report)


@contextmanager
def _progress(
    method: str,
) -> Iterator[tuple[Callable[[str, int, int], None], Callable[[int, int, int, dict[str, float]], None]]]:
    """A bar: (what preparing the corpus tells it, what the pipeline tells it)."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(method, total=None)

        def prepared(message: str, done: int, total: int) -> None:
            bar.update(task, description=f"text: {message}", completed=done, total=total)

        def heard(_: int, done: int, total: int, metrics: dict[str, float]) -> None:
            loss = f", loss {metrics['loss']:.3f}" if "loss" in metrics else ""
            bar.update(task, description=f"{method}{loss}", completed=done, total=total)

        yield prepared, heard


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Ctrl-C asks the training to stop where it can be carried on; a second one ends it at once."""
    asked = False

    def ask(number: int, frame: object) -> None:  # noqa: ARG001  # signal's signature
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)


def _show(final: "Checkpoint", found: dict[str, Any], as_json: bool) -> None:
    import json

    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    before, after = found["before"], found["after"]
    full = before.get("full_precision_bits_per_byte", before["bits_per_byte"])
    typer.echo(f"Held-out bits per byte: {full:.4f} in full precision, {after['bits_per_byte']:.4f} rounded.")
    typer.echo(f"Matrices: {after['matrix_bytes'] / 1e6:.1f} MB in a Program.")
    packing = final.packing()
    for role, precision in packing.scheme.overrides.items() if packing else ():
        typer.echo(f"  {role}: {precision}")
    typer.echo(f"Checkpoint: {final.directory}")
