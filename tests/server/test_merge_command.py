"""`fulcrum merge`: specialists of two distributions, the search for weights, and what is kept."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from server.cli.main import application
from server.cli.words import in_words
from trainer.architecture import Architecture, Attention, ShortConv
from trainer.checkpoint import Checkpoint, seal
from trainer.data import prepare
from trainer.engine import Run, hard_labels, train
from trainer.merge.search import search_weights
from trainer.model import HybridLM
from trainer.recipe import Recipe
from trainer.sources import Source

ITSELF = "the first model, once more"
BLOCKS = (ShortConv(), Attention(heads=2, kv_heads=1, head_dim=16))
RECIPE = Recipe(tokens=24_000, batch=8, sequence=48)


def merge(*arguments: str | Path) -> dict[str, Any]:
    result = CliRunner().invoke(application(), ["merge", *map(str, arguments), "--json"])
    if result.exception is not None:
        raise result.exception
    found: dict[str, Any] = json.loads(result.stdout)
    return found


class Household:
    """A base trained on both distributions, and a specialist of each."""

    def __init__(self, folder: Path) -> None:
        torch.set_num_threads(1)
        draw = random.Random(1)
        lines = {
            "sums": lambda: f"{(a := draw.randrange(60))} + {(b := draw.randrange(40))} = {a + b}",
            "words": lambda: "the {} sees a {} and runs away".format(*draw.sample(ANIMALS, 2)),
        }
        for name, line in lines.items():
            documents = ["\n".join(line() for _ in range(40)) for _ in range(200)]
            (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
        sources = [Source(format="jsonl", path=folder / f"{name}.jsonl", name=name) for name in lines]
        self.corpus = prepare(sources, folder / "both", vocab_size=300)
        self.tokenizer = folder / "both/tokenizer.json"
        self.folder = folder
        architecture = Architecture(vocab_size=300, width=32, ffn_width=64, blocks=BLOCKS)
        base = HybridLM(architecture, seed=3)
        train(base, self.corpus, RECIPE, hard_labels, Run())
        self.base = self.sealed(base)
        self.specialists = [self._specialist(source) for source in sources]

    def sealed(self, model: HybridLM) -> Checkpoint:
        return seal(model, self.folder / "sealed", self.corpus.tokenizer)

    def _specialist(self, source: Source) -> Checkpoint:
        at = self.folder / f"only-{source.name}"
        own = prepare([source], at, vocab_size=300, tokenizer=self.tokenizer)
        model = self.base.model()
        train(model, own, RECIPE.model_copy(update={"learning_rate": 4e-3}), hard_labels, Run())
        return self.sealed(model)


ANIMALS = ("fox", "owl", "hen", "cat", "dog", "cow", "pig", "bee", "ant", "elk")


@pytest.fixture(scope="module")
def household(tmp_path_factory: pytest.TempPathFactory) -> Household:
    return Household(tmp_path_factory.mktemp("household"))


def test_a_merge_that_beats_both_specialists_is_kept(household: Household, tmp_path: Path) -> None:
    parents = [parent.directory for parent in household.specialists]
    given = ["--base", household.base.directory, "--corpus", household.folder / "both", "--out", tmp_path]
    found = merge(*parents, *given, "--method", "task_arithmetic", "--evaluations", "12")
    *judged, merged = found["bits_per_byte"]
    assert found["kept"]
    assert all(set(row["bits_per_byte"]) == {"sums", "words"} for row in (*judged, merged))
    assert judged[0]["bits_per_byte"]["sums"] < judged[1]["bits_per_byte"]["sums"]  # each is better at its own
    assert judged[1]["bits_per_byte"]["words"] < judged[0]["bits_per_byte"]["words"]
    assert merged["mean"] < min(row["mean"] for row in judged)
    again = merge(*parents, *given, "--method", "task_arithmetic", "--evaluations", "12")
    assert again == found
    Checkpoint(Path(found["checkpoint"])).model()


def test_a_merge_that_is_not_better_is_not_kept(household: Household, tmp_path: Path) -> None:
    one, copy = household.specialists[0].directory, tmp_path / "copy"
    shutil.copytree(one, copy)
    found = merge(one, copy, "--method", "linear", "--corpus", household.folder / "both", "--out", tmp_path)
    assert not found["kept"]
    assert found["checkpoint"] is None
    assert not (tmp_path / "sealed").exists()


def test_models_are_compared_by_held_out_conversations(household: Household, tmp_path: Path) -> None:
    parents = [parent.directory for parent in household.specialists]
    asked = [("what is 3 + 4?", "3 + 4 = 7"), ("who sees whom?", "the fox sees a hen and runs away")]
    given: list[str | Path] = ["--base", household.base.directory, "--method", "task_arithmetic", "--out", tmp_path]
    for name, (question, answer) in zip(("sums", "words"), asked, strict=True):
        said = {"role": "assistant", "content": answer}
        rows = [{"messages": [{"role": "user", "content": f"{question} {n}"}, said]} for n in range(8)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        given += ["--chats", tmp_path / f"{name}.jsonl"]
    found = merge(*parents, *given, "--evaluations", "3")
    *judged, merged = found["nats"]
    assert set(merged["nats"]) == {"sums.jsonl", "words.jsonl"}
    assert judged[0]["nats"]["sums.jsonl"] < judged[1]["nats"]["sums.jsonl"]
    assert found["kept"] == (merged["mean"] < min(row["mean"] for row in judged))
    for neither_nor_both in ([], ["--corpus", household.folder / "both", "--chats", tmp_path / "sums.jsonl"]):
        with pytest.raises(Exception, match="one of text and conversations"):
            merge(*parents, "--out", tmp_path, *neither_nor_both)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--method", "ties"], "base is missing"),
        (["--method", "linear", "--weights", "1,2,3"], "2 models and 3 weights"),
        (["--method", "linear", "--weights", "1,x"], "no weights"),
        (["--method", "linear", "--weights", "1,-1"], "sum to zero"),
        (["--method", "soup"], "method"),
        (["--method", "linear", ITSELF], "named twice"),
        (["--method", "della", "--density", "0.9"], "density"),
    ],
)
def test_what_cannot_be_merged_is_said(household: Household, tmp_path: Path, options: list[str], named: str) -> None:
    parents: list[str | Path] = [parent.directory for parent in household.specialists]
    options = [str(parents[0]) if option == ITSELF else option for option in options]
    with pytest.raises(Exception) as refused:  # noqa: PT011 - of whatever kind, the command line puts it into words
        merge(*parents, *options, "--corpus", household.folder / "both", "--out", tmp_path)
    message, advice = in_words(refused.value)
    assert named in message
    assert advice
    assert "defect" not in advice


def test_other_architectures_and_tokenizers_are_refused(household: Household, tmp_path: Path) -> None:
    wider = Architecture(vocab_size=300, width=64, ffn_width=64, blocks=BLOCKS)
    stranger = household.sealed(HybridLM(wider))
    two = [Source(path=Path(file), name=file) for file in (__file__, json.__file__)]
    other = prepare(two, tmp_path / "other", vocab_size=300)
    deaf = seal(household.base.model(), tmp_path / "deaf", other.tokenizer)
    for unlike, named in ((stranger, "architecture"), (deaf, "tokenizer")):
        given = ["--method", "linear", "--corpus", household.folder / "both", "--out", tmp_path]
        with pytest.raises(Exception, match=named):
            merge(household.base.directory, unlike.directory, *given)
    parents = [parent.directory for parent in household.specialists]
    with pytest.raises(Exception, match="another tokenizer than the models'"):
        merge(*parents, "--method", "linear", "--corpus", other.directory, "--out", tmp_path)


@pytest.mark.parametrize("on_simplex", [True, False])
def test_weights_are_found_within_the_budget(on_simplex: bool) -> None:
    best = (0.7, 0.1, 0.2)
    asked: list[tuple[float, ...]] = []

    def value(weights: tuple[float, ...]) -> float:
        asked.append(weights)
        return sum((a - b) ** 2 for a, b in zip(weights, best, strict=True))

    found, least = search_weights(value, 3, 200, on_simplex=on_simplex, report=lambda *_: None)
    assert least == value(found) < 1e-3
    assert len(asked) - 1 == len(set(asked)) <= 200
    assert not on_simplex or all(abs(sum(weights) - 1) < 1e-3 for weights in asked)
    _, early = search_weights(value, 3, 1, on_simplex=on_simplex, report=lambda *_: None)
    assert early == value((0.3333,) * 3)
