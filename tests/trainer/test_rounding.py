"""Stochastic rounding is unbiased and seeded, and carries what rounding to nearest loses."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.optim import AdamW

from trainer.rounding import Noise, RoundedAdamW, stochastically_rounded


def test_it_is_unbiased_and_gives_neighbouring_bfloat16s() -> None:
    draws = 20_000
    x = torch.tensor([0.3, -0.3, 1.0, 1e-30, 123.456, -7e5, 0.0]).repeat(draws, 1)
    rounded = stochastically_rounded(x, Noise(1).bits("x", x.shape))
    assert rounded.dtype == torch.bfloat16
    assert torch.equal(rounded[:, [2, 6]].float(), x[:, [2, 6]])  # bfloat16s already
    step = x[0].abs() * 2**-7
    assert bool(((rounded.float() - x).abs() <= step).all())
    error = (rounded.double().mean(0) - x[0].double()).abs()
    assert bool((error <= 4 * step / 2 / math.sqrt(draws)).all())
    nearest_error = (x[0].bfloat16().double() - x[0].double()).abs()
    assert error[0] < nearest_error[0] / 3


def test_noise_is_a_function_of_seed_step_and_name() -> None:
    def drawn(seed: int, step: int, name: str) -> torch.Tensor:
        noise = Noise(seed)
        noise.step = step
        return noise.bits(name, (7, 11))

    assert torch.equal(drawn(1, 2, "a"), drawn(1, 2, "a"))
    assert int(drawn(1, 2, "a").max()) < 1 << 16
    for other in (drawn(2, 2, "a"), drawn(1, 3, "a"), drawn(1, 2, "b")):
        assert (drawn(1, 2, "a") != other).float().mean() > 0.9


def test_noise_is_uniform_and_its_names_are_independent() -> None:
    one, other = (Noise(3).uniform(name, (1 << 16,)) for name in "ab")
    counts = torch.histc(one, bins=64, min=0, max=1)
    chi_square = ((counts - 1024) ** 2 / 1024).sum()
    assert 30 < chi_square < 110  # 63 degrees of freedom: beyond it lies less than one in 5,000
    assert torch.corrcoef(torch.stack([one, other]))[0, 1].abs() < 0.02


def _optimiser(parameter: nn.Parameter, noise: Noise | None, rate: float, decay: float = 0.0) -> RoundedAdamW:
    return RoundedAdamW([{"params": [parameter], "weight_decay": decay}], {parameter: "w"}, noise, lr=rate)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_in_float32_it_is_torchs_adamw(decay: float) -> None:
    generator = torch.Generator().manual_seed(1)
    start = torch.randn(20, 30, generator=generator)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    mine = _optimiser(ours, Noise(0), 1e-2, decay)
    judge = AdamW([theirs], lr=1e-2, betas=(0.9, 0.95), weight_decay=decay)
    for _ in range(20):
        gradient = torch.randn(20, 30, generator=generator)
        ours.grad, theirs.grad = gradient, gradient.clone()
        mine.step()
        judge.step()
    assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_small_steps_arrive_in_the_mean_and_are_lost_to_nearest() -> None:
    """A hundred steps of a thousandth of 1.0, a quarter of what bfloat16 tells apart there."""
    ends = {}
    for name, noise in (("stochastic", Noise(5)), ("nearest", None)):
        parameter = nn.Parameter(torch.full((200, 50), 1.0, dtype=torch.bfloat16))
        optimiser = _optimiser(parameter, noise, 1e-3)
        for _ in range(100):
            parameter.grad = torch.full_like(parameter, -1.0)
            optimiser.step()
        assert parameter.dtype == optimiser.state[parameter]["square"].dtype == torch.bfloat16
        ends[name] = parameter.float().mean().item()
    assert ends["nearest"] == 1.0
    assert ends["stochastic"] == pytest.approx(1.1, abs=0.003)


def test_its_state_comes_back_exactly() -> None:
    generator = torch.Generator().manual_seed(1)
    gradients = [torch.randn(8, 8, generator=generator).bfloat16() for _ in range(10)]
    start = torch.randn(8, 8, generator=generator).bfloat16()
    whole = nn.Parameter(start.clone())
    optimiser = _optimiser(whole, Noise(2), 1e-2)
    for gradient in gradients[:6]:
        whole.grad = gradient
        optimiser.step()
    part = nn.Parameter(whole.detach().clone())
    other = _optimiser(part, Noise(2), 1e-2)
    other.load_state_dict(copy.deepcopy(optimiser.state_dict()))
    for gradient in gradients[6:]:
        whole.grad, part.grad = gradient, gradient.clone()
        optimiser.step()
        other.step()
    assert torch.equal(whole, part)
