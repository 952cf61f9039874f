"""`fulcrum data` in this process."""

import json
import random
from pathlib import Path

import pytest
from typer.testing import CliRunner

from server.cli.main import application
from trainer.data import Corpus
from trainer.errors import CorpusError


def run(*arguments: str | Path) -> str:
    result = CliRunner().invoke(application(), ["data", *map(str, arguments)])
    if result.exception is not None:
        raise result.exception
    return result.stdout


def _book(path: Path, word: str) -> Path:
    chance = random.Random(word)
    with path.open("w") as file:
        for _ in range(60):
            things = (f"{chance.choice([word, 'river', 'stone'])}{chance.randrange(50)}" for _ in range(60))
            text = " ".join(f"{chance.choice(['the', 'of', 'to'])} {thing}" for thing in things)
            file.write(json.dumps({"body": f"{text}."}) + "\n")
        file.write(json.dumps({"body": "zu kurz"}) + "\n")
    return path


def test_text_is_prepared_and_looked_at(tmp_path: Path) -> None:
    sources = ["--source", _book(tmp_path / "one.jsonl", "red"), "--source", _book(tmp_path / "two.jsonl", "blue")]
    given = [*sources, "--field", "body", "--vocab-size", "300", "--weight", "two=0.75"]
    made = json.loads(run("prepare", tmp_path / "c", *given, "--clean", "--json"))
    one, two = made["sources"]
    assert (one["share"], two["share"]) == (0.25, 0.75)
    assert two["epochs"] == pytest.approx(3 * one["epochs"], rel=0.1)
    assert sum(about["documents"] for about in one["removed"].values()) == 1
    shown = run("inspect", tmp_path / "c", "--verify", "--samples", "2")
    for expected in ("one", "75.0%w", "Removed from two", "zu kurz", "next document", "have the hashes"):
        assert expected in shown
    told = json.loads(run("inspect", tmp_path / "c", "--json", "--samples", "1"))
    assert told["samples"][0].count("river") > 1
    assert (
        sum(told["sources"][0]["lengths"].values()) == 60 - Corpus.open(tmp_path / "c").lengths("held_out", "one").size
    )
    with pytest.raises(CorpusError, match="another corpus"):
        run("prepare", tmp_path / "c", *given)
    with pytest.raises(CorpusError, match="three=1 is no share") as caught:
        run("prepare", tmp_path / "d", *sources, "--weight", "three=1")
    assert "one, two" in caught.value.advice
    shard = next((tmp_path / "c").glob("0001-train-tokens-*.bin"))
    shard.write_bytes(bytes(shard.stat().st_size))
    with pytest.raises(CorpusError, match=r"0001-train-tokens.* has changed on disk"):
        run("inspect", tmp_path / "c", "--verify")


def test_what_can_be_fetched_is_listed_with_its_licence() -> None:
    shown = json.loads(run("fetch", "--list", "--json"))
    assert {"sotu", "moby-dick", "anarchism"} <= {corpus["name"] for corpus in shown}
    assert all(corpus["licence"] for corpus in shown)
    with pytest.raises(CorpusError, match="no corpus was named"):
        run("fetch")
