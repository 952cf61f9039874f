"""A packing on disk: quantisation.json says what is rounded and how it was found, quantised.safetensors holds it.

Two 4-bit integers share a byte, the first in the lower half; scales are bfloat16. Both are exact, so an export gives
the integers that were trained or searched.
"""

from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from trainer.errors import CheckpointError
from trainer.files import fsync_file, write_text
from trainer.precision import Scheme
from trainer.quantise import Integers, Packing

_SCHEME, _INTEGERS = "quantisation.json", "quantised.safetensors"


class Described(BaseModel):
    """What quantisation.json says: the scheme, and for people how the integers were found."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scheme: Scheme
    found: dict[str, Any] = Field(default_factory=dict)


def tensors(packing: Packing) -> dict[str, Tensor]:
    """As they are stored, by role and part."""
    stored: dict[str, Tensor] = {}
    for role, integers in packing.integers.items():
        four = packing.scheme.of(role).bits == 4
        stored[f"{role}.q"] = _halves(integers.q) if four else integers.q.contiguous()
        stored[f"{role}.scale"] = integers.scale.bfloat16().contiguous()
    return stored


def write_packing(packing: Packing, found: dict[str, Any], folder: Path) -> None:
    """Write both files and flush them.

    Raises:
        OSError, SafetensorError: the disk is full or refuses.
    """
    save_file(tensors(packing), folder / _INTEGERS)
    fsync_file(folder / _INTEGERS)
    write_text(folder / _SCHEME, Described(scheme=packing.scheme, found=found).model_dump_json(indent=2))


def read_packing(folder: Path) -> tuple[Packing, dict[str, Any]] | None:
    """(the packing, how it was found); None where a checkpoint has none.

    Raises:
        CheckpointError: one of the files is damaged or missing.
    """
    if not (folder / _SCHEME).exists() and not (folder / _INTEGERS).exists():
        return None
    try:
        described = Described.model_validate_json((folder / _SCHEME).read_text())
        stored = load_file(folder / _INTEGERS)
        roles = [name.removesuffix(".q") for name in stored if name.endswith(".q")]
        integers = {role: _integers(stored, role, described.scheme) for role in roles}
    except (OSError, ValueError, KeyError, SafetensorError) as wrong:
        raise CheckpointError(
            f"{folder}: the quantisation cannot be read: {wrong}", advice="quantise it again, or copy it again"
        ) from wrong
    return Packing(described.scheme, integers), described.found


def _integers(stored: dict[str, Tensor], role: str, scheme: Scheme) -> Integers:
    q, scale = stored[f"{role}.q"], stored[f"{role}.scale"].float()
    return Integers(_wholes(q) if scheme.of(role).bits == 4 else q, scale)


def _halves(q: Tensor) -> Tensor:
    return ((q[:, 0::2] & 15) | (q[:, 1::2] << 4)).view(torch.uint8).contiguous()


def _wholes(stored: Tensor) -> Tensor:
    signed = stored.view(torch.int8)
    return torch.stack([(signed << 4) >> 4, signed >> 4], dim=-1).flatten(1)
