"""Products through oneDNN, norms, and the loss without whole logits, against torch's own."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer import linear_cross_entropy as fused
from trainer.linear import linear
from trainer.norm import RMSNorm


def _drawn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()


@pytest.mark.parametrize(("inputs", "outputs"), [(24, 40), (40, 24)])
@pytest.mark.parametrize("rows", [(5,), (3, 50)])
def test_a_product_and_its_gradients_are_torchs(inputs: int, outputs: int, rows: tuple[int, ...]) -> None:
    x, weight = _drawn(*rows, inputs, seed=1), _drawn(outputs, inputs, seed=2)
    upstream = _drawn(*rows, outputs, seed=3).detach()
    ours, theirs = linear(x, weight), F.linear(x, weight)
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(
        torch.autograd.grad(ours, (x, weight), upstream),
        torch.autograd.grad(theirs, (x, weight), upstream),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("transposed", [False, True])
def test_a_norm_and_its_gradients_are_torchs(transposed: bool) -> None:
    norm = RMSNorm(24, 1e-5)
    torch.nn.init.normal_(norm.weight, generator=torch.Generator().manual_seed(4))
    x, upstream = _drawn(2, 7, 3, 24, seed=1), _drawn(2, 7, 3, 24, seed=2).detach()
    given = x.transpose(1, 2) if transposed else x
    upstream = upstream.transpose(1, 2) if transposed else upstream
    ours, theirs = norm(given), F.rms_norm(given, (24,), norm.weight, 1e-5)
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(
        torch.autograd.grad(ours, (x, norm.weight), upstream),
        torch.autograd.grad(theirs, (x, norm.weight), upstream),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@given(
    rows=st.integers(1, 300),
    vocabulary=st.integers(2, 90),
    chunk=st.integers(1, 128),
    scale=st.sampled_from([0.1, 1.0, 30.0]),
)
@settings(max_examples=25, deadline=None)
def test_the_fused_loss_and_its_gradients_are_cross_entropys(
    rows: int, vocabulary: int, chunk: int, scale: float
) -> None:
    h, weight = _drawn(rows, 16, seed=1), _drawn(vocabulary, 16, seed=2)
    targets = torch.arange(rows) * 7 % vocabulary
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused, "_FEWEST_ROWS", chunk)
        patch.setattr(fused, "_LOGITS", 1)
        ours = fused.linear_cross_entropy(h * scale, weight, targets)
        nats = fused.token_nats(h * scale, weight, targets)
    theirs = F.cross_entropy(F.linear(h * scale, weight), targets)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(nats.mean(), theirs.detach(), rtol=1e-5, atol=1e-5)
    for a, b in zip(
        torch.autograd.grad(ours * 3, (h, weight)), torch.autograd.grad(theirs * 3, (h, weight)), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * scale)


def test_the_fused_loss_in_bfloat16_sums_in_float32() -> None:
    h, weight = _drawn(400, 64, seed=1), _drawn(500, 64, seed=2)
    targets = torch.arange(400)
    ours = fused.linear_cross_entropy(h.bfloat16(), weight, targets)
    theirs = F.cross_entropy(F.linear(h, weight), targets)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs, rtol=5e-3, atol=0)
    (gradient,), (expected,) = torch.autograd.grad(ours, weight), torch.autograd.grad(theirs, weight)
    assert gradient.dtype == torch.float32
    assert F.cosine_similarity(gradient.flatten(), expected.flatten(), dim=0) > 0.999
