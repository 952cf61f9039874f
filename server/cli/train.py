"""`fulcrum train`: stages of the trainer without a server, alone or as one of torchrun's ranks."""

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from server.cli.local import CorpusOption, Meter, StdlibOption, TextOption, read_corpus, stoppable
from server.cli.options import JsonOption
from server.cli.stages import parse_fields
from server.cli.words import mistakes

if TYPE_CHECKING:
    from trainer.architecture import Architecture
    from trainer.checkpoint import Checkpoint
    from trainer.stage import Outcome

_SHOWN = ("answers/", "nats", "merge/", "parent/")  # figures beside the bits per byte, by how they begin


def train(
    out: Annotated[Path, typer.Argument(help="Directory of everything that is made; run it again to carry on.")],
    stage: Annotated[
        list[str], typer.Option("--stage", help="NAME or NAME:OPTION=VALUE,... in their order: pretrain, sft, qat, ...")
    ],
    architecture: Annotated[Path | None, typer.Option(help="architecture.json of the model to train.")] = None,
    start: Annotated[
        Path | None, typer.Option("--from", help="Begin with this checkpoint, or Hugging Face folder of an Lfm2.")
    ] = None,
    text: TextOption = None,
    python_stdlib: StdlibOption = False,
    corpus: CorpusOption = None,
    save_seconds: Annotated[float, typer.Option(help="Between checkpoints; longer where saving takes long.")] = 20.0,
    json: JsonOption = False,
) -> None:
    """Train a model in this process, or in many that torchrun starts. Ctrl-C saves; the same command carries on.

    Examples:

        fulcrum train out --architecture model.json --corpus books --stage teacher --stage pretrain:tokens=2000000

        fulcrum train out --from runs/9a1b/sealed/5d0c --python-stdlib --stage qat:scales=learned,tokens=200000

        fulcrum train out --from base/sealed/5d0c --corpus base/corpus --stage 'sft:data=chats.jsonl,epochs=2'

        fulcrum train out --architecture model.json --corpus books --stage teacher --stage pretrain \\
            --stage 'sft:of=teacher,data=chats.jsonl' --stage synthesise:recipe=arithmetic,limit=1000 --stage sft \\
            --stage 'merge:specialists={"sums":"sums.jsonl","words":"words.jsonl"}'

    Eight GPUs of one machine; whoever is killed is started again, and carries on from the last checkpoint:

        torchrun --standalone --nproc-per-node 8 --max-restarts 20 --no-python \\
            fulcrum train out --architecture model.json --corpus books --stage pretrain:batch=512,sequence=4096

    Two machines, the same on both; they share `out`:

        torchrun --nnodes 2 --nproc-per-node 8 --max-restarts 20 --rdzv-backend c10d --rdzv-endpoint first:29400 \\
            --no-python fulcrum train /shared/out --architecture model.json --corpus books --stage pretrain
    """
    from trainer import pipeline
    from trainer.errors import TrainerError
    from trainer.ranks import joined

    stages = pipeline.stages_of([parse_fields(text) for text in stage])
    meter = Meter([each.kind for each in stages])
    with joined() as ranks, stoppable(alone=ranks.world == 1) as should_stop:
        try:
            begin, model = ranks.once(lambda: _model(architecture, start, out))
            tokenizer = begin.directory / "tokenizer.json" if begin else None
            given = (text or [], python_stdlib, corpus)
            with meter.shown() if ranks.first else nullcontext():
                read = ranks.once(lambda: read_corpus(out, model.vocab_size, tokenizer, given, meter.text).directory)
                final, outcomes = pipeline.run(
                    stages,
                    model,
                    read,
                    out,
                    start=begin,
                    report=meter.stage,
                    should_stop=should_stop,
                    ranks=ranks,
                    save_seconds=save_seconds,
                )
        except TrainerError:
            if ranks.first:
                raise
            raise typer.Exit(1) from None  # the first rank says why
        if ranks.first:
            _show(final, outcomes, json)


def _model(architecture: Path | None, start: Path | None, out: Path) -> "tuple[Checkpoint | None, Architecture]":
    from pydantic import ValidationError

    from trainer.architecture import Architecture
    from trainer.checkpoint import gathered
    from trainer.errors import CheckpointError

    if architecture is not None and start is None:
        try:
            return None, Architecture.model_validate_json(architecture.read_text())
        except ValidationError as wrong:
            raise CheckpointError(
                f"{architecture} is no architecture:\n{mistakes(wrong)}",
                advice="a checkpoint's architecture.json shows what there is to say",
            ) from wrong
    if start is not None and architecture is None:
        begin = gathered(start, out / "sealed")
        return begin, begin.architecture
    raise CheckpointError("what shall be trained?", advice="say either --architecture FILE or --from CHECKPOINT")


def _show(final: "Checkpoint", outcomes: "list[Outcome]", as_json: bool) -> None:
    import json

    if as_json:
        found = {"checkpoint": str(final.directory), "stages": [each.model_dump(mode="json") for each in outcomes]}
        typer.echo(json.dumps(found, indent=2))
        return
    for each in outcomes:
        typer.echo(f"{each.stage}: {_trained(each)}")
        for name, after in each.after.items():
            if each.checkpoint is None or name.startswith(_SHOWN):
                begun = f"{each.before[name]:.4f} to " if name in each.before else ""
                typer.echo(f"  {name}: {begun}{after:,.4f}")
    typer.echo(f"Checkpoint: {final.directory}")


def _trained(outcome: "Outcome") -> str:
    if outcome.checkpoint is None:
        return f"{outcome.data} in {outcome.seconds:,.0f} s"
    before, after = outcome.before["bits_per_byte"], outcome.after["bits_per_byte"]
    trained = f"{outcome.tokens:,} tokens in {outcome.seconds:,.0f} s"
    return f"{before:.4f} to {after:.4f} held-out bits per byte, {trained}"
