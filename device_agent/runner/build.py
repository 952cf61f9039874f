"""Builds the host runner: the native runner linked against the libraries of ExecuTorch's own wheel.

It is what a virtual phone runs. The same source for a real phone is `android_native`'s; without an NDK there is
`android_java`.
"""

import hashlib
import importlib.metadata
import importlib.util
import json
import re
import shutil
import subprocess
import sysconfig
import tempfile
from pathlib import Path

from device_agent.contracts import Blame, FulcrumError
from device_agent.runner.bundle import (
    ATTENTION,
    PREFIXES,
    Provider,
    RunnerBundle,
    RunnerFile,
    RunnerManifest,
    hash_of,
    seal,
)

HOST_ABI = f"{sysconfig.get_platform()}-gnu"
_NATIVE = Path(__file__).parent / "native"
_ENTRY = "fulcrum-runner"


class RunnerBuildError(FulcrumError):
    """The host lacks what the build needs, or the compiler refused."""

    blame = Blame.USER
    slug = "runner-build"


def _executorch() -> Path:
    spec = importlib.util.find_spec("executorch")
    if spec is None or not spec.submodule_search_locations:
        raise RunnerBuildError(
            "The host runner needs ExecuTorch's wheel.", advice="Install it: pip install 'fulcrum[search]'"
        )
    return Path(next(iter(spec.submodule_search_locations)))


# The wheel's libraries name these as what they need. Nothing that the runner calls is in them, and loading them takes
# 100 MB and a quarter of a second; so the runner brings empty ones under their names.
_UNUSED = ("libtorch.so", "libtorch_cpu.so", "libtorch_python.so")


def _portable(executorch: Path) -> Path:
    """ExecuTorch's runtime, with XNNPACK and the portable operators."""
    return executorch / "extension" / "pybindings" / f"_portable_lib{sysconfig.get_config_var('EXT_SUFFIX')}"


def _python_symbols(portable: Path) -> str:
    """C++ source that defines what the library wants of the interpreter, so that it loads without one.

    The bindings to Python that refer to it are never entered.
    """
    nm = subprocess.run(["nm", "-D", "--undefined-only", portable], capture_output=True, text=True, check=False)
    if nm.returncode != 0:
        raise RunnerBuildError(f"nm cannot read {portable}: {nm.stderr.strip()}", advice="apt-get install binutils")
    names = sorted(set(re.findall(r"\b(_?Py\w+)", nm.stdout)))
    return 'extern "C" {\n' + "".join(f"char {name}[1024];\n" for name in names) + "}\n"


def _command(compiler: str, executorch: Path, output: Path, scratch: Path) -> list[str]:
    torch, core = executorch.parent / "torch", executorch / "backends" / "qualcomm" / "libqnn_executorch_backend.so"
    return [
        compiler,
        "-O3",
        "-std=c++17",
        "-Wall",
        "-Wno-psabi",  # vectors are passed only to what is inlined
        f"-I{executorch / 'include'}",
        f"-I{executorch / 'include/executorch/runtime/core/portable_type/c10'}",
        "-idirafter",
        str(torch / "include"),  # for pthreadpool.h
        "-DC10_USING_CUSTOM_GENERATED_MACROS",
        "-DFULCRUM_HOST",
        *(str(_NATIVE / name) for name in ("runner.cpp", "host/pthreadpool.cpp")),
        str(scratch / "python.cpp"),
        "-o",
        str(output),
        "-rdynamic",  # the wheel's library finds the thread pool in the runner
        "-pthread",
        "-Wl,-z,lazy",  # what is never called need not be there
        "-Wl,--no-as-needed",
        *(str(output.parent / name) for name in _UNUSED),
        str(torch / "lib" / "libc10.so"),  # holds cpuinfo
        str(_portable(executorch)),
        str(core),  # holds the runtime's core
        "-Wl,--allow-shlib-undefined",
        "-Wl,-rpath,$ORIGIN",
        *(f"-Wl,-rpath,{folder}" for folder in (_portable(executorch).parent, torch / "lib", core.parent)),
    ]


def _compile(compiler: str, directory: Path) -> None:
    """Write the runner, and the empty libraries that it is started beside, into `directory`."""
    executorch = _executorch()
    with tempfile.TemporaryDirectory(prefix="fulcrum-runner-") as scratch:
        (Path(scratch) / "python.cpp").write_text(_python_symbols(_portable(executorch)))
        (empty := Path(scratch) / "empty.cpp").touch()
        for name in _UNUSED:
            _run([compiler, "-shared", f"-Wl,-soname,{name}", str(empty), "-o", str(directory / name)])
        _run(_command(compiler, executorch, directory / _ENTRY, Path(scratch)))


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RunnerBuildError(f"The compiler refused the runner:\n{done.stderr[-2000:]}")


def build(directory: Path) -> RunnerBundle:
    """Compile into `directory` unless the same source, flags and ExecuTorch are there already.

    Raises:
        RunnerBuildError: no compiler, no ExecuTorch, or the compiler's own words.
    """
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise RunnerBuildError("No C++ compiler on this host.", advice="On Debian: apt-get install g++")
    version = importlib.metadata.version("executorch")
    command = _command(compiler, _executorch(), directory / _ENTRY, Path())
    sources = b"".join(path.read_bytes() for path in sorted(_NATIVE.rglob("*")) if path.is_file())
    recipe = hashlib.sha256(json.dumps([command, version]).encode() + sources).hexdigest()
    stamp = directory / "recipe"
    if stamp.is_file() and stamp.read_text() == recipe:
        return RunnerBundle(directory)
    directory.mkdir(parents=True, exist_ok=True)
    stamp.unlink(missing_ok=True)
    _compile(compiler, directory)
    entry = RunnerFile(name=_ENTRY, sha256=hash_of(directory / _ENTRY), executable=True)
    manifest = RunnerManifest(
        id="native-host",
        provider=Provider.HOST,
        abi=HOST_ABI,
        executorch=version,
        files=(entry, *(RunnerFile(name=name, sha256=hash_of(directory / name)) for name in _UNUSED)),
        argv=(f"{{dir}}/{_ENTRY}", "{plan}"),
        backends=("XnnpackBackend",),
        kernels=("portable", "optimized", "embedding", ATTENTION),
        features=(PREFIXES,),
    )
    bundle = seal(directory, manifest)
    stamp.write_text(recipe)
    return bundle
