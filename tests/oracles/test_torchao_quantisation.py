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
from trainer.fake_quantise import QatLinear, Rounder, masters, pack_trained, prepare_qat  # noqa: E402
from trainer.model import HybridLM  # noqa: E402
from trainer.precision import EIGHT, EMBEDDING, FOUR, FULL, HEAD, Precision, Scheme, matrices  # noqa: E402
from trainer.quantise import pack, quantise_weight, quantised, round_activations  # noqa: E402
from trainer.scales import search_scales  # noqa: E402


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


PRECISIONS = [*(Precision(bits=4, group_size=size) for size in (32, 64, 128)), EIGHT]


def _theirs(weight: torch.Tensor, precision: Precision, scale: torch.Tensor, **more: str) -> IntxUnpackedToInt8Tensor:
    return IntxUnpackedToInt8Tensor.from_hp(
        weight,
        (1, precision.group_size or weight.shape[1]),
        torch.int4 if precision.bits == 4 else torch.int8,
        intx_choose_qparams_algorithm=None,
        custom_scale=scale,
        custom_zero_point=torch.zeros_like(scale, dtype=torch.int8),
        **more,
    )


@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
def test_integers_are_torchaos_for_the_same_scales(precision: Precision) -> None:
    weight = _weight()
    rounded = quantise_weight(weight, precision)
    theirs = _theirs(weight, precision, rounded.scale)
    assert torch.equal(rounded.q, theirs.qdata)
    assert torch.equal(rounded.dequantised(), theirs.dequantize())
    again = quantise_weight(rounded.dequantised(), precision, rounded.scale)
    assert torch.equal(again.q, rounded.q)
    assert torch.equal(again.scale, rounded.scale)


def test_scales_are_torchaos_rounded_to_bfloat16() -> None:
    linear = nn.Linear(128, 96, bias=False)
    linear.weight = nn.Parameter(_weight())
    _, scale = quantise_weight(linear.weight)
    quantize_(linear, _base(weight_scale_dtype=torch.bfloat16))
    assert torch.equal(scale, linear.weight.scale.float())
    assert torch.equal(scale, scale.bfloat16().float())


@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
def test_the_deployed_linear_computes_what_torchao_computes(precision: Precision) -> None:
    """Bit-equal scales and activations: what remains is the order of summation."""
    rounded = quantise_weight(_weight().bfloat16().float(), precision)
    theirs = nn.Linear(128, 96, bias=False)
    packed = _theirs(rounded.dequantised(), precision, rounded.scale, activation_quantization="int8_asym_per_token")
    theirs.weight = nn.Parameter(packed, requires_grad=False)
    x = torch.randn(5, 7, 128, generator=torch.Generator().manual_seed(2)) * 3
    ours = nn.functional.linear(round_activations(x), rounded.dequantised())
    assert torch.allclose(ours, theirs(x), rtol=1e-5, atol=1e-6)


def test_activations_round_as_torchao_rounds_them() -> None:
    model = nn.Sequential(nn.Linear(128, 128, bias=False))
    quantize_(model, QATConfig(_base(), step="prepare"))
    fake = model[0].activation_fake_quantizer
    generator = torch.Generator().manual_seed(3)
    for scale, shift in [(1, 0), (1e-3, 5), (50, -7), (0, 0)]:
        x = torch.randn(64, 128, generator=generator) * scale + shift
        assert torch.equal(round_activations(x), fake(x))


def _qat_linear(weight: torch.Tensor, *, scale: torch.Tensor | None = None) -> QatLinear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    linear.weight = nn.Parameter(weight)
    linear.__class__ = QatLinear
    linear.rounder = Rounder("it", FOUR, scale, scale is not None)
    linear.rounds_activations = True
    return linear


def test_qat_forward_is_torchaos_up_to_the_rounding_of_scales() -> None:
    # Powers of two times 7.5 as largest elements: then the scale is a bfloat16 already, and both agree exactly.
    weight = torch.randn(96, 128, generator=torch.Generator().manual_seed(4)).clamp(-7, 7)
    weight[:, ::32] = 7.5
    theirs = nn.Sequential(nn.Linear(128, 96, bias=False))
    theirs[0].weight = nn.Parameter(weight.clone())
    quantize_(theirs, QATConfig(_base(), step="prepare"))
    x = torch.randn(9, 128, generator=torch.Generator().manual_seed(5))
    assert torch.allclose(_qat_linear(weight)(x), theirs(x), rtol=1e-5, atol=1e-5)


def test_the_linear_gradient_is_that_of_the_rounded_operands() -> None:
    linear = _qat_linear(torch.randn(32, 64, generator=torch.Generator().manual_seed(7)))
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(8), requires_grad=True)
    seed = torch.randn(5, 32, generator=torch.Generator().manual_seed(9))
    linear(x).backward(seed)
    assert torch.allclose(x.grad, seed @ quantise_weight(linear.weight).dequantised(), atol=1e-6)
    assert torch.allclose(linear.weight.grad, seed.T @ round_activations(x), atol=1e-6)


def test_the_gradient_of_a_learned_scale_is_torchs() -> None:
    """torch's own learnable fake quantisation judges; ours adds the logarithm and LSQ's factor."""
    weight = torch.randn(6, 64, generator=torch.Generator().manual_seed(1))
    scale = quantise_weight(weight).scale * 0.7  # some weights are clipped
    scale = scale.bfloat16().float()
    seed = torch.randn(6, 64, generator=torch.Generator().manual_seed(2))
    rounder = Rounder("it", FOUR, scale, learn=True)
    ours = weight.clone().requires_grad_()
    rounder(ours).backward(seed)
    rows, steps = weight.view(-1, 32).clone().requires_grad_(), scale.flatten().clone().requires_grad_()
    factor = 1 / (32 * 7) ** 0.5
    theirs = torch._fake_quantize_learnable_per_channel_affine(
        rows, steps, torch.zeros_like(steps), 0, -8, 7, grad_factor=factor
    )
    theirs.backward(seed.view(-1, 32))
    assert torch.equal(rounder(weight).view(-1, 32), theirs)
    assert torch.equal(ours.grad.view(-1, 32), rows.grad)
    expected = steps.grad * steps.detach() * torch.log(torch.tensor(2.0))
    assert torch.allclose(rounder.log_scale.grad.flatten(), expected, rtol=1e-4, atol=1e-6)


def _model(tied: bool = True) -> HybridLM:
    blocks = (ShortConv(), Attention(heads=4, kv_heads=2, head_dim=32))
    architecture = Architecture(vocab_size=300, width=128, ffn_width=128, blocks=blocks, tied=tied)
    return HybridLM(architecture, seed=1)


_W2 = "model.layers.0.feed_forward.w2.weight"
SCHEMES = [
    Scheme(),
    Scheme(activations=False),
    Scheme(embedding=FULL),
    Scheme(embedding=EIGHT, head=EIGHT),
    Scheme(weights=EIGHT, embedding=FOUR, head=FULL),
    Scheme(weights=PRECISIONS[2], overrides={_W2: EIGHT, HEAD: PRECISIONS[1], EMBEDDING: FULL}),
]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("scales", ["absmax", "searched", "learned"])
@pytest.mark.parametrize("scheme", SCHEMES, ids=range(len(SCHEMES)))
@torch.no_grad()
def test_conversion_changes_no_bit_of_a_logit(scheme: Scheme, scales: str, tied: bool) -> None:
    """The weights of a QAT forward pass and the deployed ones are equal, and so is what is done with them."""
    model = _model(tied)
    tokens = torch.randint(0, 300, (2, 20), generator=torch.Generator().manual_seed(6))
    plain = model(tokens)
    found = None if scales == "absmax" else search_scales(model, scheme)
    prepare_qat(model, scheme, found, learn=scales == "learned")
    packing = pack_trained(model, scheme)
    deployed = quantised(masters(model), packing)
    logits = model(tokens)
    assert torch.equal(deployed(tokens), logits)
    assert (logits - plain).abs().max() > 1e-2
    assert torch.equal(masters(model)(tokens), plain)
    table = packing.weights(masters(model))[EMBEDDING]
    assert torch.equal(model.model.embed_tokens(tokens), table[tokens])
    assert (scheme.of(EMBEDDING) == FULL) == torch.equal(table, masters(model).get_parameter(EMBEDDING))


@pytest.mark.parametrize("tied", [True, False])
def test_gradients_go_straight_through_to_the_master_weights(tied: bool) -> None:
    model = _model(tied)
    model = prepare_qat(model, Scheme(), search_scales(model, Scheme()), learn=True)
    tokens = torch.randint(0, 300, (2, 20), generator=torch.Generator().manual_seed(6))
    model(tokens).logsumexp(-1).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("tied", [True, False])
def test_every_matrix_is_packed(tied: bool) -> None:
    model = _model(tied)
    names = {name for name, p in model.named_parameters() if p.dim() == 2} | {HEAD}
    assert set(pack(model).integers) == names == set(matrices(model.architecture))
    for role, integers in pack(model).integers.items():
        assert integers.q.shape == matrices(model.architecture)[role]


def test_impossible_groups_and_broken_weights_are_refused() -> None:
    with pytest.raises(QuantisationError, match="groups of 64 do not divide the 96 inputs"):
        quantise_weight(torch.ones(4, 96), Precision(bits=4, group_size=64))
    with pytest.raises(QuantisationError, match="finite"):
        quantise_weight(torch.full((4, 64), float("nan")))
    with pytest.raises(QuantisationError, match="no matrix of this architecture is called lm_had"):
        pack(_model(), Scheme(overrides={"lm_had.weight": EIGHT}))
    blocks = (ShortConv(),)
    narrow = HybridLM(Architecture(vocab_size=300, width=64, ffn_width=96, blocks=blocks))
    with pytest.raises(QuantisationError, match=r"96 inputs of model\.layers\.0\.feed_forward\.w2"):
        prepare_qat(narrow, Scheme(weights=Precision(bits=4, group_size=64)))
