"""What is trained is what is exported: integers, scales, and the numbers that a Program gives, for every precision.

The bound is that of the runs' token check: phone and eager model are two roundings of the same activations.
"""

import hashlib

import executorch.kernels.quantized  # noqa: F401 - registers the embeddings' kernels
import pytest
import torch
from executorch.exir._serialize._program import deserialize_pte_binary
from executorch.extension.pybindings.portable_lib import _load_for_executorch_from_buffer
from torch import nn

from device_agent.contracts import Protocol, Quantisation, content_hash
from search.export import modules
from search.export.lower import lower
from search.export.pieces import pieces_of, weights_of
from search.export.programs import export_model
from search.numerics import CannotBeLowered, quantisation_of, refuse_unlowerable, scheme_of
from search.spec import SearchSpec
from trainer.architecture import Architecture, Attention, ShortConv
from trainer.errors import QuantisationError
from trainer.fake_quantise import masters, pack_trained, prepare_qat
from trainer.model import HybridLM
from trainer.precision import EIGHT, EMBEDDING, FOUR, FULL, HEAD, Precision, Scheme
from trainer.quantise import Packing, quantise_weight, quantised
from trainer.rounding import in_bfloat16
from trainer.scales import search_scales

G64, G128 = (Precision(bits=4, group_size=size) for size in (64, 128))
LAYER = "model.layers.0."
MIXED = Scheme(
    weights=FOUR,
    embedding=EIGHT,
    head=G64,
    overrides={
        f"{LAYER}conv.out_proj.weight": EIGHT,
        f"{LAYER}feed_forward.w1.weight": G128,
        f"{LAYER}feed_forward.w2.weight": FULL,
    },
)
SCHEMES = [
    Scheme(),
    Scheme(weights=G64, embedding=FULL, head=EIGHT),
    Scheme(weights=EIGHT),
    Scheme(weights=FULL),
    MIXED,
]


class Shelf:
    """A Store in memory."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def put(self, data: bytes) -> str:
        name = hashlib.sha256(data).hexdigest()
        self.files[name] = data
        return name


def _model(pattern: str = "ca", *, tied: bool = True) -> HybridLM:
    kinds = {"c": ShortConv(), "a": Attention(heads=4, kv_heads=2, head_dim=32)}
    blocks = tuple(kinds[kind] for kind in pattern)
    model = HybridLM(Architecture(vocab_size=64, width=128, ffn_width=128, blocks=blocks, tied=tied), seed=1).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)  # an untrained model's logits are too flat to tell models apart
    return model


@torch.no_grad()
def _trained(model: HybridLM, scheme: Scheme) -> tuple[HybridLM, Packing]:
    """As a QAT stage leaves it: masters in bfloat16, and learned scales that no search would give."""
    prepare_qat(model, scheme, search_scales(model, scheme), learn=True)
    in_bfloat16(model)
    for name, parameter in model.named_parameters():
        if name.endswith("log_scale"):
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    return masters(model), pack_trained(model, scheme)


@pytest.mark.parametrize("scheme", SCHEMES, ids=range(len(SCHEMES)))
def test_wire_and_trainer_name_the_same_numerics(scheme: Scheme) -> None:
    there = quantisation_of(scheme)
    again = scheme_of(Quantisation.model_validate_json(there.model_dump_json()))
    for role in (EMBEDDING, HEAD, *scheme.overrides, f"{LAYER}conv.in_proj.weight"):
        assert again.of(role) == scheme.of(role), role
    assert quantisation_of(again) == there


def test_usual_numerics_keep_the_name_that_they_had() -> None:
    assert set(Quantisation().model_dump()) == {"weight_bits", "group_size", "activation_bits", "embedding_bits"}
    assert content_hash(Quantisation()) == "ab1861ce6e2050e71647efd791f80b89d27a5f14c6bf0b720642f7b19be73b08"
    assert scheme_of(Quantisation()) == Scheme()
    assert quantisation_of(Scheme()) == Quantisation()


def test_numerics_without_an_operator_are_refused() -> None:
    for bad in ({"activation_bits": 32}, {"weight_bits": 8, "activation_bits": 32}):
        with pytest.raises(CannotBeLowered, match="8-bit activations only"):
            export_model(_model(), context_length=32, prefill_chunk=8, quantisation=Quantisation(**bad), store=Shelf())
        with pytest.raises(ValueError, match="8-bit activations only"):
            SearchSpec(corpus="c", phones=("p",), protocol=Protocol(), quantisation=Quantisation(**bad))
    refuse_unlowerable(Quantisation(weight_bits=32, activation_bits=32))
    wide = {"matrices": {"lm_head.weight": {"bits": 4, "group_size": 256}}}
    with pytest.raises(QuantisationError, match="groups of 256 do not divide the 128 inputs of lm_head"):
        export_model(_model(), context_length=32, prefill_chunk=8, quantisation=Quantisation(**wide), store=Shelf())


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("scheme", SCHEMES, ids=range(len(SCHEMES)))
def test_the_integers_that_were_trained_are_those_exported(scheme: Scheme, tied: bool) -> None:
    plain, packing = _trained(_model(tied=tied), scheme)
    weights = packing.weights(plain)
    seen: dict[str, list[nn.Module]] = {}
    for _, piece, names in pieces_of(plain.architecture, context=32, chunk=8, quantisation=quantisation_of(scheme)):
        module = piece.module(weights_of(piece, weights, names))
        at = names.get("norm", "").removesuffix("operator_norm.weight").removesuffix("ffn_norm.weight")
        parts = dict(module.named_children())
        known = {
            "EmbeddingPiece": {EMBEDDING: ["table"]},
            "ConvPiece": {f"{at}conv.in_proj.weight": ["b", "c", "x"], f"{at}conv.out_proj.weight": ["out"]},
            "AttentionPiece": {f"{at}self_attn.{n}_proj.weight": [n] for n in ("q", "k", "v", "out")},
            "FeedForwardPiece": {f"{at}feed_forward.{n}.weight": [n] for n in ("w1", "w2", "w3")},
            "HeadPiece": {HEAD: ["out"]},
        }[type(piece).__name__]
        seen |= {role: [parts[name] for name in children] for role, children in known.items()}
    for role, layers in seen.items():
        if scheme.of(role).bits == 32:
            assert torch.equal(torch.cat([layer.weight for layer in layers]), weights[role]), role
        else:
            assert torch.equal(torch.cat([layer.weight.qdata for layer in layers]), packing.integers[role].q), role
            assert torch.equal(torch.cat([layer.weight.scale for layer in layers]), packing.integers[role].scale), role
    assert {role for role in seen if scheme.of(role).bits != 32} == set(packing.integers)


def _operators(data: bytes) -> set[str]:
    """What stayed outside the delegates."""
    return {operator.name for operator in deserialize_pte_binary(data).program.execution_plan[0].operators}


@torch.no_grad()
def test_embeddings_are_read_by_the_kernel_of_their_bits() -> None:
    class Side(nn.Module):
        def __init__(self, tables: list[modules.Embedding]) -> None:
            super().__init__()
            self.tables = nn.ModuleList(tables)

        def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return tuple(table(tokens)[0] for table in self.tables)

    weight = torch.randn(96, 128, generator=torch.Generator().manual_seed(1))
    precisions = [FOUR, G128, EIGHT]
    given = [Quantisation(matrices={"weight": quantisation_of(Scheme(weights=p)).weights}) for p in precisions]
    tokens = torch.tensor([[1, 95, 0, 7, 7]])
    data, _ = lower(Side([modules.Embedding({"weight": weight}, each) for each in given]), tokens, 8, False, [])
    outputs = _load_for_executorch_from_buffer(data).forward((tokens,))
    assert _operators(data) == {"quantized_decomposed::embedding_4bit", "quantized_decomposed::embedding_byte"}
    for precision, output in zip(precisions, outputs, strict=True):
        assert torch.equal(output, quantise_weight(weight, precision).dequantised()[tokens])


@torch.no_grad()
def test_a_program_of_mixed_precision_gives_the_trained_models_logits() -> None:
    plain, packing = _trained(_model("c", tied=False), MIXED)
    shelf = Shelf()
    program = export_model(plain, context_length=32, prefill_chunk=8, quantisation=packing, store=shelf)
    assert program.quantisation == quantisation_of(MIXED)
    (data,) = shelf.files.values()
    # What is not matrices: two graphs, norms, a convolution, and the alignment of it all.
    assert 0 < len(data) - packing.scheme.bytes(plain.architecture) < 40_000
    assert "quantized_decomposed::embedding_byte" in _operators(data)
    assert not any(word in name for name in _operators(data) for word in ("quantize_", "linear", "::mm", "::addmm"))
    tokens = torch.randint(0, 64, (1, 8), generator=torch.Generator().manual_seed(3))
    state = torch.zeros(program.stages[0].state[0].shape)
    logits = _load_for_executorch_from_buffer(data).forward((tokens, torch.tensor([0]), state))[0][0, -1]
    rounded, unrounded = (quantised(plain, how)(tokens)[0, -1] for how in (packing, packing.unrounded_activations()))
    bound = 2 * (rounded - unrounded).abs().max()
    assert (logits - rounded).abs().max() <= bound
    for wrong in (Scheme(weights=FULL), MIXED, Scheme()):
        assert (quantised(plain, wrong)(tokens)[0, -1] - logits).abs().max() > bound
