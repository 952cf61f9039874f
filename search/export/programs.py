"""Programs of candidates (composed, weights random) and of trained models (monolithic)."""

import time
from collections.abc import Sequence
from concurrent.futures import Executor, Future
from typing import NamedTuple, TypedDict

from pydantic import BaseModel, TypeAdapter

from device_agent.contracts import Program, Quantisation, Sha256, StageSpec
from search.export import modules
from search.export.lower import lower
from search.export.pieces import Piece, pieces_of, toolchain, weights_of
from search.numerics import quantisation_of, scheme_of
from search.ports import BlockCache, Exported, Store
from search.spec import SearchSpec
from trainer.architecture import Architecture
from trainer.model import HybridLM
from trainer.quantise import Packing, pack

_PIECE: TypeAdapter[Piece] = TypeAdapter(Piece)


class _Lowered(NamedTuple):
    data: bytes
    planned: int
    build_seconds: float
    export_seconds: float


class _Kept(BaseModel):
    """What the cache remembers of a lowered piece."""

    file: Sha256
    size: int
    planned: int


def lower_piece(piece_json: str) -> _Lowered:
    """Lower one piece with random weights; a top-level function of plain values, for a process pool."""
    piece = _PIECE.validate_json(piece_json)
    start = time.perf_counter()
    module = piece.module(piece.random_weights())
    built = time.perf_counter()
    data, planned = lower(module, piece.example(), piece.chunk, piece.takes_position, piece.states())
    return _Lowered(data, planned, built - start, time.perf_counter() - built)


def _chain(architecture: Architecture, spec: SearchSpec) -> list[tuple[str, Piece]]:
    pieces = pieces_of(
        architecture, context=spec.context_length, chunk=spec.prefill_chunk, quantisation=spec.quantisation
    )
    return [(name, piece) for name, piece, _ in pieces]


def export_candidates(
    architectures: Sequence[Architecture], spec: SearchSpec, store: Store, cache: BlockCache, executor: Executor
) -> list[Exported | Exception]:
    """One composed Program per architecture, in order, or the exception that its export raised.

    Every distinct piece is lowered once in the life of the cache. A piece's seconds count for the first architecture
    of the batch that needs it.
    """
    chains = [_chain(architecture, spec) for architecture in architectures]
    pending: dict[Sha256, Future[_Lowered]] = {}
    for chain in chains:
        for _, piece in chain:
            if piece.key not in pending and cache.get(piece.key) is None:
                pending[piece.key] = executor.submit(lower_piece, piece.model_dump_json())
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


def _settle(
    chain: list[tuple[str, Piece]], pending: dict[Sha256, Future[_Lowered]], store: Store, cache: BlockCache
) -> tuple[float, float]:
    build = export = 0.0
    for key in dict.fromkeys(piece.key for _, piece in chain):
        future = pending.get(key)
        if future is None:
            continue
        lowered = future.result()  # a failed piece stays pending, so that every architecture with it fails
        del pending[key]
        kept = _Kept(file=store.put(lowered.data), size=len(lowered.data), planned=lowered.planned)
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


def export_model(
    model: HybridLM,
    *,
    context_length: int,
    prefill_chunk: int,
    quantisation: Quantisation | Packing,
    store: Store,
) -> Program:
    """The monolithic Program of a trained model: one file, one stage.

    A Packing gives the integers that were trained or searched; a Quantisation rounds the weights to nearest.

    Raises:
        CannotBeLowered: the phone's kernels have no operator for these numerics.
        QuantisationError: a group that does not divide, or a matrix that the architecture does not have.
    """
    if isinstance(quantisation, Packing):
        packing, quantisation = quantisation, quantisation_of(quantisation.scheme)
        packing.check(model.architecture)
    else:
        packing = pack(model, scheme_of(quantisation))
    weights = packing.weights(model)
    parts, arity, states = [], [], []
    pieces = list(pieces_of(model.architecture, context=context_length, chunk=prefill_chunk, quantisation=quantisation))
    for name, piece, parameters in pieces:
        parts.append(piece.module(weights_of(piece, weights, parameters)))
        arity.append((piece.takes_position, len(piece.states())))
        states += [s.model_copy(update={"name": f"{name}.{s.name}"}) for s in piece.states()]
    module = modules.Chain(parts, arity)
    data, planned = lower(module, pieces[0][1].example(), prefill_chunk, True, states)
    file = store.put(data)
    stage = StageSpec(name="model", file=file, takes_position=True, state=tuple(states))
    return Program(
        layout="monolithic",
        planned_memory=planned,
        files={file: len(data)},
        stages=(stage,),
        **_facts(model.architecture, quantisation, context_length, prefill_chunk),
    )


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
