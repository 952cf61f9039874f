"""The golden Program, exported in a process of its own: torch and ExecuTorch never come into the API's.

`python -m server.golden DIRECTORY` writes it there, and ends early when its standard input does: it never outlives
the server that asked for it.
"""

import hashlib
import importlib.metadata
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from pydantic import BaseModel

from device_agent.contracts import Blame, FulcrumError, Golden, Program, Sha256, content_hash
from search.ports import BlockCache, Store

_RESULT = "golden.json"


class GoldenUnavailable(FulcrumError):
    """The golden Program could not be exported on this host."""

    blame, slug = Blame.US, "golden-export"


class ServerClosing(FulcrumError):
    """The export was ended because the server ends; nothing is known of whether it would have worked."""

    blame, slug = Blame.INFRASTRUCTURE, "server-closing"


class GoldenProgram(BaseModel):
    """A Program, and what it must say; its files are in the store."""

    program: Program
    golden: Golden


class GoldenExport:
    """Gives the golden Program, exporting it once per version of the libraries; `close`, from any thread, ends that."""

    def __init__(self, store: Store, cache: BlockCache) -> None:
        self._store, self._cache = store, cache
        self._child: subprocess.Popen[bytes] | None = None
        self._closed = False
        self._lock = threading.Lock()
        self._one_at_a_time = threading.Lock()

    def __call__(self) -> GoldenProgram:
        """Minutes the first time on a busy host, at once from then on.

        Raises:
            GoldenUnavailable: the export failed, in its own words.
            ServerClosing: it was ended, or not begun, because of `close`.
        """
        key = golden_key()
        with self._one_at_a_time:
            kept = self._cache.get(key)
            if kept is None:
                with tempfile.TemporaryDirectory(prefix="fulcrum-golden-") as scratch:
                    kept = self._export(Path(scratch))
                self._cache.put(key, kept)
        return GoldenProgram.model_validate_json(kept)

    def close(self) -> None:
        """End an export that runs, and refuse the next."""
        with self._lock:
            self._closed = True
            if self._child is not None:
                self._child.kill()

    def _export(self, directory: Path) -> str:
        with (directory / "log").open("w+b") as log:
            with self._lock:
                self._require_open()
                command = [sys.executable, "-m", "server.golden", str(directory)]
                child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log)
                self._child = child
            assert child.stdin is not None  # we asked for a pipe
            code = child.wait()
            self._child = None
            child.stdin.close()  # until now: the child ends when this does
            log.seek(0)
            said = log.read().decode(errors="replace").strip()[-1000:]
        if code != 0:
            self._require_open()
            raise GoldenUnavailable(
                f"The golden Program could not be exported (exit code {code}): {said}",
                advice="Is fulcrum[search] installed whole? Please report this otherwise.",
            )
        kept = (directory / _RESULT).read_text()
        for name in GoldenProgram.model_validate_json(kept).program.files:
            self._store.put((directory / name).read_bytes())
        return kept

    def _require_open(self) -> None:
        if self._closed:
            raise ServerClosing("The server is closing.", advice="The check goes on when it is up again.")


def golden_key() -> Sha256:
    """What decides what is exported, our code too; a Program and its golden logits are kept together, so no more."""
    versions = {name: importlib.metadata.version(name) for name in ("executorch", "torch", "torchao")}
    ours = hashlib.sha256()
    for module in ("search.export", "trainer"):
        for path in sorted((Path(__file__).parents[1] / module.replace(".", "/")).glob("*.py")):
            ours.update(path.read_bytes())
    return content_hash({"golden": versions, "ours": ours.hexdigest()})


class _Folder:
    """A store that is a directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def put(self, data: bytes) -> Sha256:
        name = hashlib.sha256(data).hexdigest()
        (self._directory / name).write_bytes(data)
        return name

    def get(self, sha256: Sha256) -> bytes:
        return (self._directory / sha256).read_bytes()


def export_into(directory: Path) -> GoldenProgram:
    """Export here and now: the files by their hashes, and `golden.json`, which comes last."""
    from search.export.golden import export_golden

    program, golden = export_golden(_Folder(directory))
    made = GoldenProgram(program=program, golden=golden)
    (directory / _RESULT).write_text(made.model_dump_json())
    return made


def _main() -> None:
    def watch() -> None:
        while os.read(0, 1):
            pass
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()
    export_into(Path(sys.argv[1]))


if __name__ == "__main__":
    _main()
