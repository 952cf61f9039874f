"""`fulcrum quantise`: round any checkpoint to what a phone runs, with or without training."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from server.cli.local import CorpusOption, Meter, StdlibOption, TextOption, read_corpus, stoppable
from server.cli.options import JsonOption

if TYPE_CHECKING:
    from trainer.checkpoint import Checkpoint
    from trainer.ptq import Ptq
    from trainer.qat import Qat

_BITS = "4g32, 4g64, 4g128 (4 bits in groups of so many inputs), 8 or 32"


def quantise(
    checkpoint: Annotated[
        Path, typer.Argument(help="A checkpoint of ours, or a Hugging Face folder of an Lfm2 model.")
    ],
    out: Annotated[Path, typer.Option(help="Directory of everything that is made; run it again to carry on.")],
    text: TextOption = None,
    python_stdlib: StdlibOption = False,
    corpus: CorpusOption = None,
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
    vocabulary, tokenizer = start.architecture.vocab_size, start.directory / "tokenizer.json"
    with Meter([method]).shown() as meter, stoppable() as should_stop:
        read = read_corpus(out, vocabulary, tokenizer, (text or [], python_stdlib, corpus), meter.text)
        final, (outcome,) = pipeline.run(
            [stage], start.architecture, read.directory, out, start=start, report=meter.stage, should_stop=should_stop
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
