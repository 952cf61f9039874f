import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from trainer.architecture import Architecture, Attention, ShortConv
from trainer.data import Corpus, prepare
from trainer.sources import Source

VOCABULARY = 300


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Bits are compared between processes: sums are taken in one order."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def text_files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Real code: a few modules of the standard library, copied."""
    folder = tmp_path_factory.mktemp("texts")
    library = Path(sysconfig.get_path("stdlib"))
    names = ["argparse.py", "ast.py", "copy.py", "dataclasses.py", "difflib.py", "enum.py", "heapq.py", "inspect.py"]
    for name in names:
        (folder / name).write_text((library / name).read_text(encoding="utf-8"), encoding="utf-8")
    return [folder / name for name in names]


@pytest.fixture(scope="session")
def corpus(text_files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    sources = [Source(path=path) for path in text_files]
    return prepare(sources, tmp_path_factory.mktemp("corpora") / "small", vocab_size=VOCABULARY, seed=1)


@pytest.fixture(scope="session")
def tiny() -> Architecture:
    blocks = (ShortConv(), Attention(heads=2, kv_heads=1, head_dim=16))
    return Architecture(vocab_size=VOCABULARY, width=32, ffn_width=64, blocks=blocks)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("only root mounts a file system")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)
