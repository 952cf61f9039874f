"""Preparing is killed at any moment, and carried on."""

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from trainer.data import Corpus, draft, prepare, writer
from trainer.sources import Source


def _sources(folder: Path) -> list[Source]:
    chance = random.Random(0)
    for name in ("one", "two"):
        lines = (" ".join(chance.choice(["red", "blue", "stone", "river"]) for _ in range(9)) for _ in range(9000))
        (folder / f"{name}.txt").write_text("\n".join(lines), encoding="utf-8")
    return [Source.at(folder / "one.txt"), Source.at(folder / "two.txt")]


def _killed(work: Callable[[Callable[[], None]], object], moment: int) -> bool:
    """Run `work` in a child that is killed the `moment`-th time it calls what it is given; whether it came that far."""
    child = os.fork()
    if child == 0:
        calls = 0

        def here() -> None:
            nonlocal calls
            calls += 1
            if calls == moment:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            work(here)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def _fine_grained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards and checkpoints of a small corpus, as a large one has them."""
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    monkeypatch.setattr("trainer.data.preparation._CHECKPOINT_CHARACTERS", 60_000)
    monkeypatch.setattr("trainer.data.writer._SHARD_TOKENS", 20_000)
    monkeypatch.setattr("trainer.data.encode._TOGETHER", 2)


def test_a_preparation_killed_again_and_again_ends_with_the_same_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fine_grained(monkeypatch)
    sources = _sources(tmp_path)
    whole = prepare(sources, tmp_path / "whole", vocab_size=300)
    reached: list[int] = []

    def work(here: Callable[[], None]) -> None:
        add, save, rename = writer.Writer.add, draft.Draft.save_text, Path.rename

        def added(self: writer.Writer, *given: object) -> None:
            here()
            add(self, *given)  # type: ignore[arg-type]  # what came is what goes

        def saved(self: draft.Draft, name: str, text: str) -> None:
            here()
            save(self, name, text)
            here()

        def renamed(self: Path, target: Path) -> Path:
            here()
            return rename(self, target)

        monkeypatch.setattr(writer.Writer, "add", added)
        monkeypatch.setattr(draft.Draft, "save_text", saved)
        monkeypatch.setattr(Path, "rename", renamed)
        prepare(sources, tmp_path / "killed", vocab_size=300)

    chance = random.Random(1)
    while _killed(work, chance.randrange(3, 12 + 6 * len(reached))):
        assert not (tmp_path / "killed" / "meta.json").exists() or Corpus.open(tmp_path / "killed")
        progress = draft.Draft(tmp_path / ".killed.draft").load("progress.json")
        reached.append(progress["characters"] if progress else 0)
    assert len(reached) > 5
    assert reached == sorted(reached)  # what was done is not done again
    corpus = Corpus.open(tmp_path / "killed")
    corpus.verify()
    assert corpus.meta == whole.meta
    assert sorted(path.name for path in corpus.directory.iterdir()) == sorted(
        path.name for path in whole.directory.iterdir()
    )
    assert not (tmp_path / ".killed.draft").exists()


def test_other_text_does_not_go_on_with_an_old_draft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fine_grained(monkeypatch)
    sources = _sources(tmp_path)

    def interrupted(message: str, done: int, total: int) -> None:
        if message == "tokenise":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(sources, tmp_path / "c", vocab_size=300, report=interrupted)
    assert (tmp_path / ".c.draft" / "survey.json").exists()
    corpus = prepare(sources[:1], tmp_path / "c", vocab_size=300)
    assert corpus.sources == ("one",)
    assert {path.name for path in tmp_path.iterdir()} == {"one.txt", "two.txt", "c"}
