"""`fulcrum model`: what was trained, for other runtimes; and what every byte of it is."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from device_agent.contracts import Blame, FulcrumError
from server.cli.model_bytes import bytes_
from server.cli.options import DEFAULT_HOME, DEFAULT_SERVER, HomeOption, ServerOption, connect

if TYPE_CHECKING:
    from trainer.checkpoint import Checkpoint
    from trainer.model import HybridLM
    from trainer.precision import Scheme
    from trainer.quantise import Packing

app = typer.Typer(no_args_is_help=True)
app.command("bytes")(bytes_)

_TYPES = ("f32", "f16", "bf16", "q4_0")


class NothingToExport(FulcrumError):
    """The command does not say what to write, or what it names has no model yet."""

    blame, slug = Blame.USER, "nothing-to-export"


@app.command()
def export(
    source: Annotated[str, typer.Argument(help="A checkpoint's directory, or a run's id from `fulcrum run list`.")],
    gguf: Annotated[Path | None, typer.Option(help="Write a GGUF file, which llama.cpp loads.")] = None,
    hf: Annotated[Path | None, typer.Option(help="Write a Hugging Face folder, which transformers loads.")] = None,
    kind: Annotated[str, typer.Option("--type", help="Of the weights: f32, f16, bf16, or q4_0 (GGUF).")] = "f32",
    rounded: Annotated[
        bool, typer.Option("--rounded", help="Weights as deployment rounds them to 4 bits; q4_0 always is.")
    ] = False,
    group_size: Annotated[
        int | None, typer.Option(help="Weights that share a 4-bit scale; else the run's, or 32.")
    ] = None,
    home: HomeOption = DEFAULT_HOME,
    server: ServerOption = DEFAULT_SERVER,
) -> None:
    """Write a trained model for llama.cpp or for transformers.

    In q4_0 the file holds the very integers that the phone's Program has. The tokenizer goes along.

    Examples:

        fulcrum model export 9a1b... --gguf winner.gguf --type q4_0

        fulcrum model export runs/9a1b/sealed/5fbd... --hf winner --type bf16
    """
    if (gguf is None and hf is None) or kind not in _TYPES or (hf and kind == "q4_0"):
        raise NothingToExport(
            f"There is nothing to write as {kind}.",
            advice=f"Say --gguf FILE or --hf DIR, and --type {', '.join(_TYPES[:-1])}, or q4_0 with --gguf.",
        )
    checkpoint, scheme = _found(source, home, server)
    model = checkpoint.model()
    packing = _packing(checkpoint, model, scheme, group_size) if rounded or kind == "q4_0" else None
    if packing and kind != "q4_0":
        from trainer.hugging_face import as_deployed

        model = as_deployed(model, packing)
    if gguf:
        _to_gguf(model, checkpoint, gguf, kind, packing)
    if hf:
        _to_hugging_face(model, checkpoint, hf, kind)


def _packing(checkpoint: "Checkpoint", model: "HybridLM", scheme: "Scheme | None", group_size: int | None) -> "Packing":
    """What was trained or searched is in the checkpoint; without it, or in other groups, weights go to the nearest."""
    from trainer.precision import W4A8, Precision, Scheme
    from trainer.quantise import pack

    if group_size is not None:
        return pack(model, Scheme(weights=Precision.parse(f"4g{group_size}")))
    return checkpoint.packing() or pack(model, scheme or W4A8)


def _found(source: str, home: Path, server: str) -> "tuple[Checkpoint, Scheme | None]":
    """The checkpoint that `source` names, and the numerics of the search that its run belongs to."""
    from trainer.checkpoint import Checkpoint

    if Path(source).is_dir():
        return Checkpoint(Path(source)), None
    from search.numerics import scheme_of

    with connect(server) as client:
        run = client.run(source)
        quantisation = client.search(run.spec.search).spec.quantisation
    trained = [stage.checkpoint for stage in run.stages if stage.checkpoint and stage.makes == "model"]
    if not trained:
        raise NothingToExport(f"Run {source} has trained no model yet.", advice=f"See: fulcrum run watch {source}")
    found = home / "runs" / run.id / trained[-1]
    if not found.is_dir():
        raise NothingToExport(
            f"The run's checkpoint is not at {found}.", advice="Say --home: the server's data directory on this host."
        )
    return Checkpoint(found), scheme_of(quantisation)


def _to_gguf(model: "HybridLM", checkpoint: "Checkpoint", file: Path, kind: str, packing: "Packing | None") -> None:
    from pydantic import TypeAdapter

    from trainer.gguf import WeightType, save_gguf

    wanted: WeightType = TypeAdapter(WeightType).validate_python(kind)
    written = save_gguf(model, file, tokenizer=checkpoint.tokenizer, kind=wanted, packing=packing)
    typer.echo(f"{file}: {written.size / 1e6:.2f} MB of {kind}, for llama.cpp.")
    if written.rounded:
        typer.echo(f"The scales of {written.rounded} groups are only nearly what the phone has: fp16 is too narrow.")


def _to_hugging_face(model: "HybridLM", checkpoint: "Checkpoint", directory: Path, kind: str) -> None:
    from pydantic import TypeAdapter

    from trainer.chat import OwnTemplate
    from trainer.hugging_face import Dtype, save_hugging_face

    wanted: Dtype = TypeAdapter(Dtype).validate_python(kind)
    template = OwnTemplate.of(checkpoint.directory)
    save_hugging_face(model, directory, tokenizer=checkpoint.tokenizer, dtype=wanted, template=template)
    typer.echo(f"{directory}: a folder in {kind} that AutoModelForCausalLM and AutoTokenizer load.")
