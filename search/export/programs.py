"""Programs of candidates (composed, weights random), and of finalists and trained models (monolithic).

Both are made of the same lowered pieces: a composed Program names them, and a monolithic one is linked from them.
What lowers is imported where something is to be lowered: ExecuTorch takes seconds to import, and a candidate whose
pieces are known needs none of it.
"""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from pydantic import BaseModel
from torch import Tensor

from device_agent.contracts import KvCache, Program, Quantisation, Sha256, StageSpec, StateSpec
from search.export.pieces import Piece, pieces_of, toolchain, weights_of
from search.numerics import quantisation_of, scheme_of
from search.ports import BlockCache, Exported, Store
from search.spec import SearchSpec
from trainer.architecture import Architecture
from trainer.model import HybridLM
from trainer.quantise import Packing, pack

if TYPE_CHECKING:
    from search.export.link import Part
    from search.export.lowering import Lowered

_log = logging.getLogger(__name__)


class _Kept(BaseModel):
    """What the cache remembers of a lowered piece."""

    file: Sha256
    size: int
    planned: int
    plain: str = ""  # why it was lowered the plain way


def _chain(architecture: Architecture, spec: SearchSpec) -> list[tuple[str, Piece]]:
    pieces = pieces_of(
        architecture,
        context=spec.context_length,
        chunk=spec.prefill_chunk,
        quantisation=spec.quantisation,
        kv_cache=spec.protocol.kv_cache,
    )
    return [(name, piece) for name, piece, _ in pieces]


def export_candidates(
    architectures: Sequence[Architecture], spec: SearchSpec, store: Store, cache: BlockCache, executor: Executor
) -> list[Exported | Exception]:
    """One composed Program per architecture, in order, or the exception that its export raised.

    Every distinct piece is lowered once in the life of the cache, and the template of its kind learnt once before. A
    piece's seconds count for the first architecture of the batch that needs it.
    """
    chains = [_chain(architecture, spec) for architecture in architectures]
    missing = {piece.key: piece for chain in chains for _, piece in chain if cache.get(piece.key) is None}
    pending = _submit(list(missing.values()), cache, executor)
    exported: list[Exported | Exception] = []
    for architecture, chain in zip(architectures, chains, strict=True):
        try:
            build, export = _settle(chain, pending, store, cache)
            exported.append(
                Exported(program=_compose(architecture, chain, spec, cache), build_seconds=build, export_seconds=export)
            )
        except Exception as error:  # a candidate that cannot be exported is a result of its own
            exported.append(error)
    return exported


def _submit(pieces: Sequence[Piece], cache: BlockCache, executor: Executor) -> "dict[Sha256, Future[Lowered]]":
    """Learn the templates that are not known yet side by side, then lower the pieces side by side."""
    if not pieces:
        return {}
    from search.export.lowering import learn_template, lower_piece

    unknown = {piece.template_key: piece for piece in pieces if cache.get(piece.template_key) is None}
    learning = {key: executor.submit(learn_template, piece.model_dump_json()) for key, piece in unknown.items()}
    spent: dict[Sha256, float] = {}
    for key, learnt in learning.items():
        with suppress(Exception):  # the pieces that need it raise it again
            value, spent[key] = learnt.result()
            cache.put(key, value)
    pending: dict[Sha256, Future[Any]] = {}
    for piece in pieces:
        key, template = piece.template_key, cache.get(piece.template_key)
        if template is None:
            pending[piece.key] = learning[key]
        else:
            seconds = spent.pop(key, 0.0)
            pending[piece.key] = executor.submit(lower_piece, piece.model_dump_json(), template, seconds)
    return pending


def _settle(
    chain: list[tuple[str, Piece]], pending: "dict[Sha256, Future[Lowered]]", store: Store, cache: BlockCache
) -> tuple[float, float]:
    build = export = 0.0
    for key in dict.fromkeys(piece.key for _, piece in chain):
        future = pending.get(key)
        if future is None:
            continue
        lowered = future.result()  # a failed piece stays pending, so that every architecture with it fails
        del pending[key]
        _warn_of(lowered)
        file = store.put(lowered.data)
        kept = _Kept(file=file, size=len(lowered.data), planned=lowered.planned, plain=lowered.plain)
        cache.put(key, kept.model_dump_json())
        build += lowered.build_seconds
        export += lowered.export_seconds
    return build, export


def _compose(
    architecture: Architecture, chain: list[tuple[str, Piece]], spec: SearchSpec, cache: BlockCache
) -> Program:
    stages, files, planned = [], {}, 0
    for name, piece in chain:
        value = cache.get(piece.key)
        if value is None:
            raise LookupError(f"the cache lost the lowered piece of {name}")
        kept = _Kept.model_validate_json(value)
        files[kept.file] = kept.size
        planned += kept.planned
        stages.append(StageSpec(name=name, file=kept.file, takes_position=piece.takes_position, state=piece.states()))
    return Program(
        layout="composed",
        planned_memory=planned,
        files=files,
        stages=tuple(stages),
        **_facts(architecture, spec.quantisation, spec.context_length, spec.prefill_chunk),
    )


def link_program(composed: Program, store: Store) -> Exported:
    """The monolithic Program of the same files: linked, nothing lowered again."""
    from search.export.link import Part

    start = time.perf_counter()
    parts = (Part(stage.name, store.get(stage.file), stage.takes_position, stage.state) for stage in composed.stages)
    whole = _link(parts, [(stage.name, stage.state) for stage in composed.stages], store)
    program = composed.model_copy(update=dict(whole))
    return Exported(program=program, build_seconds=0.0, export_seconds=time.perf_counter() - start)


def export_model(
    model: HybridLM,
    *,
    context_length: int,
    prefill_chunk: int,
    quantisation: Quantisation | Packing,
    store: Store,
    cache: BlockCache | None = None,
    kv_cache: KvCache = "float32",
) -> Program:
    """The monolithic Program of a trained model: one file, one stage.

    A Packing gives the integers that were trained or searched; a Quantisation rounds the weights to nearest. Templates
    are taken from `cache` and kept there, and pieces linked; without one the whole model is lowered at once, the plain
    way, which is quicker where it has few layers and no other will be exported.

    Raises:
        CannotBeLowered: the phone's kernels have no operator for these numerics.
        QuantisationError: a group that does not divide, or a matrix that the architecture does not have.
    """
    if isinstance(quantisation, Packing):
        packing, quantisation = quantisation, quantisation_of(quantisation.scheme)
        packing.check(model.architecture)
    else:
        packing = pack(model, scheme_of(quantisation))
    pieces = list(
        pieces_of(
            model.architecture,
            context=context_length,
            chunk=prefill_chunk,
            quantisation=quantisation,
            kv_cache=kv_cache,
        )
    )
    weights = packing.weights(model)
    parts = _lowered_whole(weights, pieces) if cache is None else _lowered_parts(weights, pieces, cache)
    whole = _link(parts, [(name, piece.states()) for name, piece, _ in pieces], store)
    return Program(**whole, **_facts(model.architecture, quantisation, context_length, prefill_chunk))


_Pieces = Sequence[tuple[str, Piece, dict[str, str]]]


def _lowered_parts(weights: Mapping[str, Tensor], pieces: _Pieces, cache: BlockCache) -> "Iterator[Part]":
    """Piece after piece, of which only one is held at a time."""
    from search.export.link import Part
    from search.export.lowering import Templates

    templates = Templates(cache)
    for name, piece, parameters in pieces:
        lowered = templates.lower(piece, weights_of(piece, weights, parameters))
        _warn_of(lowered)
        yield Part(name, lowered.data, piece.takes_position, piece.states())


def _lowered_whole(weights: Mapping[str, Tensor], pieces: _Pieces) -> "Iterator[Part]":
    """One part, which is the whole model."""
    from search.export.link import Part
    from search.export.lower import lower
    from search.export.modules import Chain

    modules = [piece.module(weights_of(piece, weights, parameters)) for _, piece, parameters in pieces]
    arity = [(piece.takes_position, len(piece.states())) for _, piece, _ in pieces]
    states = tuple(state for _, piece, _ in pieces for state in piece.states())
    first = pieces[0][1]
    data, _ = lower(Chain(modules, arity), first.example(), first.chunk, True, states)
    yield Part("model", data, True, states)


def _warn_of(lowered: "Lowered") -> None:
    if lowered.plain:
        _log.warning("lowered the plain way, since its template cannot give it: %s", lowered.plain)


class _Whole(TypedDict):
    layout: Literal["monolithic"]
    planned_memory: int
    files: dict[Sha256, int]
    stages: tuple[StageSpec, ...]


def _link(parts: "Iterator[Part]", states: Sequence[tuple[str, Sequence[StateSpec]]], store: Store) -> _Whole:
    """What makes a Program monolithic. States get names that hold in the whole chain."""
    from search.export.link import link

    data, planned = link(parts)
    file = store.put(data)
    named = [s.model_copy(update={"name": f"{piece}.{s.name}"}) for piece, own in states for s in own]
    stage = StageSpec(name="model", file=file, takes_position=True, state=tuple(named))
    return _Whole(layout="monolithic", planned_memory=planned, files={file: len(data)}, stages=(stage,))


class _Facts(TypedDict):
    architecture: Sha256
    executorch: str
    quantisation: Quantisation
    vocab_size: int
    context_length: int
    prefill_chunk: int


def _facts(architecture: Architecture, quantisation: Quantisation, context: int, chunk: int) -> _Facts:
    return _Facts(
        architecture=architecture.hash,
        executorch=toolchain()["executorch"],
        quantisation=quantisation,
        vocab_size=architecture.vocab_size,
        context_length=context,
        prefill_chunk=chunk,
    )
