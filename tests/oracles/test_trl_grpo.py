"""TRL's GRPOTrainer judges our policy loss: its own `_compute_loss` on random answers, value and gradient."""

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from trl import GRPOTrainer

from trainer.rl.losses import PolicyLoss, PolicyValue, advantages_of, truncated_importance

_LONGEST = 9


def _trainer(ours: PolicyLoss, logprobs: Tensor, corrected: bool) -> Any:
    """A GRPOTrainer of nothing but what its loss reads; the model's log-probabilities are given."""
    trainer = GRPOTrainer.__new__(GRPOTrainer)
    alone = SimpleNamespace(num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x)
    vars(trainer).update(
        accelerator=alone,
        args=SimpleNamespace(delta=ours.delta, use_bias_correction_kl=False, steps_per_generation=1),
        aux_loss_enabled=False,
        beta=ours.kl,
        current_gradient_accumulation_steps=1,
        epsilon_high=ours.clip_high,
        epsilon_low=ours.clip_low,
        importance_sampling_level=ours.level,
        loss_type=ours.aggregation,
        max_completion_length=_LONGEST,
        model=SimpleNamespace(training=True),
        off_policy_mask_threshold=None,
        top_entropy_quantile=1.0,
        use_vllm=corrected,
        vllm_importance_sampling_correction=corrected,
        _entropy_bonus_enabled=False,
        _metrics={"train": defaultdict(list)},
        _get_per_token_logps_and_entropies=lambda *_, **__: (logprobs, torch.zeros_like(logprobs), None),
    )
    return trainer


def _theirs(ours: PolicyLoss, logprobs: Tensor, known: dict[str, Tensor]) -> tuple[Tensor, float]:
    mask, correction = known["mask"], known["correction"]
    corrected = bool((correction != 1).any())
    trainer = _trainer(ours, logprobs, corrected)
    prompt = torch.ones(len(mask), 2, dtype=torch.int64)
    inputs = {
        "prompt_ids": prompt,
        "prompt_mask": prompt,
        "completion_ids": torch.ones_like(mask, dtype=torch.int64),
        "completion_mask": mask,
        "advantages": known["advantages"],
        "old_per_token_logps": known["old"],
        "ref_per_token_logps": known["reference"],
        "importance_sampling_ratio": correction,
        "num_items_in_batch": known["tokens"],
    }
    loss = trainer._compute_loss(trainer.model, inputs)
    told = trainer._metrics["train"]
    return loss, told["cispo_clip_ratio" if ours.aggregation == "cispo" else "clip_ratio/region_mean"][0]


def _ours(ours: PolicyLoss, logprobs: Tensor, known: dict[str, Tensor]) -> PolicyValue:
    named = {name: known[name] for name in ("reference", "correction", "tokens")}
    return ours(logprobs, known["old"], known["advantages"], known["mask"], longest=_LONGEST, **named)


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 1 << 30),
    ours=st.builds(
        PolicyLoss,
        aggregation=st.sampled_from(["grpo", "bnpo", "dr_grpo", "dapo", "cispo"]),
        level=st.sampled_from(["token", "sequence"]),
        clip_low=st.sampled_from([0.1, 0.2]),
        clip_high=st.sampled_from([0.2, 0.28, 5.0]),
        delta=st.sampled_from([None, 1.5]),
        kl=st.sampled_from([0.0, 0.05]),
    ),
    corrected=st.sampled_from(["no", "token", "sequence"]),
    apart=st.sampled_from([0.4, 0.4, 20.0]),
    informed=st.sampled_from([1.0, 1.0, 0.0]),
    shortest=st.sampled_from([0, 1]),
)
def test_value_gradient_and_clip_share_are_trls(
    seed: int, ours: PolicyLoss, corrected: Any, apart: float, informed: float, shortest: int
) -> None:
    """Also of policies far apart, of groups that all answer alike, and of answers that are left out whole."""
    drawn = torch.Generator().manual_seed(seed)
    rows, length = 6, 7
    policy, old, sampler, reference = (
        torch.randn(4, rows, length, generator=drawn, dtype=torch.float64) * apart - 2
    ).unbind()
    lengths = torch.randint(shortest, length + 1, (rows, 1), generator=drawn)
    mask = (torch.arange(length) < lengths).double()
    correction = torch.ones_like(mask)
    if corrected != "no":
        correction = truncated_importance(old, sampler, mask, most=2.0, level=corrected)
    known = {
        "mask": mask,
        "old": old,
        "reference": reference,
        "correction": correction,
        "advantages": torch.randn(rows, generator=drawn, dtype=torch.float64) * informed,
        "tokens": mask.sum() + int(torch.randint(0, 9, (), generator=drawn)),
    }
    found: list[tuple[Tensor, Tensor]] = []
    shares: list[float] = []
    for side in (_ours, _theirs):
        inputs = policy.clone().requires_grad_()
        told: Any = side(ours, inputs, known)
        loss, share = (told.loss, told.clipped) if side is _ours else told
        found.append((loss.detach(), *torch.autograd.grad(loss, inputs)))
        shares.append(float(share))
    for mine, theirs in zip(*found, strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-9, atol=1e-11)
    assert shares[0] == pytest.approx(shares[1], abs=1e-6)


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("most", [1.1, 3.0])
def test_the_correction_leaves_a_policy_that_sampled_itself_alone(level: Any, most: float) -> None:
    old = torch.randn(3, 5)
    assert (truncated_importance(old, old, torch.ones(3, 5), most=most, level=level) == 1).all()


def test_advantages_of_groups() -> None:
    rewards = torch.tensor([[0.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    spread = rewards[0].std() + 1e-4
    assert torch.allclose(advantages_of(rewards)[0], (rewards[0] - 0.5) / spread)
    for scale in ("group", "batch", "none"):
        assert (advantages_of(rewards, scale)[1] == 0).all()
    assert torch.allclose(advantages_of(rewards, "none")[0], rewards[0] - 0.5)
    assert torch.allclose(advantages_of(rewards, "batch")[0], (rewards[0] - 0.5) / (rewards.std() + 1e-4))
