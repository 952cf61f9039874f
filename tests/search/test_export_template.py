"""Templates give, byte for byte, what ExecuTorch gives; what they cannot explain they refuse."""

import random
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, fx

from device_agent.contracts import Quantisation
from search.errors import NoTemplate
from search.export import lower, lowering, template
from search.export.explain import Explainer, Expression, Term
from search.export.packing import trace
from search.export.pieces import BasePiece, ConvPiece, EmbeddingPiece, FeedForwardPiece, HeadPiece

FLOAT = Quantisation(weight_bits=32, activation_bits=32, embedding_bits=32)
SETTINGS = [{"a": 6, "b": 35, "one": 1}, {"a": 11, "b": 26, "one": 1}]


def term(*times: str, **fields: object) -> Term:
    return Term(times=times, **fields)


@pytest.mark.parametrize(
    "expression",
    [
        Expression(terms=(term("a"),)),
        Expression(terms=(term("a", "b"),), plus=-1),
        Expression(terms=(term("a", factor=(-1, 1)),), plus=1),
        Expression(terms=(term("a", "b", factor=(2, 1)),)),
        Expression(terms=(term("a"), term("b")), plus=-1),
    ],
)
def test_a_number_is_explained_by_what_gave_it(expression: Expression) -> None:
    seen = tuple(expression.at(setting) for setting in SETTINGS)
    assert Explainer(SETTINGS)(seen) == expression  # type: ignore[arg-type]


def test_what_cannot_be_told_apart_or_explained_is_refused() -> None:
    twins = [{"a": 6, "b": 6}, {"a": 11, "b": 11}]
    with pytest.raises(NoTemplate, match=r"a.* and .*b"):
        Explainer(twins)((6, 11))
    with pytest.raises(NoTemplate, match="no expression"):
        Explainer(SETTINGS)((1000, 1))
    with pytest.raises(NoTemplate, match="no whole number"):
        Expression(terms=(term("a", factor=(1, 2)),)).at({"a": 3})


def test_data_is_traced_to_the_tensors_it_was_packed_of() -> None:
    def tensors(seed: int) -> dict[str, Tensor]:
        torch.manual_seed(seed)
        q = torch.randint(-8, 8, (4 + seed, 6), dtype=torch.int8)
        return {"weight": torch.randn(2 + seed, 1, 3), "q": q, "scale": torch.rand(4 + seed, 2)}

    def blobs(own: dict[str, Tensor]) -> dict[str, bytes]:
        low, high = own["q"].flatten()[::2] + 8, own["q"].flatten()[1::2] + 8
        return {
            "turned": own["weight"].permute(1, 2, 0).contiguous().numpy().tobytes(),
            "packed": (low + high * 16).numpy().tobytes(),
            "rounded": own["scale"].bfloat16().view(torch.int16).numpy().tobytes(),
            "constant": b"\x01\x02",
        }

    both = [tensors(0), tensors(1)]
    found = trace([blobs(one) for one in both], both)
    third = tensors(2)
    assert {name: source.read(third) for name, source in found.items()} == blobs(third)
    with pytest.raises(NoTemplate, match="strange"):
        trace([{"strange": b"ab"}, {"strange": b"abc"}], both)


def test_random_weights_never_repeat_within_a_piece() -> None:
    piece = FeedForwardPiece(width=1024, ffn_width=2048, chunk=1, eps=1e-5, quantisation=Quantisation())
    weights = piece.random_weights()
    blocks = [row for name in ("w1", "w2", "w3") for row in weights[name].view(-1, 1024 * 32)]
    assert len({row.numpy().tobytes() for row in blocks}) == len(blocks)
    assert weights["w2"].std().item() == pytest.approx(2048**-0.5, rel=0.01)
    assert weights["w1"].untyped_storage().nbytes() == weights["w1"].nbytes
    again = piece.random_weights()
    assert all(torch.equal(weights[name], again[name]) for name in weights)


def test_a_template_gives_the_bytes_of_the_stock_export(monkeypatch: pytest.MonkeyPatch) -> None:
    pick = random.Random(11)
    group = pick.choice([32, 64])
    piece = HeadPiece(
        width=group * pick.randint(2, 5),
        chunk=pick.randint(3, 40),
        vocab_size=pick.randint(40, 400),
        eps=10 ** pick.uniform(-6, -3),
        quantisation=Quantisation(group_size=group),
    )
    module = piece.module(piece.random_weights())
    given = template.instantiate(template.learn(piece), piece, module)
    # ExecuTorch as it comes. It numbers debug handles by the addresses of graphs: none may be freed and used again.
    monkeypatch.setattr(lower, "cuts", nullcontext)
    graphs: list[fx.Graph] = []
    begin = fx.Graph.__init__

    def kept(self: fx.Graph, *arguments: Any, **named: Any) -> None:
        graphs.append(self)
        begin(self, *arguments, **named)

    monkeypatch.setattr(fx.Graph, "__init__", kept)
    assert given == lower.lower(module, piece.example(), piece.chunk, piece.takes_position, piece.states())


class _Cache(dict[str, str]):
    def put(self, key: str, value: str) -> None:
        self[key] = value


def test_without_a_template_the_plain_way_is_taken_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    common = {"vocab_size": 40, "quantisation": Quantisation()}
    general = EmbeddingPiece(width=96, chunk=8, **common)  # type: ignore[arg-type]
    single = EmbeddingPiece(width=32, chunk=8, **common)  # type: ignore[arg-type]  # one group of inputs
    assert general.template_key == single.template_key
    cache = _Cache()
    templates = lowering.Templates(cache)
    lowered = templates.lower(general, general.random_weights())
    assert lowered.plain == ""
    assert (lowered.data, lowered.planned) == _plain(general)
    monkeypatch.setattr(lowering, "learn", pytest.fail)
    lowered = templates.lower(single, single.random_weights())
    assert "sizes of 1" in lowered.plain
    assert (lowered.data, lowered.planned) == _plain(single)

    cache[general.template_key] = lowering.Kept(why="for a reason").model_dump_json()
    again = templates.lower(general, general.random_weights())
    assert again.plain == "for a reason"
    assert (again.data, again.planned) == _plain(general)


def _plain(piece: BasePiece) -> tuple[bytes, int]:
    module = piece.module(piece.random_weights())
    return lower.lower(module, piece.example(), piece.chunk, piece.takes_position, piece.states())


def test_templates_are_shared_by_what_has_the_same_graph_and_by_nothing_else() -> None:
    common = {"width": 256, "chunk": 16, "quantisation": Quantisation(), "eps": 1e-5}
    narrow = ConvPiece(kernel=3, **common)  # type: ignore[arg-type]
    first, second = narrow.settings()
    assert all(first.dimensions()[name] != second.dimensions()[name] for name in narrow.dimensions())
    assert all(first.scalars()[name] != second.scalars()[name] for name in narrow.scalars())

    def key(**changes: object) -> str:
        return ConvPiece(**({"kernel": 3} | common | changes)).template_key  # type: ignore[arg-type]

    same = [key(width=64), key(kernel=9), key(chunk=2), key(eps=1e-3), key(quantisation=Quantisation(group_size=64))]
    assert {narrow.template_key} == set(same)
    others = [key(chunk=1), key(quantisation=FLOAT), FeedForwardPiece(ffn_width=32, **common).template_key]  # type: ignore[arg-type]
    assert len({narrow.template_key, *others}) == 4
