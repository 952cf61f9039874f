"""Mixed precision under a budget of bytes: which matrices deserve more bits.

What a rounding costs is measured one matrix at a time: the KL divergence of the model with that matrix alone rounded
from the full-precision model. The costs are taken to add up, which they do while they are small. The assignment then
is a knapsack with one choice per matrix (arXiv 1911.03852, section 3.2).
"""

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.architecture import Architecture
from trainer.calibrate import Watch
from trainer.data import Batch
from trainer.distil import forward_kl
from trainer.errors import QuantisationError
from trainer.model import HybridLM, Pass
from trainer.options import CANDIDATES
from trainer.precision import EMBEDDING, HEAD, Precision, Scheme, matrices
from trainer.quantise import matrix, quantise_weight
from trainer.scales import found_scale

Costs = Mapping[str, Mapping[Precision, float]]
"""By role and precision, in nats a token."""


def possible(architecture: Architecture, candidates: Sequence[Precision]) -> dict[str, list[Precision]]:
    """By role, the candidates whose groups divide its inputs.

    Raises:
        QuantisationError: for some matrix there is none.
    """
    found: dict[str, list[Precision]] = {}
    for role, (_, inputs) in matrices(architecture).items():
        fitting = [p for p in candidates if p.group_size is None or inputs % p.group_size == 0]
        if not fitting:
            raise QuantisationError(
                f"no precision of {', '.join(map(str, candidates))} divides the {inputs} inputs of {role}",
                advice="let a group of 32 or 8 bits be a candidate",
            )
        found[role] = fitting
    return found


def refuse_too_few(candidates: Sequence[Precision], architecture: Architecture, budget: int) -> None:
    """Raise QuantisationError where even the smallest candidates take more than `budget` bytes."""
    shapes = matrices(architecture)
    least = sum(
        min(Scheme(weights=precision).bytes_of(role, shapes[role]).total for precision in fitting)
        for role, fitting in possible(architecture, candidates).items()
    )
    if least > budget:
        raise QuantisationError(
            f"{budget:,} bytes are too few: at the lowest precisions the matrices take {least:,}",
            advice="raise the byte budget, or allow larger groups",
        )


@torch.no_grad()
def sensitivities(
    model: HybridLM,
    batches: Sequence[Batch],
    candidates: Sequence[Precision] = CANDIDATES,
    watch: Watch | None = None,
    known: Costs | None = None,
    keep: Callable[[Costs], None] | None = None,
) -> dict[str, dict[Precision, float]]:
    """KL(full || one matrix rounded) in nats a token, by role and precision; scales are those of `found_scale`.

    Layers before the matrix are not computed again. Memory: the inputs of every layer, for all batches. Roles of
    `known` are taken from there; `keep` is given all that is known after every role.

    Raises:
        QuantisationError: see `possible`.
    """
    choices = possible(model.architecture, candidates)
    costs = {role: dict(by) for role, by in (known or {}).items() if by.keys() == set(choices.get(role, ()))}
    if costs.keys() == choices.keys():
        return costs
    probe = _Probe(model, batches)
    done, total = sum(map(len, costs.values())), sum(map(len, choices.values()))
    for role, fitting in choices.items():
        if role in costs:
            continue
        plain = matrix(model, role).detach().float()
        costs[role] = {}
        for precision in fitting:
            rounded = plain
            if precision.bits != 32:
                rounded = quantise_weight(
                    plain, precision, found_scale(role, plain, precision), name=role
                ).dequantised()
            costs[role][precision] = probe.divergence(role, rounded)
            done += 1
            if watch:
                watch(done, total)
        if keep:
            keep(costs)
    return costs


class _Probe:
    def __init__(self, model: HybridLM, batches: Sequence[Batch]) -> None:
        self._model, self._batches = model, batches
        rope = model.architecture.rope
        self._passes = [Pass(0, b.inputs.shape[1], rope, b.inputs.device, b.documents) for b in batches]
        self._inputs = [[model.model.embed_tokens(batch.inputs) for batch in batches]]
        for layer in model.model.layers:
            self._inputs.append([layer(x, p, None) for x, p in zip(self._inputs[-1], self._passes, strict=True)])
        self._known = [model.logits(model.model.embedding_norm(x)) for x in self._inputs[-1]]

    def divergence(self, role: str, rounded: Tensor) -> float:
        """Mean over the batches, with `rounded` in the place of the matrix of `role`."""
        total = 0.0
        for index, known in enumerate(self._known):
            total += float(forward_kl(self._logits(role, rounded, index), known))
        return total / len(self._known)

    def _logits(self, role: str, rounded: Tensor, index: int) -> Tensor:
        decoder = self._model.model
        if role == HEAD:
            return F.linear(decoder.embedding_norm(self._inputs[-1][index]), rounded)
        if role == EMBEDDING:
            return self._from(0, F.embedding(self._batches[index].inputs, rounded), index)
        layer = int(role.split(".")[2])
        parameter = self._model.get_parameter(role)
        kept = parameter.detach().clone()
        parameter.data.copy_(rounded)
        try:
            return self._from(layer, self._inputs[layer][index], index)
        finally:
            parameter.data.copy_(kept)

    def _from(self, layer: int, x: Tensor, index: int) -> Tensor:
        decoder = self._model.model
        for following in list(decoder.layers)[layer:]:
            x = following(x, self._passes[index], None)
        return self._model.logits(decoder.embedding_norm(x))


def assign(costs: Costs, scheme: Scheme, architecture: Architecture, budget: int) -> Scheme:
    """`scheme` with the precisions of least cost whose matrices take at most `budget` bytes in a Program.

    Greedy over the lower convex hull of every matrix's (bytes, cost): the solution of the Lagrangian, and then every
    further step that fits. It is the best one up to the gain of a single step.

    Raises:
        QuantisationError: even the smallest choices take more.
    """
    refuse_too_few(tuple({p for by in costs.values() for p in by}), architecture, budget)
    shapes = matrices(architecture)

    def size(role: str, precision: Precision) -> int:
        return scheme.with_bits({role: precision}).bytes_of(role, shapes[role]).total

    hulls = {role: _hull([(size(role, p), cost, p) for p, cost in by.items()]) for role, by in costs.items()}
    taken = dict.fromkeys(hulls, 0)
    used = sum(hull[0][0] for hull in hulls.values())
    steps = [(role, at) for role, hull in hulls.items() for at in range(len(hull) - 1)]

    def worth(step: tuple[str, int]) -> float:
        (bytes_, cost, _), (more, less, _) = hulls[step[0]][step[1] : step[1] + 2]
        return (cost - less) / (more - bytes_)

    for role, at in sorted(steps, key=worth, reverse=True):
        extra = hulls[role][at + 1][0] - hulls[role][at][0]
        if taken[role] == at and used + extra <= budget:
            taken[role], used = at + 1, used + extra
    return scheme.with_bits({role: hulls[role][at][2] for role, at in taken.items()})


def _hull(points: list[tuple[int, float, Precision]]) -> list[tuple[int, float, Precision]]:
    """The lower left convex hull, by rising bytes and falling cost."""
    hull: list[tuple[int, float, Precision]] = []
    for point in sorted(points, key=lambda p: p[:2]):
        if hull and point[1] >= hull[-1][1]:
            continue
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) >= _slope(hull[-1], point):
            hull.pop()
        if hull and hull[-1][0] == point[0]:
            continue
        hull.append(point)
    return hull


def _slope(one: tuple[int, float, Precision], other: tuple[int, float, Precision]) -> float:
    return (other[1] - one[1]) / (other[0] - one[0])
