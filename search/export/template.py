"""Templates: a kind of piece is lowered at two settings of its dimensions, and any others are worked out from those.

A block's graph is the same at every width. So whatever differs between two lowerings is a number that follows from
the dimensions (`explain`), or constant data that follows from the module's tensors (`packing`); what follows from
these (offsets, planned memory, names) is made by ExecuTorch's own functions (`anatomy`). Nothing here knows what a
module does: an operator that is an `nn.Module` gets its template for nothing.

A template is exact or does not exist. It must give, byte for byte, both files that it was learnt from; a number or
data that it cannot explain, and dimensions at which the graph may be another, raise NoTemplate, and the caller lowers
the plain way.
"""

from collections.abc import Iterator, Mapping

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from search.errors import NoTemplate
from search.export.anatomy import Anatomy, Recorder, Tree, assemble, dissect
from search.export.explain import Explainer, Expression
from search.export.lower import to_executorch
from search.export.packing import Source, Tensors, tensors_of, trace
from search.export.pieces import BasePiece

Path = tuple[str | int, ...]
Ones = dict[str, tuple[bool, ...]]


class Edit(BaseModel):
    """The number at `path` of the tree is what `expression` gives."""

    path: Path
    expression: Expression


class Template(BaseModel):
    """What a kind of piece is lowered to, but for its dimensions and weights."""

    tree: Tree
    edits: tuple[Edit, ...]
    sources: dict[str, Source]
    ones: Ones  # which sizes of which tensors are 1: torch makes another graph of those


def learn(piece: BasePiece) -> Template:
    """The template that gives `piece`, and others of its kind.

    Raises:
        NoTemplate: what was lowered cannot be explained.
    """
    settings = piece.settings()
    dimensions = [setting.dimensions() for setting in settings]
    modules = [setting.module(_distinct_weights(setting, seed)) for seed, setting in enumerate(settings)]
    tensors = [_tensors(*pair) for pair in zip(settings, modules, strict=True)]
    lowered = [_lower(*pair) for pair in zip(settings, modules, strict=True)]
    first, second = (anatomy for anatomy, _, _ in lowered)
    explain = Explainer(dimensions)
    edits = tuple(Edit(path=path, expression=explain(seen)) for path, seen in _differences(first.tree, second.tree))
    sources = trace([first.blobs, second.blobs], tensors)
    template = Template(tree=first.tree, edits=edits, sources=sources, ones=_ones(tensors[0]))
    for size, own, (_, data, planned) in zip(dimensions, tensors, lowered, strict=True):
        if _give(template, size, own) != (data, planned):
            raise NoTemplate(f"the template does not give what it was learnt from, at {dict(size)}")
    return template


def instantiate(template: Template, piece: BasePiece, module: nn.Module) -> tuple[bytes, int]:
    """(the .pte of `module`, which is `piece`'s, and bytes of memory planned ahead of time).

    Raises:
        NoTemplate: at these dimensions the graph may be another.
    """
    return _give(template, piece.dimensions(), _tensors(piece, module))


def _give(template: Template, dimensions: Mapping[str, int], tensors: Tensors) -> tuple[bytes, int]:
    if template.ones != _ones(tensors):
        raise NoTemplate(f"sizes of 1 where the template has none, or the reverse, at {dict(dimensions)}")
    tree = _copy(template.tree)
    for edit in template.edits:
        *way, last = edit.path
        place = tree
        for step in way:
            place = place[step]
        place[last] = edit.expression.at(dimensions)
    return assemble(tree, {name: source.read(tensors) for name, source in template.sources.items()})


def _lower(piece: BasePiece, module: nn.Module) -> tuple[Anatomy, bytes, int]:
    recorder = Recorder()
    with recorder.listening():
        manager = to_executorch(
            module, piece.example(), piece.chunk, piece.takes_position, piece.states(), recorder.plan
        )
    planned = sum(manager.executorch_program.execution_plan[0].non_const_buffer_sizes)
    return dissect(manager, recorder), bytes(manager.buffer), planned


def _tensors(piece: BasePiece, module: nn.Module) -> dict[str, Tensor]:
    scalars = {f"={name}": torch.tensor(value, dtype=torch.float32) for name, value in piece.scalars().items()}
    return tensors_of(module) | scalars


def _distinct_weights(piece: BasePiece, seed: int) -> dict[str, Tensor]:
    """No two tensors alike, so that each is recognised."""
    generator = torch.Generator().manual_seed(seed + 1)
    return {name: torch.randn(shape, generator=generator) for name, shape in piece.shapes().items()}


def _ones(tensors: Tensors) -> Ones:
    return {name: tuple(size == 1 for size in tensor.shape) for name, tensor in tensors.items()}


def _copy(tree: Tree) -> Tree:
    if isinstance(tree, dict):
        return {name: _copy(one) for name, one in tree.items()}
    return [_copy(one) for one in tree] if isinstance(tree, list) else tree


def _differences(first: Tree, second: Tree, path: Path = ()) -> Iterator[tuple[Path, tuple[int, int]]]:
    """Numbers that differ between trees of the same form."""
    if type(first) is not type(second):
        raise NoTemplate(f"{first!r} and {second!r} at {path}")
    if isinstance(first, dict):
        if first.keys() != second.keys():
            raise NoTemplate(f"different fields at {path}")
        for name in first:
            yield from _differences(first[name], second[name], (*path, name))
    elif isinstance(first, list):
        if len(first) != len(second):
            raise NoTemplate(f"{len(first)} and {len(second)} entries at {path}")
        for i, pair in enumerate(zip(first, second, strict=True)):
            yield from _differences(*pair, (*path, i))
    elif first != second:
        if type(first) is not int:
            raise NoTemplate(f"{first!r} and {second!r} at {path}")
        yield path, (first, second)
