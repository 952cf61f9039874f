"""Lowering a piece: by its kind's template where it has one, the plain way where it cannot, and saying which.

Functions of plain values, for a pool of processes.
"""

import time
from functools import lru_cache
from typing import NamedTuple

from pydantic import BaseModel, TypeAdapter

from search.errors import NoTemplate
from search.export import modules, shelf
from search.export.lower import lower
from search.export.pieces import Piece
from search.export.template import Template, instantiate, learn
from search.ports import BlockCache
from trainer.errors import TrainerError

_PIECE: TypeAdapter[Piece] = TypeAdapter(Piece)


class Kept(BaseModel):
    """What a cache keeps under a piece's `template_key`: a template, or why there is none."""

    template: Template | None = None
    why: str = ""


class Lowered(NamedTuple):
    """A .pte, the bytes of memory that it plans ahead of time, and the seconds it took.

    `plain` says why it was lowered the plain way; it is empty where a template gave it.
    """

    data: bytes
    planned: int
    plain: str
    build_seconds: float
    export_seconds: float


def learn_template(piece_json: str) -> tuple[str, float]:
    """(a `Kept` as JSON, seconds) of the template that gives this piece.

    Takes two plain lowerings, unless this machine has learnt it before.
    """
    start = time.perf_counter()
    piece = _PIECE.validate_json(piece_json)
    kept = shelf.find(piece.template_key)
    if kept is None:
        kept = _learn(piece).model_dump_json()
        shelf.keep(piece.template_key, kept)
    return kept, time.perf_counter() - start


def _learn(piece: Piece) -> Kept:
    try:
        return Kept(template=learn(piece))
    except (NoTemplate, TrainerError) as error:  # the latter: the settings do not suit this kind of quantisation
        return Kept(why=error.message)


def lower_piece(piece_json: str, template: str, spent: float = 0.0) -> Lowered:
    """Lower one piece with random weights by what `learn_template` gave for its kind, in `spent` seconds."""
    piece = _PIECE.validate_json(piece_json)
    lowered = lower_weights(piece, piece.random_weights(), template)
    return lowered._replace(export_seconds=lowered.export_seconds + spent)


def lower_weights(piece: Piece, weights: modules.Weights, template: str) -> Lowered:
    """Lower one piece with these weights by what `learn_template` gave for its kind."""
    start = time.perf_counter()
    module = piece.module(weights)
    del weights  # a large vocabulary's take as much memory as all that follows
    built = time.perf_counter()
    kept = _read(template)
    why = kept.why
    if kept.template is not None:
        try:
            data, planned = instantiate(kept.template, piece, module)
            return Lowered(data, planned, "", built - start, time.perf_counter() - built)
        except NoTemplate as error:
            why = error.message
    data, planned = lower(module, piece.example(), piece.chunk, piece.takes_position, piece.states())
    return Lowered(data, planned, why, built - start, time.perf_counter() - built)


@lru_cache(maxsize=64)
def _read(template: str) -> Kept:
    return Kept.model_validate_json(template)


class Templates:
    """Lowers piece after piece in this process, and learns the template of a kind that the cache does not know."""

    def __init__(self, cache: BlockCache) -> None:
        self._cache = cache

    def lower(self, piece: Piece, weights: modules.Weights) -> Lowered:
        """Lower one piece with these weights."""
        template = self._cache.get(piece.template_key)
        if template is None:
            template, _ = learn_template(piece.model_dump_json())
            self._cache.put(piece.template_key, template)
        return lower_weights(piece, weights, template)
