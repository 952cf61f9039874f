import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer import linear_cross_entropy, memory, model
from trainer.architecture import Architecture, Attention, Rope, ShortConv, Yarn
from trainer.curriculum import Curriculum
from trainer.data import Batch, Corpus
from trainer.engine import hard_labels
from trainer.errors import CheckpointError, CorpusError, Interrupted, NotEnoughMemory
from trainer.evaluate import Needle, Task, Text, bits_by_position, episodes, evaluate, reading, recall, task
from trainer.extend import Extend, raised
from trainer.linear_cross_entropy import IGNORED
from trainer.model import HybridLM
from trainer.options import Phase
from trainer.pipeline import run
from trainer.pretrain import Pretrain
from trainer.rope import frequencies

_YARN = Yarn(factor=8, original=64)
_SMALL = {"batch": 4, "sequence": 64}
_HYBRID = (ShortConv(kernel=4), Attention(heads=4, kv_heads=2, head_dim=8))


def _architecture(*blocks: ShortConv | Attention, yarn: Yarn | None = None) -> Architecture:
    return Architecture(vocab_size=300, width=32, ffn_width=64, blocks=blocks, rope_theta=1e4, yarn=yarn)


def _loud(architecture: Architecture) -> HybridLM:
    made = HybridLM(architecture, seed=5)
    with torch.no_grad():
        made.model.embed_tokens.weight.mul_(10)
    return made


def _packed(lengths: list[int], rows: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    documents = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    tokens = torch.randint(0, 300, (rows, len(documents)), generator=torch.Generator().manual_seed(7))
    return tokens, torch.stack([documents, documents.flip(0)][:rows])


def _gradients(model: HybridLM, loss: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters())))


@settings(max_examples=25, deadline=None)
@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=6))
def test_documents_kept_apart_by_cutting_are_as_those_under_a_mask(lengths: list[int]) -> None:
    made = _loud(_architecture(*_HYBRID, yarn=_YARN))
    tokens, documents = _packed(lengths, rows=2)
    found = []
    with pytest.MonkeyPatch.context() as patch:
        for threshold in (1, 10_000):
            patch.setattr(model, "LONG", threshold)
            logits = made(tokens, documents=documents)
            found.append((logits, _gradients(made, logits.square().mean())))
    (cut, cut_gradients), (masked, masked_gradients) = found
    assert (cut - masked).abs().max() < 1e-5
    for ours, expected in zip(cut_gradients, masked_gradients, strict=True):
        assert (ours - expected).abs().max() <= 1e-5 * (1 + expected.abs().max())


def test_what_is_computed_in_chunks_and_again_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "FFN_CHUNK", 7)
    monkeypatch.setattr(linear_cross_entropy, "most_rows", lambda vocab_size: 5)
    monkeypatch.setattr(reading, "HEAD_CHUNK", 5)
    made = _loud(_architecture(*_HYBRID, yarn=_YARN))
    tokens, documents = _packed([30, 1, 22])
    targets = tokens.roll(-1, dims=1)
    targets[0, ::3] = IGNORED
    batch = Batch(tokens, targets, documents, torch.zeros(1, dtype=torch.int64))
    logits = made(tokens, documents=documents)
    whole = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
    made.recomputes = True
    little = hard_labels(made, batch)
    assert little.item() == pytest.approx(whole.item(), rel=1e-6)
    for ours, expected in zip(_gradients(made, little), _gradients(made, whole), strict=True):
        assert (ours - expected).abs().max() <= 1e-5 * (1 + expected.abs().max())
    nats, right = reading.losses(made, tokens, targets, documents)
    asked = targets != IGNORED
    assert nats.sum().item() / int(asked.sum()) == pytest.approx(whole.item(), rel=1e-5)
    assert torch.equal(right, (logits.argmax(-1) == targets) & asked)


@torch.no_grad()
def test_operators_without_positions_are_untouched_by_yarn() -> None:
    tokens, _ = _packed([300])
    plain, stretched = (_loud(_architecture(ShortConv(), ShortConv(kernel=5), yarn=yarn)) for yarn in (None, _YARN))
    assert torch.equal(plain(tokens), stretched(tokens))
    plain, stretched = (_loud(_architecture(*_HYBRID, yarn=yarn)) for yarn in (None, _YARN))
    assert not torch.equal(plain(tokens), stretched(tokens))


def test_stretching_is_relative_to_the_first_length_and_never_chained() -> None:
    plain = _architecture(*_HYBRID)
    once = Extend(sequence=32_768, original=4096).stretched(plain)
    assert once.yarn == Yarn(factor=8, original=4096)
    assert Extend(sequence=131_072).stretched(once).yarn == Yarn(factor=32, original=4096)
    with pytest.raises(CheckpointError, match="stretched from 4096"):
        Extend(sequence=131_072, original=32_768).stretched(once)
    with pytest.raises(CheckpointError, match="how long its context was"):
        Extend(sequence=131_072).stretched(plain)
    with pytest.raises(CheckpointError, match="no longer"):
        Extend(sequence=2048, original=4096).stretched(plain)
    with pytest.raises(CheckpointError, match="stretched by YaRN"):
        Extend(sequence=131_072, method="base").stretched(once)
    assert Extend(sequence=131_072, original=4096, method="plain").stretched(plain) == plain


def test_a_raised_base_slows_the_slowest_pair_by_the_factor() -> None:
    plain = _architecture(*_HYBRID)
    theta = Extend(sequence=512, original=64, method="base").stretched(plain).rope_theta
    assert theta == raised(plain, 8)
    before, after = (frequencies(8, Rope(theta=base)) for base in (1e4, theta))
    assert (before[-1] / after[-1]).item() == pytest.approx(8, rel=1e-5)
    assert Extend(sequence=512, original=64, method="base", theta=5e5).stretched(plain).rope_theta == 5e5


def test_a_step_has_as_many_tokens_in_windows_of_its_phase(corpus: Corpus) -> None:
    phases = (Phase(length=64, share=0.5), Phase(length=256, share=0.25), Phase(length=512, share=0.25))
    stage = Extend(tokens=8 * 512, sequence=512, original=64, curriculum=phases, retrieval_share=0.5)
    grown = stage.corpus(corpus)
    batches = [grown.batch(step, size=1, sequence=512, seed=3) for step in range(8)]
    assert [tuple(batch.inputs.shape) for batch in batches] == [(8, 64)] * 4 + [(2, 256)] * 2 + [(1, 512)] * 2
    again = grown.batch(5, size=1, sequence=512, seed=3)
    assert torch.equal(batches[5].inputs, again.inputs)
    tasks = sum(int((batch.targets == IGNORED).any(1).sum()) for batch in batches)
    assert tasks == sum(len(batch.inputs) for batch in batches) // 2
    text = Curriculum(corpus, phases, 8, long_share=0.0, retrieval_share=0.0).batch(0, size=1, sequence=512, seed=3)
    assert torch.equal(text.inputs, corpus.batch(0, size=8, sequence=64, seed=3).inputs)
    with pytest.raises(ValueError, match="windows of 96"):
        Extend(sequence=512, original=64, curriculum=(Phase(length=96, share=1),))


def test_the_stage_extends_a_model_and_a_stopped_one_carries_on_to_the_same_bits(
    corpus: Corpus, tiny: Architecture, tmp_path: Path
) -> None:
    halves = (Phase(length=128, share=0.5), Phase(length=256, share=0.5))
    stages = [
        Pretrain(tokens=5_120, learning_rate=2e-2, **_SMALL),
        Extend(tokens=4_096, sequence=256, original=64, curriculum=halves, retrieval_share=0.25),
    ]
    final, outcomes = run(stages, tiny, corpus.directory, tmp_path / "whole")
    assert final.architecture == tiny.model_copy(update={"yarn": Yarn(factor=4, original=64)})
    before, after = outcomes[1].before, outcomes[1].after
    assert after["bits_per_byte/long"] < before["bits_per_byte/long"]
    assert {"bits_per_byte", "recall/needle", "recall/key_value/quarter_1", "memory_bytes"} <= after.keys()
    told = iter([False] * 29 + [True] + [False] * 100)  # 19 in the first stage, 10 in the second
    with pytest.raises(Interrupted, match="of 16 steps"):
        run(stages, tiny, corpus.directory, tmp_path / "parts", should_stop=lambda: next(told))
    resumed, _ = run(stages, tiny, corpus.directory, tmp_path / "parts")
    assert resumed.directory.name == final.directory.name


_OF_THEIR_OWN = Needle(key=1, value=1, keys=range(300, 312), values=range(312, 316))


@settings(max_examples=20, deadline=None)
@given(
    needles=st.integers(1, 12),
    asked=st.integers(1, 12),
    length=st.integers(150, 400),
    seed=st.integers(0, 2**40),
    needle=st.sampled_from([Needle(), Needle(key=1, value=3), Needle(key=3, value=1), _OF_THEIR_OWN]),
)
def test_episodes_ask_for_what_they_hide(needles: int, asked: int, length: int, seed: int, needle: Needle) -> None:
    text = Text(torch.arange(900) % 290, torch.ones(300, dtype=torch.int64), end_of_text=295)
    wanted = Task(needles, min(needles, asked), needle)
    given = episodes(text, wanted, count=3, length=length, seed=seed)
    assert torch.equal(given.inputs, episodes(text, wanted, count=3, length=length, seed=seed).inputs)
    key, value = needle.key, needle.value
    for tokens, targets, places, answers in zip(given.inputs, given.targets, given.places, given.answers, strict=True):
        assert len(set(places.tolist())) == len(places)
        assert int((targets != IGNORED).sum()) == value * len(places)
        for place, answer in zip(places.tolist(), answers.tolist(), strict=True):
            asks, said = answer - key + 1, place + key
            assert said + value <= asks
            assert tokens[place:said].tolist() == tokens[asks : answer + 1].tolist()
            assert tokens[said : said + value].tolist() == targets[answer : answer + value].tolist()
            if needle.keys and needle.values:
                assert int(tokens[place]) in needle.keys
                assert int(tokens[said]) in needle.values
    if needle.keys:
        assert all(len(set(row[at].tolist())) == len(at) for row, at in zip(given.inputs, given.places, strict=True))


@pytest.mark.parametrize(("sees", "expected"), [(10_000, 1.0), (130, None)])
def test_recall_is_counted_by_depth(sees: int, expected: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that looks values up finds them all; one that sees half of the context finds those in that half."""
    text = Text(torch.arange(4_000) % 290, torch.ones(300, dtype=torch.int64), end_of_text=295)

    def reader(_: HybridLM, tokens: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        right = torch.zeros_like(targets, dtype=torch.bool)
        for row, answer in (targets != IGNORED).nonzero().tolist():
            pair = tokens[row, answer - 1 : answer + 1].tolist()
            past = tokens[row, max(0, answer - sees) : answer].tolist()
            places = [i for i in range(len(past) - 2) if past[i : i + 2] == pair]
            right[row, answer] = any(past[i + 2] == targets[row, answer] for i in places)
        return torch.zeros_like(targets, dtype=torch.float32), right

    monkeypatch.setattr("trainer.evaluate.scores.losses", reader)
    shares = recall(
        _loud(_architecture(ShortConv())), episodes(text, Task(8, 8), count=16, length=255, seed=1), batch=4
    )
    assert shares.asked == 128
    if expected is not None:
        assert (shares.recall, shares.by_depth) == (expected, (expected,) * 4)
    else:
        assert shares.by_depth[0] == 0.0
        assert shares.by_depth[3] == 1.0


@torch.no_grad()
def test_bits_by_position_are_those_of_the_whole_window(corpus: Corpus) -> None:
    made = _loud(_architecture(*_HYBRID))
    text = Text.held_out(corpus, 2_000)
    bits, buckets = bits_by_position(made, text, length=200, windows=3, batch=2)
    windows = text.windows(3, 201)
    nats = F.cross_entropy(made(windows[:, :-1]).transpose(1, 2), windows[:, 1:], reduction="none")
    read = text.token_bytes[windows[:, 1:]]
    assert bits == pytest.approx((nats.sum() / read.sum() / torch.tensor(2.0).log()).item(), rel=1e-5)
    assert [(bucket.start, bucket.end) for bucket in buckets] == [(0, 64), (64, 128), (128, 200)]
    expected = nats[:, 128:].sum() / read[:, 128:].sum() / torch.tensor(2.0).log()
    assert buckets[2].bits_per_byte == pytest.approx(expected.item(), rel=1e-5)


def test_what_cannot_be_held_or_asked_is_refused_before_it_starts(
    corpus: Corpus, tiny: Architecture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = Text.held_out(corpus, 500)
    with pytest.raises(CorpusError, match="no room"):
        next(evaluate(HybridLM(tiny), text, [128, 40]))
    with pytest.raises(CorpusError, match="no room"):
        task("multi_needle", 32)
    stages = [Pretrain(tokens=256, **_SMALL), Extend(tokens=1 << 20, sequence=1 << 20, original=64)]
    monkeypatch.setattr(memory, "of_machine", lambda: 1 << 30)
    with pytest.raises(NotEnoughMemory, match=r"1048576 tokens takes about \d\.\d GiB, and this machine has 1\.0"):
        run(stages, tiny, corpus.directory, tmp_path)


_MEASURED = """
import json, sys, torch
from trainer import memory
from trainer.architecture import Architecture
from trainer.data import Batch
from trainer.engine import hard_labels
from trainer.model import HybridLM

def status(field):
    return next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith(field)) * 1024

def step(architecture, length):
    model = HybridLM(architecture)
    model.recomputes = True
    optimiser = torch.optim.AdamW(model.parameters(), fused=True)
    tokens = torch.zeros(1, length, dtype=torch.int64)
    for _ in range(2):
        optimiser.zero_grad(set_to_none=True)
        hard_labels(model, Batch(tokens, tokens, tokens, tokens[:, 0])).backward()
        optimiser.step()

torch.set_num_threads(1)
memory.return_large_blocks()
architecture = Architecture.model_validate_json(sys.argv[1])
step(architecture, 64)
before = status("VmRSS")
step(architecture, int(sys.argv[2]))
print(json.dumps(status("VmHWM") - before))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_is_what_was_predicted() -> None:
    architecture = Architecture(vocab_size=1024, width=128, ffn_width=64, blocks=(ShortConv(),) * 2)
    arguments = [sys.executable, "-c", _MEASURED, architecture.model_dump_json(), "16384"]
    measured = json.loads(subprocess.run(arguments, check=True, capture_output=True, text=True).stdout)
    predicted = memory.of_step(architecture, batch=1, sequence=16_384)
    assert predicted == pytest.approx(measured, rel=memory.TOLERANCE)
