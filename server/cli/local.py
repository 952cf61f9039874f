"""Training in this process, without a server: its text, its progress, and how it is stopped."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from trainer.data import Corpus

TextOption = Annotated[list[Path] | None, typer.Option("--text", help="Text, .jsonl or .parquet to read.")]
StdlibOption = Annotated[bool, typer.Option("--python-stdlib", help="This interpreter's own source as text.")]
CorpusOption = Annotated[Path | None, typer.Option("--corpus", help="A prepared corpus, in the place of text.")]

_LINE_SECONDS = 10.0
_SHOWN = {  # metric: how it is written
    "loss": "loss {:.3f}",
    "bits_per_byte": "{:.3f} bits per byte",
    "tokens_per_second": "{:,.0f} tokens/s",
    "flops_utilisation": "{:.0%} of peak",
    "gradient_norm": "gradient {:.2f}",
}


def read_corpus(
    out: Path,
    vocabulary: int,
    tokenizer: Path | None,
    given: tuple[list[Path], bool, Path | None],
    report: Callable[[str, int, int], None],
) -> "Corpus":
    """The corpus of (--text, --python-stdlib, --corpus), prepared under `out` unless it is already.

    Raises:
        CorpusError: there is no text, or it cannot be read.
        TokenizerError: a corpus that another tokenizer read than `tokenizer`.
    """
    from trainer.data import Corpus, corpus_key, prepare
    from trainer.errors import CorpusError, TokenizerError
    from trainer.sources import Source
    from trainer.tokenizer import load_tokenizer

    text, python_stdlib, corpus = given
    if corpus is not None:
        found = Corpus.open(corpus)
        if tokenizer is not None and found.tokenizer.to_str() != load_tokenizer(tokenizer).to_str():
            raise TokenizerError(
                f"{corpus} was prepared with another tokenizer than the checkpoint's",
                advice="give the text itself: it is read with the checkpoint's tokenizer",
            )
        return found
    formats = {".jsonl": "jsonl", ".parquet": "parquet"}
    sources = [Source.model_validate({"format": formats.get(path.suffix, "text"), "path": path}) for path in text]
    sources += [Source(format="stdlib")] if python_stdlib else []
    if not sources:
        raise CorpusError("there is no text to train on", advice="say --corpus DIR, --text FILE or --python-stdlib")
    directory = out / "corpora" / corpus_key(sources, vocab_size=vocabulary, tokenizer=tokenizer)
    directory.parent.mkdir(parents=True, exist_ok=True)
    return prepare(sources, directory, vocab_size=vocabulary, tokenizer=tokenizer, report=report)


class Meter:
    """A bar that moves with what a corpus and a pipeline report; where none can be drawn, a line now and then."""

    def __init__(self, stages: list[str]) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=self._console)
        self._task = self._bar.add_task(stages[0], total=None)
        self._stages, self._next_line, self._known = stages, 0.0, dict[str, float]()

    @contextmanager
    def shown(self) -> Iterator["Meter"]:
        """Draw it while this lasts."""
        with self._bar:
            yield self

    def text(self, message: str, done: int, total: int) -> None:
        """A corpus is prepared."""
        self._move(f"text: {message}", done, total)

    def stage(self, index: int, done: int, total: int, metrics: dict[str, float]) -> None:
        """A stage moved; a metric that is measured from time to time stays until it is measured again."""
        self._known |= metrics
        words = [form.format(self._known[name]) for name, form in _SHOWN.items() if name in self._known]
        self._move(", ".join([self._stages[index], *words]), done, total)

    def _move(self, text: str, done: int, total: int) -> None:
        self._bar.update(self._task, description=text, completed=done, total=total)
        if not self._console.is_terminal and time.monotonic() >= self._next_line:
            self._console.print(f"{text} ({done} of {total})", markup=False, highlight=False, soft_wrap=True)
            self._next_line = time.monotonic() + _LINE_SECONDS


@contextmanager
def stoppable(*, alone: bool = True) -> Iterator[Callable[[], bool]]:
    """Ctrl-C or SIGTERM asks the training to stop where it can be carried on; a second Ctrl-C ends it at once.

    Not `alone`, under torchrun, one Ctrl-C comes twice: from the terminal, and handed on by torchrun.
    """
    asked = False

    def ask(number: int, frame: object) -> None:  # noqa: ARG001  # signal's signature
        nonlocal asked
        if asked and alone and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked = True

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
