import json
import math
import os
import signal
import subprocess
import sys
import textwrap
import time
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from trainer.architecture import Architecture
from trainer.checkpoint import Rolling
from trainer.data import Batch, Corpus, prepare
from trainer.engine import Run, bits_per_byte, hard_labels, held_out, train
from trainer.errors import Interrupted, TrainingDiverged
from trainer.model import HybridLM
from trainer.qat import Qat
from trainer.recipe import Recipe
from trainer.sources import Source

_RECIPE = Recipe(tokens=4 * 32 * 24, batch=4, sequence=32, learning_rate=1e-2, seed=5)


def _same(one: HybridLM, other: HybridLM) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_training_lowers_held_out_bits_per_byte_and_is_deterministic(corpus: Corpus, tiny: Architecture) -> None:
    models = [HybridLM(tiny, seed=2) for _ in range(2)]
    before = bits_per_byte(models[0], corpus, sequence=32)
    for model in models:
        train(model, corpus, _RECIPE, hard_labels, Run())
    assert bits_per_byte(models[0], corpus, sequence=32) < 0.8 * before
    assert _same(*models)


def test_bits_per_byte_of_a_uniform_model_is_known(corpus: Corpus, tiny: Architecture) -> None:
    model = HybridLM(tiny)
    torch.nn.init.zeros_(model.model.embed_tokens.weight)
    windows = list(corpus.held_out(size=16, sequence=32, windows=40))
    tokens = sum(window.targets.numel() for window in windows)
    read = sum(int(corpus.token_bytes[window.targets].sum()) for window in windows)
    expected = tokens * math.log2(tiny.vocab_size) / read
    assert bits_per_byte(model, corpus, sequence=32, windows=40) == pytest.approx(expected, rel=1e-5)


def test_each_source_has_a_held_out_figure(tiny: Architecture, tmp_path: Path) -> None:
    """Of a uniform model they tell sources' bytes per token apart, and nothing else."""
    for name, letters in (("latin", "ab c"), ("greek", "λπ ω")):
        lines = [json.dumps({"text": letters * (20 + number % 7)}) for number in range(200)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    sources = [Source(path=tmp_path / f"{name}.jsonl", format="jsonl") for name in ("latin", "greek")]
    corpus = prepare(sources, tmp_path / "corpus", vocab_size=tiny.vocab_size)
    model = HybridLM(tiny)
    torch.nn.init.zeros_(model.model.embed_tokens.weight)
    found = held_out(model, corpus, sequence=8, windows=40)
    assert found.pop("bits_per_byte") == bits_per_byte(model, corpus, sequence=8, windows=40)
    assert found.keys() == {"bits_per_byte/latin", "bits_per_byte/greek"}
    for name in ("latin", "greek"):
        windows = corpus.held_out(size=1, sequence=8, windows=20, source=name)
        targets = torch.cat([window.targets for window in windows])
        share = targets.numel() / int(corpus.token_bytes[targets].sum())
        assert found[f"bits_per_byte/{name}"] == pytest.approx(math.log2(tiny.vocab_size) * share, rel=1e-5)
    assert found["bits_per_byte/latin"] != found["bits_per_byte/greek"]


def test_the_rate_rises_stays_and_falls() -> None:
    recipe = Recipe(tokens=16 * 128 * 100, batch=16, warmup=0.1, decay=0.4)
    rates = [recipe.rate(step) for step in range(recipe.steps)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:60] == [1.0] * 51
    assert rates[-1] == pytest.approx(1 / 40)
    assert all(a > b for a, b in pairwise(rates[60:]))


def test_stopping_and_carrying_on_changes_no_bit(corpus: Corpus, tiny: Architecture, tmp_path: Path) -> None:
    whole = HybridLM(tiny, seed=2)
    train(whole, corpus, _RECIPE, hard_labels, Run())
    rolling = Rolling(tmp_path)
    for _ in range(30):
        stopped = HybridLM(tiny, seed=2)
        asked = iter([False] * 6 + [True])
        try:
            train(stopped, corpus, _RECIPE, hard_labels, Run(rolling, should_stop=lambda asked=asked: next(asked)))
        except Interrupted:
            assert len(list(tmp_path.iterdir())) == 1
            continue
        break
    else:
        pytest.fail("never finished")
    assert _same(whole, stopped)


_QAT = Qat(
    **_RECIPE.model_dump(), scales="learned", masters="bfloat16", stochastic_forward=True, distillation=0
)  # all that keeps state of its own, or draws at random

_CHILD = """
    import sys
    from pathlib import Path
    import torch
    torch.set_num_threads(1)
    from trainer.architecture import Architecture
    from trainer.checkpoint import Rolling
    from trainer.data import Corpus
    from trainer.engine import Run, train
    from trainer.model import HybridLM
    from trainer.qat import Qat
    corpus = Corpus.open(Path(sys.argv[1]))
    here = Path(sys.argv[2])
    full = HybridLM(Architecture.model_validate_json(sys.argv[3]), seed=2)
    qat = Qat.model_validate_json(sys.argv[4])
    model = qat.prepared(full, qat.scheme)
    run = Run(Rolling(here / "rolling"), report=lambda *a: print(a[0], flush=True), save_seconds=0)
    run.before_step = qat.forward_noise(model)
    train(model, corpus, qat, qat.loss(full), run, qat.optimiser_of)
"""


def _qat(tiny: Architecture, corpus: Corpus, run: Run) -> HybridLM:
    model = _QAT.prepared(HybridLM(tiny, seed=2), _QAT.scheme)
    run.before_step = _QAT.forward_noise(model)
    train(model, corpus, _QAT, _QAT.loss(model), run, _QAT.optimiser_of)
    return model


def _child(corpus: Corpus, tiny: Architecture, here: Path) -> subprocess.Popen[str]:
    arguments = [str(corpus.directory), str(here), tiny.model_dump_json(), _QAT.model_dump_json()]
    program = [sys.executable, "-c", textwrap.dedent(_CHILD), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen(program, stdout=subprocess.PIPE, text=True, env=environment)


def test_a_killed_run_ends_with_the_bits_of_an_undisturbed_one(
    corpus: Corpus, tiny: Architecture, tmp_path: Path
) -> None:
    """A training under rounding, with weights, moments and scales that are drawn or learned."""
    calm = _qat(tiny, corpus, Run())
    rolling = Rolling(tmp_path / "rolling")
    for steps in (5, 7):
        child = _child(corpus, tiny, tmp_path)
        assert child.stdout is not None
        for _ in range(steps):
            assert child.stdout.readline()
        time.sleep(0.003 * steps)  # somewhere within a step or a save
        child.send_signal(signal.SIGKILL)
        assert child.wait(timeout=30) == -signal.SIGKILL
        child.stdout.close()
    latest = rolling.latest()
    assert latest is not None
    assert 10 <= latest.notes["step"] < _QAT.steps
    assert _same(calm, _qat(tiny, corpus, Run(rolling)))
    assert {tensor.dtype for tensor in calm.state_dict().values() if tensor.dim() == 3} == {torch.float32}
    assert calm.model.embed_tokens.weight.dtype == torch.bfloat16


def test_a_loss_that_is_no_number_stops_with_advice(corpus: Corpus, tiny: Architecture, tmp_path: Path) -> None:
    rolling = Rolling(tmp_path)
    count = iter(range(100))

    def explodes(model: HybridLM, batch: Batch) -> torch.Tensor:
        loss = hard_labels(model, batch)
        return loss * float("nan") if next(count) == 5 else loss

    with pytest.raises(TrainingDiverged, match="nan at step 5") as caught:
        train(HybridLM(tiny), corpus, _RECIPE, explodes, Run(rolling, save_seconds=0))
    assert "learning rate" in caught.value.advice
    kept = rolling.latest()
    assert kept is not None
    assert kept.notes["step"] == 5
