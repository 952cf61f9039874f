"""Builds the host runner: the native runner linked against the libraries of ExecuTorch's own wheel.

It is what a virtual phone runs. The same source for a real phone is `android_native`'s; without an NDK there is
`android_java`.
"""

import hashlib
import importlib.metadata
import importlib.util
import json
import shutil
import subprocess
import sysconfig
from pathlib import Path

from device_agent.contracts import Blame, FulcrumError
from device_agent.runner.bundle import Provider, RunnerBundle, RunnerFile, RunnerManifest, hash_of, seal

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


def _libpython() -> Path:
    """The wheel's libraries need the interpreter's symbols; the interpreter itself may be linked statically."""
    name = str(sysconfig.get_config_var("INSTSONAME"))
    soname = name if ".so" in name else f"libpython{sysconfig.get_config_var('LDVERSION')}.so.1.0"
    folders = [sysconfig.get_config_var("LIBDIR"), f"/usr/lib/{sysconfig.get_config_var('MULTIARCH')}", "/usr/lib"]
    for folder in folders:
        if folder and (path := Path(folder) / soname).is_file():
            return path
    raise RunnerBuildError(f"{soname} is not on this host.", advice="On Debian: apt-get install libpython3.11")


def _command(compiler: str, executorch: Path, output: Path) -> list[str]:
    extension = sysconfig.get_config_var("EXT_SUFFIX")
    torch_libraries = executorch.parent / "torch" / "lib"
    portable = executorch / "extension" / "pybindings" / f"_portable_lib{extension}"
    kernels = [
        executorch / "kernels" / "quantized" / "libquantized_ops_aot_lib.so",
        executorch / "extension" / "llm" / "custom_ops" / "libcustom_ops_aot_lib.so",
    ]
    quoted = ",".join(f'"{path}"' for path in kernels)
    folders = [portable.parent, torch_libraries, executorch / "backends" / "qualcomm", _libpython().parent]
    return [
        compiler,
        "-O2",
        "-std=c++17",
        "-Wall",
        f"-I{executorch / 'include'}",
        f"-I{executorch / 'include/executorch/runtime/core/portable_type/c10'}",
        f"-I{_NATIVE / 'shim'}",
        "-DC10_USING_CUSTOM_GENERATED_MACROS",
        f"-DFULCRUM_KERNEL_LIBRARIES={quoted}",
        str(_NATIVE / "runner.cpp"),
        "-o",
        str(output),
        "-Wl,--no-as-needed",
        str(_libpython()),
        str(portable),
        str(executorch / "backends" / "qualcomm" / "libqnn_executorch_backend.so"),  # holds the runtime's core
        "-Wl,--allow-shlib-undefined",
        *(f"-Wl,-rpath,{folder}" for folder in folders),
        "-ldl",
    ]


def build(directory: Path) -> RunnerBundle:
    """Compile into `directory` unless the same source, flags and ExecuTorch are there already.

    Raises:
        RunnerBuildError: no compiler, no ExecuTorch, or the compiler's own words.
    """
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise RunnerBuildError("No C++ compiler on this host.", advice="On Debian: apt-get install g++")
    version = importlib.metadata.version("executorch")
    command = _command(compiler, _executorch(), directory / _ENTRY)
    sources = b"".join(path.read_bytes() for path in sorted(_NATIVE.rglob("*")) if path.is_file())
    recipe = hashlib.sha256(json.dumps([command, version]).encode() + sources).hexdigest()
    stamp = directory / "recipe"
    if stamp.is_file() and stamp.read_text() == recipe:
        return RunnerBundle(directory)
    directory.mkdir(parents=True, exist_ok=True)
    stamp.unlink(missing_ok=True)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RunnerBuildError(f"The compiler refused the runner:\n{done.stderr[-2000:]}")
    manifest = RunnerManifest(
        id="native-host",
        provider=Provider.HOST,
        abi=HOST_ABI,
        executorch=version,
        files=(RunnerFile(name=_ENTRY, sha256=hash_of(directory / _ENTRY), executable=True),),
        argv=(f"{{dir}}/{_ENTRY}", "{plan}"),
        backends=("XnnpackBackend",),
        kernels=("portable", "optimized", "quantized", "llm-custom"),
    )
    bundle = seal(directory, manifest)
    stamp.write_text(recipe)
    return bundle
