"""Hugging Face datasets in a local folder, read without the library.

Two layouts: what `save_to_disk` writes (state.json names Arrow streams; dataset_dict.json names folders of splits), and
a copy of a repository of the hub (shards of Parquet, JSONL or Arrow, whose names or folders tell the split).
"""

import json
import re
from pathlib import Path
from typing import Any

from trainer.errors import CorpusError

_SHARD = re.compile(r"\.(arrow|parquet|jsonl|jsonl\.gz|jsonl\.zst|json)$")
_SPLIT = re.compile(r"(?:^|[/._-])(train|test|validation|valid|val|dev|eval)(?=[/._-])")
_SAME = {"valid": "validation", "val": "validation", "dev": "validation", "eval": "test"}


def shards(folder: Path, label: str, split: str | None) -> list[Path]:
    """The files of a split, in order; without `split` it is train, or the only one there.

    Raises:
        CorpusError: no such split, no shard, or a shard that state.json names is missing.
    """
    splits = _splits(folder, label)
    if not splits:
        raise CorpusError(
            f"{label} holds no dataset: neither state.json, nor Parquet, JSONL or Arrow files",
            advice="give the folder that save_to_disk wrote, or a copy of a dataset's repository",
        )
    wanted = split or ("train" if "train" in splits or len(splits) > 1 else next(iter(splits)))
    if wanted not in splits:
        raise CorpusError(f"{label} has no split {wanted!r}", advice=f"say one of {', '.join(sorted(splits))}")
    return splits[wanted]


def _splits(folder: Path, label: str) -> dict[str, list[Path]]:
    if (folder / "dataset_dict.json").is_file():
        names = _json(folder / "dataset_dict.json", label).get("splits", [])
        return {name: _saved(folder / name, f"{label}, split {name}") for name in names}
    if (folder / "state.json").is_file():
        return {_json(folder / "state.json", label).get("_split") or "train": _saved(folder, label)}
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        named = _SHARD.search(path.name) and path.is_file() and not any(part.startswith(".") for part in inside.parts)
        if named and path.name not in ("dataset_info.json", "dataset_infos.json"):
            told = _SPLIT.search(inside.as_posix())
            name = told.group(1) if told else "train"
            found.setdefault(_SAME.get(name, name), []).append(path)
    return found


def _saved(folder: Path, label: str) -> list[Path]:
    state = _json(folder / "state.json", label)
    if state.get("_indices_data_files"):
        raise CorpusError(f"{label} is a selection of rows by index", advice="save it after flatten_indices()")
    files = [folder / Path(file["filename"]).name for file in state.get("_data_files", [])]
    missing = [file.name for file in files if not file.is_file()]
    if missing or not files:
        raise CorpusError(
            f"{label} lacks {', '.join(missing) or 'its Arrow files'}, which state.json names", advice="copy it again"
        )
    return files


def _json(path: Path, label: str) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(value, dict):
            return value
        wrong: object = "no object"
    except (OSError, ValueError) as error:
        wrong = error
    raise CorpusError(f"{label}: {path.name} cannot be read: {wrong}", advice="copy the dataset again")
