"""`make runner-arm64`: does the native runner's source compile for arm64?

ExecuTorch's wheel carries the headers and no arm64 library, so this is a proof of the source alone: nothing is linked
and nothing runs.
"""

import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path

from device_agent.runner.android_native import NATIVE

_MACHINE = b"\xb7\x00"  # e_machine of an ELF header: EM_AARCH64, 183


def main() -> int:
    spec = importlib.util.find_spec("executorch")
    assert spec is not None
    assert spec.submodule_search_locations
    packages = Path(next(iter(spec.submodule_search_locations))).parent
    include = packages / "executorch" / "include"
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "runner.o"
        command = [
            "aarch64-linux-gnu-g++",
            "-O2",
            "-Wno-psabi",
            "-std=c++17",
            "-c",
            f"-I{include}",
            f"-I{include}/executorch/runtime/core/portable_type/c10",
            "-idirafter",
            str(packages / "torch" / "include"),  # for pthreadpool.h
            "-DC10_USING_CUSTOM_GENERATED_MACROS",
            "-Wno-deprecated-declarations",
            str(NATIVE / "runner.cpp"),
            "-o",
            str(out),
        ]
        subprocess.run(command, check=True)
        machine = out.read_bytes()[18:20]
    print(f"runner.cpp compiles for arm64: {machine == _MACHINE}. Not linked, not run.")
    return 0 if machine == _MACHINE else 1


if __name__ == "__main__":
    sys.exit(main())
