"""What a command means by CHECKPOINT_OR_RUN: a trained model on this host, ready to speak."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from device_agent.contracts import Blame, FulcrumError
from server.cli.options import connect

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from device_agent.contracts import Quantisation
    from trainer.chat import ChatTemplate
    from trainer.checkpoint import Checkpoint
    from trainer.model import HybridLM

SOURCE_HELP = "A checkpoint's directory, or a run's id from `fulcrum run list`."


class NotTrained(FulcrumError):
    """What was named is no checkpoint, or a run that has trained no model on this host yet."""

    blame, slug = Blame.USER, "not-trained"


@dataclass(frozen=True)
class Trained:
    """A model, and what it reads with."""

    name: str
    directory: Path
    model: "HybridLM"
    tokenizer: "Tokenizer"
    template: "ChatTemplate"


def load(source: str, home: Path, server: str, *, quantised: bool) -> Trained:
    """Load what `source` names; `quantised` with the numerics of the phone.

    Raises:
        NotTrained: no such checkpoint or run, or none that is here.
        CheckpointError, TokenizerError, ChatError: it is damaged, or does not fit together.
    """
    from trainer.chat import template_of
    from trainer.tokenizer import require_fit

    checkpoint, name, quantisation = _find(source, home, server)
    model, tokenizer = checkpoint.model(), checkpoint.tokenizer
    require_fit(tokenizer, model.architecture.vocab_size)
    if quantised:
        model = _as_deployed(checkpoint, model, quantisation)
    template = template_of(checkpoint.directory, tokenizer)
    return Trained(name, checkpoint.directory, model, tokenizer, template)


def _find(source: str, home: Path, server: str) -> "tuple[Checkpoint, str, Quantisation | None]":
    from trainer.checkpoint import Checkpoint

    path = Path(source)
    if path.is_dir():
        return Checkpoint(path), path.resolve().name, None
    if path.exists() or len(path.parts) != 1:
        raise NotTrained(f"{source} is no checkpoint's directory.", advice="Name a directory with architecture.json.")
    try:
        with connect(server) as client:
            run = client.run(source)
            quantisation = client.search(run.spec.search).spec.quantisation
    except FulcrumError as wrong:
        raise NotTrained(
            f"{source} is no directory here, and no run that {server} tells of: {wrong.message}",
            advice="Name a checkpoint's directory, or a run from `fulcrum run list`.",
        ) from wrong
    trained = [stage.checkpoint for stage in run.stages if stage.checkpoint and stage.makes == "model"]
    if not trained:
        raise NotTrained(f"Run {source} has trained no model yet.", advice=f"See: fulcrum run watch {source}")
    found = home / "runs" / run.id / trained[-1]
    if not found.is_dir():
        raise NotTrained(
            f"The run's checkpoint is not at {found}.", advice="Say --home: the server's data directory on this host."
        )
    return Checkpoint(found), run.id, quantisation


def _as_deployed(checkpoint: "Checkpoint", model: "HybridLM", quantisation: "Quantisation | None") -> "HybridLM":
    """With the integers that quantisation-aware training left; else rounded as the run's search, or by default."""
    from device_agent.contracts import Quantisation
    from search.numerics import scheme_of
    from trainer.quantise import quantised

    packing = checkpoint.packing()
    return quantised(model, packing if packing is not None else scheme_of(quantisation or Quantisation()))
