"""Quantisation after training: to nearest, or GPTQ (arXiv 2210.17323), which mends one column's error in the others."""

from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from trainer.calibrate import Watch, listening, mean_squares
from trainer.data import Batch
from trainer.model import HybridLM, Layer, Pass
from trainer.precision import HEAD, Precision, Scheme
from trainer.quantise import (
    Integers,
    Packing,
    bounds,
    group_size,
    matrix,
    pack,
    quantise_weight,
    quantised,
    round_activations,
)
from trainer.scales import found_scale, search_scales

Method = Literal["nearest", "gptq"]
Scales = Literal["absmax", "searched"]

_DAMPING = 0.01  # of the mean diagonal: the paper's, section 3.3
_COLUMNS = 128  # a block, within which errors are handed on at once; between blocks lazily (paper, section 3.3)


def post_training(
    model: HybridLM,
    scheme: Scheme,
    batches: Sequence[Batch],
    *,
    method: Method = "nearest",
    scales: Scales = "absmax",
    watch: Watch | None = None,
) -> Packing:
    """The integers of a trained model, without training it further; it stays as it is.

    Args:
        batches: calibration text; only its inputs are used.
        method: `gptq` needs the memory of one matrix [in, in] per linear of a layer.
        scales: `searched` weighs every error by the mean square of what it is multiplied by.

    Raises:
        QuantisationError: see `pack`.
    """
    if method == "gptq":
        return gptq(model, scheme, batches, scales=scales, watch=watch)
    if scales == "absmax":
        return pack(model, scheme)
    return pack(model, scheme, search_scales(model, scheme, mean_squares(model, batches, watch)))


@torch.no_grad()
def gptq(
    model: HybridLM,
    scheme: Scheme,
    batches: Sequence[Batch],
    *,
    scales: Scales = "absmax",
    watch: Watch | None = None,
) -> Packing:
    """Layer after layer, each calibrated on what the rounded layers before it give; the embedding to nearest."""
    packing = pack(model, scheme)
    deployed = quantised(model, packing)
    inputs = [deployed.model.embed_tokens(batch.inputs) for batch in batches]
    passes = [_pass(deployed, batch) for batch in batches]
    solver = _Solver(model, scheme, packing, scales)
    depth = len(deployed.model.layers)
    for index, layer in enumerate(deployed.model.layers):
        assert isinstance(layer, Layer)
        linears = {n: m for n, m in layer.named_modules() if isinstance(m, nn.Linear)}
        hessians = _hessians(linears, layer, inputs, passes, scheme.activations)
        for name, linear in linears.items():
            role = f"model.layers.{index}.{name}.weight"
            if role in packing.integers:
                linear.weight.copy_(solver.solve(role, hessians[name]).dequantised())
        inputs = [layer(x, shared, None) for x, shared in zip(inputs, passes, strict=True)]
        if watch:
            watch(index + 1, depth + 1)
    if HEAD in packing.integers:
        last = [deployed.model.embedding_norm(x) for x in inputs]
        solver.solve(HEAD, _gram(last, scheme.activations))
    if watch:
        watch(depth + 1, depth + 1)
    return Packing(scheme, solver.integers)


class _Solver:
    def __init__(self, model: HybridLM, scheme: Scheme, packing: Packing, scales: Scales) -> None:
        self._model, self._scheme, self._scales = model, scheme, scales
        self.integers = dict(packing.integers)

    def solve(self, role: str, hessian: Tensor) -> Integers:
        weight, precision = matrix(self._model, role).detach().float(), self._scheme.of(role)
        importance = hessian.diagonal().float()
        scale = found_scale(role, weight, precision, importance) if self._scales == "searched" else None
        self.integers[role] = solve(weight, hessian, precision, scale)
        return self.integers[role]


def _pass(model: HybridLM, batch: Batch) -> Pass:
    length = batch.inputs.shape[1]
    return Pass(0, length, model.architecture.rope, batch.inputs.device, batch.documents)


def _hessians(
    linears: dict[str, nn.Linear], layer: Layer, inputs: Iterable[Tensor], passes: Iterable[Pass], rounds: bool
) -> dict[str, Tensor]:
    names: dict[nn.Module, str] = {module: name for name, module in linears.items()}
    heard: dict[str, Tensor] = {}

    def hear(module: nn.Module, x: Tensor) -> None:
        name = names[module]
        gram = _gram([x], rounds)
        heard[name] = heard[name] + gram if name in heard else gram

    with listening(list(names), hear):
        for x, shared in zip(inputs, passes, strict=True):
            layer(x, shared, None)
    return heard


def _gram(inputs: Iterable[Tensor], rounds: bool) -> Tensor:
    """Sum of x x^T over tokens, [in, in] float64, of what the matrix is really multiplied with."""
    total: Tensor | None = None
    for x in inputs:
        rows = (round_activations(x) if rounds else x).flatten(0, -2).double()
        product = rows.T @ rows
        total = product if total is None else total + product
    assert total is not None
    return total


@torch.no_grad()
def solve(weight: Tensor, hessian: Tensor, precision: Precision, scale: Tensor | None = None) -> Integers:
    """Integers that approximately minimise tr((W - Q) H (W - Q)^T), columns of the largest diagonal first.

    Args:
        weight: [out, in] float32.
        hessian: H [in, in], of any scale.
        scale: [out, groups], fixed beforehand; without it those of the largest elements.
    """
    nearest = quantise_weight(weight, precision, scale)
    size, (low, high) = group_size(precision, weight.shape[1]), bounds(precision.bits)
    order = hessian.diagonal().argsort(descending=True, stable=True)
    rest = weight[:, order].float().clone()
    steps = nearest.scale.repeat_interleave(size, dim=1)[:, order]
    inverse = _inverse_root(hessian[order][:, order]).float()
    q = torch.empty_like(rest)
    for first in range(0, rest.shape[1], _COLUMNS):
        end = min(first + _COLUMNS, rest.shape[1])
        errors = torch.zeros(rest.shape[0], end - first)
        for column in range(first, end):
            step = steps[:, column]
            q[:, column] = (rest[:, column] * (1 / step)).round().clamp(low, high)
            error = (rest[:, column] - q[:, column] * step) / inverse[column, column]
            rest[:, column:end] -= error[:, None] * inverse[column, column:end]
            errors[:, column - first] = error
        rest[:, end:] -= errors @ inverse[first:end, end:]
    back = torch.empty_like(order)
    back[order] = torch.arange(len(order))
    return Integers(q[:, back].to(torch.int8), nearest.scale)


def _inverse_root(hessian: Tensor) -> Tensor:
    """Upper Cholesky factor of the damped H's inverse (paper, section 3.3, step 3)."""
    diagonal = hessian.diagonal()
    mean = float(diagonal.mean())
    damping = _DAMPING * (mean if mean > 0 else 1.0)
    while True:
        damped = hessian + damping * torch.eye(len(hessian), dtype=hessian.dtype)
        factor, failed = torch.linalg.cholesky_ex(damped)
        if not failed:
            break
        damping *= 10  # too few tokens to know so many inputs apart
    inverse: Tensor = torch.linalg.cholesky(torch.cholesky_inverse(factor), upper=True)
    return inverse
