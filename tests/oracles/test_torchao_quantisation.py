"""torchao judges the rounding of weights and activations, and the gradient's path through it."""

import warnings

import pytest
import torch
from torch import nn

warnings.filterwarnings("ignore")
from torchao.quantization import Int8DynamicActivationIntxWeightConfig, quantize_  # noqa: E402
from torchao.quantization.granularity import PerGroup  # noqa: E402
from torchao.quantization.qat import QATConfig  # noqa: E402
from torchao.quantization.quantize_.workflows.intx.intx_unpacked_to_int8_tensor import (  # noqa: E402
    IntxUnpackedToInt8Tensor,
)

from trainer.architecture import Architecture, Attention, ShortConv  # noqa: E402
from trainer.errors import QuantisationError  # noqa: E402
from trainer.model import HybridLM  # noqa: E402
from trainer.quantise import (  # noqa: E402
    QatLinear,
    Scheme,
    dequantise_weight,
    prepare_qat,
    quantise_weight,
    quantised,
    quantised_weights,
    round_activations,
)


def _weight(seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(96, 128, generator=generator) * torch.logspace(-6, 2, 96)[:, None]
    weight[3] = 0
    weight[4, :32] = 0
    return weight


def _base(group_size: int = 32, **more: object) -> Int8DynamicActivationIntxWeightConfig:
    return Int8DynamicActivationIntxWeightConfig(
        weight_dtype=torch.int4, weight_granularity=PerGroup(group_size), **more
    )


@pytest.mark.parametrize("group_size", [32, 64, 128])
def test_integers_are_torchaos_for_the_same_scales(group_size: int) -> None:
    weight = _weight()
    q, scale = quantise_weight(weight, group_size)
    theirs = IntxUnpackedToInt8Tensor.from_hp(
        weight,
        (1, group_size),
        torch.int4,
        intx_choose_qparams_algorithm=None,
        custom_scale=scale,
        custom_zero_point=torch.zeros_like(scale, dtype=torch.int8),
    )
    assert torch.equal(q, theirs.qdata)
    assert torch.equal(dequantise_weight(q, scale), theirs.dequantize())


def test_scales_are_torchaos_rounded_to_bfloat16() -> None:
    linear = nn.Linear(128, 96, bias=False)
    linear.weight = nn.Parameter(_weight())
    _, scale = quantise_weight(linear.weight)
    quantize_(linear, _base(weight_scale_dtype=torch.bfloat16))
    assert torch.equal(scale, linear.weight.scale.float())
    assert torch.equal(scale, scale.bfloat16().float())


def test_the_deployed_linear_computes_what_torchao_computes() -> None:
    """Bit-equal scales and activations: what remains is the order of summation."""
    weight = _weight().bfloat16().float()
    scale = quantise_weight(weight)[1]
    weight = dequantise_weight(*quantise_weight(weight))
    theirs = nn.Linear(128, 96, bias=False)
    theirs.weight = nn.Parameter(
        IntxUnpackedToInt8Tensor.from_hp(
            weight,
            (1, 32),
            torch.int4,
            activation_quantization="int8_asym_per_token",
            intx_choose_qparams_algorithm=None,
            custom_scale=scale,
            custom_zero_point=torch.zeros_like(scale, dtype=torch.int8),
        ),
        requires_grad=False,
    )
    x = torch.randn(5, 7, 128, generator=torch.Generator().manual_seed(2)) * 3
    assert torch.allclose(nn.functional.linear(round_activations(x), weight), theirs(x), rtol=1e-5, atol=1e-6)


def test_activations_round_as_torchao_rounds_them() -> None:
    model = nn.Sequential(nn.Linear(128, 128, bias=False))
    quantize_(model, QATConfig(_base(), step="prepare"))
    fake = model[0].activation_fake_quantizer
    generator = torch.Generator().manual_seed(3)
    for scale, shift in [(1, 0), (1e-3, 5), (50, -7), (0, 0)]:
        x = torch.randn(64, 128, generator=generator) * scale + shift
        assert torch.equal(round_activations(x), fake(x))


def test_qat_forward_is_torchaos_up_to_the_rounding_of_scales() -> None:
    ours = nn.Linear(128, 96, bias=False)
    theirs = nn.Sequential(nn.Linear(128, 96, bias=False))
    # Powers of two times 7.5 as largest elements: then the scale is a bfloat16 already, and both agree exactly.
    weight = torch.randn(96, 128, generator=torch.Generator().manual_seed(4)).clamp(-7, 7)
    weight[:, ::32] = 7.5
    ours.weight, theirs[0].weight = nn.Parameter(weight.clone()), nn.Parameter(weight.clone())
    ours.__class__, ours.scheme = QatLinear, Scheme()
    quantize_(theirs, QATConfig(_base(), step="prepare"))
    x = torch.randn(9, 128, generator=torch.Generator().manual_seed(5))
    assert torch.allclose(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


def _model() -> HybridLM:
    blocks = (ShortConv(), Attention(heads=2, kv_heads=1, head_dim=32))
    return HybridLM(Architecture(vocab_size=300, width=64, ffn_width=96, blocks=blocks), seed=1)


@pytest.mark.parametrize("embedding", [True, False])
@pytest.mark.parametrize("activations", [True, False])
@torch.no_grad()
def test_qat_and_deployment_are_the_same_numbers(activations: bool, embedding: bool) -> None:
    scheme = Scheme(activations=activations, embedding=embedding)
    model = _model()
    deployed = quantised(model, scheme)
    tokens = torch.randint(0, 300, (2, 20), generator=torch.Generator().manual_seed(6))
    plain = model(tokens)
    logits = prepare_qat(model, scheme)(tokens)
    assert (logits - deployed(tokens)).abs().max() < 1e-5
    assert (logits - plain).abs().max() > 1e-2
    assert torch.equal(quantised(model, scheme)(tokens), deployed(tokens))
    read = deployed.model.embed_tokens(tokens)
    assert torch.equal(read, model.model.embed_tokens.weight[tokens]) != embedding


def test_gradients_go_straight_through_to_the_master_weights() -> None:
    model = prepare_qat(_model())
    tokens = torch.randint(0, 300, (2, 20), generator=torch.Generator().manual_seed(6))
    model(tokens).logsumexp(-1).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_the_linear_gradient_is_that_of_the_rounded_operands() -> None:
    linear = nn.Linear(64, 32, bias=False)
    linear.__class__, linear.scheme = QatLinear, Scheme()
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(8), requires_grad=True)
    seed = torch.randn(5, 32, generator=torch.Generator().manual_seed(9))
    linear(x).backward(seed)
    rounded = dequantise_weight(*quantise_weight(linear.weight))
    assert torch.allclose(x.grad, seed @ rounded, atol=1e-6)
    assert torch.allclose(linear.weight.grad, seed.T @ round_activations(x), atol=1e-6)


def test_every_linear_and_the_tied_embedding_are_packed() -> None:
    names = set(quantised_weights(_model()))
    matrices = {name for name, p in _model().named_parameters() if p.dim() == 2}
    assert names == matrices


def test_impossible_groups_and_broken_weights_are_refused() -> None:
    with pytest.raises(QuantisationError, match="do not divide"):
        quantise_weight(torch.ones(4, 96), 64)
    with pytest.raises(QuantisationError, match="finite"):
        quantise_weight(torch.full((4, 64), float("nan")))
