"""Linear maps whose every row is the same bits, however many rows go through together.

A matrix product's bits may depend on its number of rows: BLAS takes other kernels, with other orders of summation, for
a few rows than for many. So rows are padded to counts for which this machine was seen not to do that. oneDNN's packed
products sum in one order whatever the count, and read a large matrix in less time for few rows; MKL's are cheaper to
call for a small matrix, and agree from 4 rows on (1 or 2 threads, AVX2).
"""

from collections.abc import Callable, Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.generation.errors import NotReproducible
from trainer.generation.plan import TILE
from trainer.linear import Linear as ModelLinear
from trainer.model import HybridLM, TiedEmbedding
from trainer.quantise import QuantisedEmbedding, QuantisedLinear, round_activations

Rows = Callable[[Tensor], Tensor]
"""[rows, in] -> [rows, out]."""

MOST_ROWS = 128
"""Rows of the largest pass: beyond it, products gain no more speed here."""
_PACKED_FROM = 1 << 18  # elements; below it a call of oneDNN costs more than it saves
_ADVICE = "generate on another device, or with one thread"
_TILES = (1, 4, 8, 16, 32)
_STEPS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)  # in tiles: few, so that each can be tried


class Linear:
    """x @ weight.T, its activations rounded first where deployment rounds them."""

    def __init__(self, weight: Tensor, *, rounds: bool = False) -> None:
        weight = weight.detach().float().contiguous()
        self.outputs, self.inputs = weight.shape
        self.device = weight.device
        self.packed = (
            weight.device.type == "cpu" and weight.numel() >= _PACKED_FROM and torch.backends.mkldnn.is_available()
        )
        self._rounds = rounds
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, 16) if self.packed else weight

    def __call__(self, x: Tensor) -> Tensor:
        """[rows, in] -> [rows, out], contiguous."""
        if self._rounds:
            x = round_activations(x)
        return self.multiply(x)

    def multiply(self, x: Tensor) -> Tensor:
        """The product alone."""
        if self.packed:
            out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, None, "none", [], "")
            return out
        return F.linear(x, self._weight)


def side_by_side(modules: Sequence[nn.Module]) -> Rows:
    """One map for linears that read the same input: their outputs, concatenated.

    What is neither plain nor quantised is called as it is.
    """
    kinds = {(type(module), getattr(module, "rounds_activations", False)) for module in modules}
    (kind, rounds), *others = kinds
    if others or kind not in (ModelLinear, QuantisedLinear):
        return lambda x: torch.cat([module(x) for module in modules], dim=-1)
    weights = [module.weight for module in modules]
    return Linear(torch.cat([weight.detach() for weight in weights if isinstance(weight, Tensor)]), rounds=rounds)


def head(model: HybridLM) -> Rows:
    """[rows, width] -> logits [rows, vocab]."""
    if not model.architecture.tied:
        return side_by_side([model.lm_head])
    embedding = model.model.embed_tokens
    if type(embedding) is TiedEmbedding:
        return Linear(embedding.weight)
    if type(embedding) is QuantisedEmbedding:
        return Linear(embedding.head, rounds=embedding.rounds_activations)
    return model.logits


def padded(rows: int, tile: int) -> int:
    """The count that `rows` rows are padded to."""
    return next(tile * step for step in _STEPS if tile * step >= rows)


def tile_of(maps: Sequence[Rows]) -> int:
    """The smallest tile for which every map's rows are the same bits at every count that `padded` gives.

    Raises:
        NotReproducible: there is none.
    """
    threads = torch.get_num_threads()
    tile = 1
    for linear in {(m.inputs, m.outputs, m.packed): m for m in maps if isinstance(m, Linear)}.values():
        tile = max(tile, _tile(linear.inputs, linear.outputs, linear.packed, str(linear.device), threads))
    if any(not isinstance(m, Linear) for m in maps):
        tile = max(tile, 8)  # a module of the caller's: what MKL needs with any small number of threads
    return tile


@cache
def attention_tile(head_dim: int, device: str, threads: int) -> int:  # noqa: ARG001  # a key of the cache
    """The smallest tile for attention's batched products: queries with keys, and weights with values.

    Raises:
        NotReproducible: there is none.
    """
    generator = torch.Generator().manual_seed(0)
    keys = torch.randn(3, 4 * TILE, head_dim, generator=generator).to(device)

    def scores(x: Tensor) -> Tensor:
        queries = x[None].expand(3, -1, -1).contiguous()
        whole, parts = torch.bmm(queries, keys.transpose(1, 2)), keys.split(TILE, dim=1)
        alone = [torch.bmm(queries, part.transpose(1, 2)) for part in parts]
        return torch.cat([whole[1], *(part[1] for part in alone), *(part[2] for part in alone)], dim=-1)

    def mixed(x: Tensor) -> Tensor:
        weights = x[None].expand(3, -1, -1).contiguous()
        return torch.baddbmm(torch.bmm(weights, keys[:, :TILE]), weights, keys[:, TILE : 2 * TILE])[1]

    tile = max(_smallest(scores, head_dim, device), _smallest(mixed, TILE, device))
    queries = torch.randn(tile, head_dim, generator=generator).to(device)
    whole, one, _ = scores(queries).split(4 * TILE, dim=-1)
    if not torch.equal(whole, one):
        raise NotReproducible(
            f"scores of {head_dim} inputs depend on the keys beside a key, on {device}", advice=_ADVICE
        )
    return tile


@cache
def _tile(inputs: int, outputs: int, packed: bool, device: str, threads: int) -> int:  # noqa: ARG001
    generator = torch.Generator().manual_seed(0)
    # Columns are treated alike, so a head of many is tried with its own shape too: the kernel is chosen by shape.
    linear = Linear(torch.randn(outputs, inputs, generator=generator).to(device))
    return _smallest(linear.multiply, inputs, device)


def _smallest(product: Rows, inputs: int, device: str) -> int:
    x = torch.randn(MOST_ROWS, inputs, generator=torch.Generator().manual_seed(1)).to(device)
    whole = product(x)
    for tile in _TILES:
        counts = [tile * step for step in _STEPS if tile * step < MOST_ROWS]
        starts = ((count, start) for count in counts for start in (0, MOST_ROWS - count))
        if all(torch.equal(product(x[start : start + n].clone()), whole[start : start + n]) for n, start in starts):
            return tile
    raise NotReproducible(
        f"a product of {inputs} inputs depends on its rows, on {device} with {torch.get_num_threads()} threads",
        advice=_ADVICE,
    )
