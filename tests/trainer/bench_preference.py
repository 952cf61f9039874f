"""What preferences do to a model that adds two digits right only some of the time.

A tiny model learns sums from data of which a share is wrong, then learns from preferences between its own answers. The
judge is the rule `exact`; the examiner, which chose no pair, the rule `number`. Prompts of the win rate are held out.
"""

import argparse
import json
import random
import statistics
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

import torch

from trainer.architecture import Architecture, Attention, ShortConv
from trainer.chat import Message, PlainTemplate
from trainer.checkpoint import seal
from trainer.data import Batch, Corpus, prepare
from trainer.engine import Run, hard_labels, train
from trainer.linear_cross_entropy import IGNORED
from trainer.model import HybridLM
from trainer.options import LossTerm, Rule
from trainer.pipeline import run
from trainer.preference.stage import Preference
from trainer.recipe import Recipe
from trainer.sources import Source

_VOCABULARY, _WINDOW = 300, 48
_MIXES = {
    "sigmoid": (LossTerm(loss="sigmoid", beta=0.1),),
    "sigmoid_norm": (LossTerm(loss="sigmoid_norm", beta=2.0),),
    "apo_zero": (LossTerm(loss="apo_zero", beta=0.1),),
    "simpo": (LossTerm(loss="simpo", beta=2.0, gamma=0.5),),
    "mix": (LossTerm(loss="sigmoid_norm", beta=2.0), LossTerm(loss="apo_zero", beta=0.1, weight=0.5)),
}


class Sums(Corpus):
    """Chats of sums, of which `wrong` have a random answer, as a corpus to the training loop."""

    def __init__(self, corpus: Corpus, wrong: float) -> None:
        super().__init__(corpus.directory, corpus.meta, corpus.tokenizer)
        self._template, self._wrong = PlainTemplate(corpus.tokenizer), wrong

    def batch(self, step: int, *, size: int, sequence: int, seed: int, long_share: float = 0.0) -> Batch:
        dice = random.Random(f"{seed}/{step}")
        inputs = torch.zeros(size, sequence, dtype=torch.int64)
        targets = torch.full((size, sequence), IGNORED)
        for row in range(size):
            a, b = dice.randrange(10), dice.randrange(10)
            said = dice.randrange(19) if dice.random() < self._wrong else a + b
            asked = Message(role="user", content=f"{a}+{b}=")
            prompt = self._template.encode([asked])
            whole = self._template.encode([asked, Message(role="assistant", content=str(said))], reply=False)
            inputs[row, : len(whole) - 1] = torch.tensor(whole[:-1])
            targets[row, len(prompt) - 1 : len(whole) - 1] = torch.tensor(whole[len(prompt) :])
        return Batch(inputs, targets, torch.zeros_like(inputs), torch.arange(size))


def prompts() -> str:
    """All sums of two digits as a file of prompts."""
    every = [(a, b) for a in range(10) for b in range(10)]
    return "".join(json.dumps({"prompt": f"{a}+{b}=", "answer": str(a + b)}) + "\n" for a, b in every)


def base(corpus: Corpus, seed: int, given: argparse.Namespace) -> HybridLM:
    """A model of text and of sums that it gets right some of the time."""
    blocks = (ShortConv(), Attention(heads=4, kv_heads=2, head_dim=16), ShortConv())
    model = HybridLM(Architecture(vocab_size=_VOCABULARY, width=64, ffn_width=128, blocks=blocks), seed=seed)
    train(model, corpus, Recipe(tokens=16 * 128 * 100, batch=16, seed=seed), hard_labels, Run())
    tokens = 64 * _WINDOW * given.sums
    sums = Recipe(tokens=tokens, batch=64, sequence=_WINDOW, learning_rate=6e-3, weight_decay=0, seed=seed)
    train(model, Sums(corpus, given.wrong), sums, hard_labels, Run())
    return model


def measured(model: HybridLM, folder: Path, corpus: Corpus, mix: str, given: argparse.Namespace) -> dict[str, Any]:
    """Figures before and after learning from preferences by one mix of losses."""
    (folder / "prompts.jsonl").write_text(prompts())
    stage = Preference(
        prompts=folder / "prompts.jsonl",
        judge=(Rule(rule="exact"),),
        examiner=(Rule(rule="number"),),
        losses=_MIXES[mix],
        tokens=given.rounds * given.steps * 16 * 128,
        batch=16,
        sequence=128,
        rounds=given.rounds,
        samples=given.samples,
        max_tokens=6,
        held_out=0.3,
        learning_rate=given.rate,
    )
    start = seal(model, folder / "base", corpus.tokenizer)
    _, (outcome,) = run([stage], model.architecture, corpus.directory, folder / mix, start=start)
    return {"mix": mix, "before": outcome.before, "after": outcome.after}


def main() -> None:
    """Measure each mix over the seeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mixes", default="sigmoid_norm", help=f"with commas, of {', '.join(_MIXES)}")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=40, help="of a round")
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--sums", type=int, default=500, help="steps on sums before")
    parser.add_argument("--wrong", type=float, default=0.5, help="share of them that is wrong")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    library = Path(sysconfig.get_path("stdlib"))
    found = []
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        sources = [Source(path=library / name) for name in ("argparse.py", "ast.py", "inspect.py", "heapq.py")]
        corpus = prepare(sources, place / "corpus", vocab_size=_VOCABULARY, seed=1)
        for seed in range(given.seeds):
            folder = place / str(seed)
            folder.mkdir()
            model = base(corpus, seed, given)
            for mix in given.mixes.split(","):
                found.append({"seed": seed, **measured(model, folder, corpus, mix, given)})
                if not given.json:
                    _tell(found[-1])
    if given.json:
        print(json.dumps(found, indent=2))
        return
    for mix in given.mixes.split(","):
        rates = [one["after"]["win_rate"] for one in found if one["mix"] == mix]
        print(
            f"{mix}: win rate {statistics.mean(rates):.3f} ({min(rates):.3f} to {max(rates):.3f}, {len(rates)} seeds)"
        )


def _tell(one: dict[str, Any]) -> None:
    before, after = one["before"], one["after"]
    figures = ("win_rate", "examiner_score", "judge_score", "bits_per_byte")
    told = ", ".join(f"{name} {before[name]:.3f} to {after[name]:.3f}" for name in figures)
    print(
        f"{one['mix']} {one['seed']}: {told}, margin {after['reward_margin']:.2f}, {after['pairs']:.0f} pairs",
        flush=True,
    )


if __name__ == "__main__":
    main()
