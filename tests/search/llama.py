"""llama.cpp, for benches and oracles: built once for this host, and driven in a process of its own.

llama-cpp-python comes as source alone. It is built with the compiler's knowledge of this very CPU into a virtual
environment of its own, so that nothing of it meets ours; that takes minutes to half an hour of two cores.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

VERSION = "0.3.36"
_TOOLS = ("cmake", "ninja", "scikit-build-core")
_OFF = ("LLAMA_BUILD_TESTS", "LLAMA_BUILD_EXAMPLES", "LLAMA_BUILD_TOOLS", "MTMD_BUILD", "LLAVA_BUILD")
_FLAGS = " ".join(["-DGGML_NATIVE=ON", "-DCMAKE_BUILD_TYPE=Release", *(f"-D{name}=OFF" for name in _OFF)])
_STEP = re.compile(r"\[(\d+)/(\d+)\]")


def python(directory: Path) -> Path:
    """The interpreter of an environment that has llama-cpp-python, built into `directory` if it is not there."""
    interpreter, stamp = directory / "bin" / "python", directory / "version"
    if stamp.is_file() and stamp.read_text() == f"{VERSION} {_FLAGS}":
        return interpreter
    print(f"Building llama-cpp-python {VERSION} for this CPU into {directory}; this is done once.", flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", directory], check=True)
    pip = [interpreter, "-m", "pip"]
    subprocess.run([*pip, "install", "-q", *_TOOLS], check=True)
    log = directory / "build.log"
    environment = os.environ | {"CMAKE_ARGS": _FLAGS, "CMAKE_BUILD_PARALLEL_LEVEL": str(os.cpu_count())}
    with log.open("w") as out:
        command = [*pip, "install", "-v", f"llama-cpp-python=={VERSION}"]
        build = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment)
        _watch(build, log)
    if build.returncode:
        raise SystemExit(f"llama-cpp-python could not be built; its last words are in {log}")
    stamp.write_text(f"{VERSION} {_FLAGS}")
    return interpreter


def _watch(build: "subprocess.Popen[bytes]", log: Path) -> None:
    start = time.monotonic()
    try:
        while build.poll() is None:
            time.sleep(2)
            steps = _STEP.findall(log.read_text(errors="replace"))
            at = f"{steps[-1][0]} of {steps[-1][1]} steps" if steps else "fetching"
            print(f"\r  {time.monotonic() - start:5.0f} s, {at}   ", end="", flush=True)
    finally:
        build.terminate()
        print(flush=True)


class LlamaError(RuntimeError):
    """llama.cpp refused a file, or its process died."""


class Llama:
    """A GGUF file loaded in a process of llama.cpp; close it, or use it as a context."""

    def __init__(self, interpreter: Path, file: Path, *, context: int, threads: int, kv: str = "f16") -> None:
        environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        command = [interpreter, Path(__file__).with_name("llama_process.py"), file, str(context), str(threads), kv]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        self.loaded = self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        line = self._process.stdout.readline()
        if not line.startswith("{"):  # an assertion prints where it stands
            self._process.kill()
            said = [line.strip(), *self._process.stderr.read().splitlines()]
            raise LlamaError(f"llama.cpp ended: {' | '.join(filter(None, said)) or 'without a word'}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, **request: object) -> dict[str, Any]:
        """Send one request of llama_process.py, and wait for its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def turn(self, prompt: Sequence[int], new_tokens: int) -> tuple[list[int], int, list[int]]:
        """(tokens, ns of the prompt, ns of each token after the first) of a greedy answer from an empty state."""
        answer = self.ask(do="turn", prompt=list(prompt), new_tokens=new_tokens)
        return answer["tokens"], answer["prefill_ns"], answer["decode_ns"]

    def tokenise(self, text: str) -> list[int]:
        """The ids of a text; special tokens in it are plain text."""
        ids: list[int] = self.ask(do="tokenise", text=text)["ids"]
        return ids

    def close(self) -> None:
        """End the process."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> "Llama":
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()
