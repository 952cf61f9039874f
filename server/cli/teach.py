"""`fulcrum teach`: what a teacher predicts of a corpus, computed once for any number of students."""

from pathlib import Path
from typing import Annotated

import typer

from server.cli.local import Meter, stoppable
from server.cli.options import JsonOption


def teach(
    corpus: Annotated[Path, typer.Argument(help="A prepared corpus: what students will train on.")],
    out: Annotated[Path, typer.Argument(help="The cache; run it again to carry on, or to cover more tokens.")],
    teacher: Annotated[
        Path, typer.Option(help="A checkpoint of ours, or a folder of any causal language model of transformers.")
    ],
    tokens: Annotated[int, typer.Option(min=1, help="To cover: those that the longest training will read.")] = 320_000,
    sequence: Annotated[int, typer.Option(min=8, help="Tokens a sequence, as in the training.")] = 128,
    seed: Annotated[int, typer.Option(help="Of the order of the text, as in the training.")] = 0,
    top_k: Annotated[int, typer.Option(min=1, max=4096, help="Likeliest tokens to keep at every position.")] = 32,
    batch: Annotated[int, typer.Option(min=1, help="Sequences that the teacher reads at once.")] = 8,
    json: JsonOption = False,
) -> None:
    """Keep a teacher's top-K logits and their mass, compressed; trainings then name OUT as their teacher.

    Ctrl-C keeps what is done; a kill loses half a million tokens at most. Another tokenizer than the corpus's, another
    teacher and another order of the text are refused.

    Examples:

        fulcrum teach books taught --teacher runs/9a1b/sealed/5d0c --tokens 2000000

        fulcrum train out --architecture model.json --corpus books --stage pretrain:teacher=taught,tokens=2000000
    """
    from trainer.data import Corpus
    from trainer.errors import TeacherError
    from trainer.teachers.cache import Plan, is_cache
    from trainer.teachers.cache import teach as fill
    from trainer.teachers.folder import identity, open_teacher

    if is_cache(teacher):
        raise TeacherError(f"{teacher} is a cache itself", advice="name the teacher's own folder")
    text = Corpus.open(corpus)
    asked = open_teacher(teacher, text)
    plan = Plan(
        corpus=text.meta["key"],
        teacher=identity(teacher),
        vocab_size=text.vocab_size,
        sequence=sequence,
        seed=seed,
        top_k=top_k,
    )
    with Meter(["teach"]).shown() as meter, stoppable() as should_stop:
        cache = fill(
            asked,
            text,
            out,
            plan,
            windows=-(-tokens // sequence),
            batch=batch,
            report=lambda done, total: meter.stage(0, done * sequence, total * sequence, {}),
            should_stop=should_stop,
        )
    _show(cache.manifest.windows * sequence, cache.bytes_per_token, out, json)


def _show(tokens: int, bytes_per_token: float, out: Path, as_json: bool) -> None:
    import json

    if as_json:
        typer.echo(json.dumps({"cache": str(out), "tokens": tokens, "bytes_per_token": bytes_per_token}, indent=2))
        return
    typer.echo(
        f"{tokens:,} tokens at {bytes_per_token:.1f} bytes each: {tokens * bytes_per_token / 1e6:,.1f} MB in {out}"
    )
