"""`fulcrum model`: what was trained, for other runtimes."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from device_agent.contracts import Blame, FulcrumError
from server.cli.options import DEFAULT_HOME, DEFAULT_SERVER, HomeOption, ServerOption, connect

if TYPE_CHECKING:
    from trainer.checkpoint import Checkpoint
    from trainer.model import HybridLM
    from trainer.quantise import Scheme

app = typer.Typer(no_args_is_help=True)

_TYPES = ("f32", "f16", "bf16", "q4_0")


class NothingToExport(FulcrumError):
    """The command does not say what to write, or what it names has no model yet."""

    blame, slug = Blame.USER, "nothing-to-export"


@app.callback()
def _group() -> None:
    """Keeps `export` a command of its own."""


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
    checkpoint, scheme = _found(source, home, server, group_size)
    model = checkpoint.model()
    if rounded and kind != "q4_0":
        from trainer.hugging_face import as_deployed

        model = as_deployed(model, scheme)
    if gguf:
        _to_gguf(model, checkpoint, gguf, kind, scheme)
    if hf:
        _to_hugging_face(model, checkpoint, hf, kind)


def _found(source: str, home: Path, server: str, group_size: int | None) -> "tuple[Checkpoint, Scheme]":
    """The checkpoint that `source` names, and how its 4-bit weights are rounded."""
    from trainer.checkpoint import Checkpoint
    from trainer.quantise import Scheme

    if Path(source).is_dir():
        return Checkpoint(Path(source)), Scheme(group_size or 32)
    from server.worker.check import scheme_of

    with connect(server) as client:
        run = client.run(source)
        quantisation = client.search(run.spec.search).spec.quantisation
    trained = [stage.checkpoint for stage in run.stages if stage.checkpoint and stage.name != "teacher"]
    if not trained:
        raise NothingToExport(f"Run {source} has trained no model yet.", advice=f"See: fulcrum run watch {source}")
    found = home / "runs" / run.id / trained[-1]
    if not found.is_dir():
        raise NothingToExport(
            f"The run's checkpoint is not at {found}.", advice="Say --home: the server's data directory on this host."
        )
    changes = {} if group_size is None else {"group_size": group_size}
    return Checkpoint(found), scheme_of(quantisation.model_copy(update=changes))


def _to_gguf(model: "HybridLM", checkpoint: "Checkpoint", file: Path, kind: str, scheme: "Scheme") -> None:
    from pydantic import TypeAdapter

    from trainer.gguf import WeightType, save_gguf

    wanted: WeightType = TypeAdapter(WeightType).validate_python(kind)
    written = save_gguf(model, file, tokenizer=checkpoint.tokenizer, kind=wanted, scheme=scheme)
    typer.echo(f"{file}: {written.size / 1e6:.2f} MB of {kind}, for llama.cpp.")
    if written.rounded:
        typer.echo(f"The scales of {written.rounded} groups are only nearly what the phone has: fp16 is too narrow.")


def _to_hugging_face(model: "HybridLM", checkpoint: "Checkpoint", directory: Path, kind: str) -> None:
    from pydantic import TypeAdapter

    from trainer.hugging_face import Dtype, save_hugging_face

    wanted: Dtype = TypeAdapter(Dtype).validate_python(kind)
    save_hugging_face(model, directory, tokenizer=checkpoint.tokenizer, dtype=wanted)
    typer.echo(f"{directory}: a folder in {kind} that AutoModelForCausalLM and AutoTokenizer load.")
