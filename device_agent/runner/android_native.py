"""Builds the native runner for arm64 Android: the user's NDK, the user's ExecuTorch build, our CMakeLists.txt.

Neither an NDK nor an ExecuTorch for Android can be had from a package registry, so the link is unproven here; the
source compiles for arm64 against the wheel's headers (`make runner-arm64`).
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from device_agent.runner.build import RunnerBuildError
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

NATIVE = Path(__file__).parent / "native"
ABI = "arm64-v8a"
_PLATFORM = "android-26"
_ENTRY = "fulcrum-runner"
_TOOLCHAIN = "build/cmake/android.toolchain.cmake"
_CONFIG = "lib/cmake/ExecuTorch/executorch-config.cmake"
_VERSION = re.compile(r"\d+\.\d+\.\d+")


def find_ndk(given: Path | None, environment: Mapping[str, str] = os.environ) -> Path:
    """The NDK: the one given, ANDROID_NDK, ANDROID_NDK_HOME, or the newest of ANDROID_HOME/ndk.

    Raises:
        RunnerBuildError: there is none, or what was named is none.
    """
    named = given or next(
        (Path(environment[name]) for name in ("ANDROID_NDK", "ANDROID_NDK_HOME") if environment.get(name)), None
    )
    if named is None and environment.get("ANDROID_HOME"):
        found = sorted(Path(environment["ANDROID_HOME"]).glob("ndk/*"), key=_release)
        named = found[-1] if found else None
    if named is None:
        raise RunnerBuildError(
            "No Android NDK was found.",
            advice="Install one (Android Studio: SDK Manager, SDK Tools, NDK; or sdkmanager --install 'ndk;VERSION') "
            "and set ANDROID_NDK to its directory, or give --ndk. Without an NDK: --provider android-java.",
        )
    if not (named / _TOOLCHAIN).is_file():
        raise RunnerBuildError(
            f"{named} is no Android NDK: it has no {_TOOLCHAIN}.", advice="Point ANDROID_NDK or --ndk to one."
        )
    return named


def _release(path: Path) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", path.name))


def find_executorch(given: Path | None, environment: Mapping[str, str] = os.environ) -> Path:
    """ExecuTorch's install tree for Android: the one given, or EXECUTORCH_INSTALL.

    Raises:
        RunnerBuildError: there is none, or what was named is none.
    """
    named = given or (Path(environment["EXECUTORCH_INSTALL"]) if environment.get("EXECUTORCH_INSTALL") else None)
    if named is None:
        raise RunnerBuildError(
            "No ExecuTorch for Android was named.",
            advice="Build and install it with the NDK as docs/real-phone.md shows, "
            "then set EXECUTORCH_INSTALL to the install directory, or give --executorch-install.",
        )
    if not (named / _CONFIG).is_file():
        raise RunnerBuildError(
            f"{named} is no install tree of ExecuTorch: it has no {_CONFIG}.",
            advice="Name the directory that `cmake --install` wrote to (CMAKE_INSTALL_PREFIX), not the source.",
        )
    return named


def build_android_native(
    directory: Path, version: str, *, ndk: Path | None = None, executorch: Path | None = None
) -> RunnerBundle:
    """Configure, compile and lay the bundle out in `directory`; `version` is the ExecuTorch release that was built.

    Raises:
        RunnerBuildError: the NDK, ExecuTorch or cmake is missing, or cmake's own words.
    """
    if not _VERSION.fullmatch(version):
        raise RunnerBuildError(f"{version!r} is no version of ExecuTorch.", advice="Give it as in 1.4.1.")
    toolchain = find_ndk(ndk) / _TOOLCHAIN
    install = find_executorch(executorch)
    cmake = shutil.which("cmake")
    if cmake is None:
        raise RunnerBuildError("There is no cmake.", advice="On Debian: apt-get install cmake ninja-build")
    with tempfile.TemporaryDirectory(prefix="fulcrum-runner-") as scratch:
        options = [
            f"-DCMAKE_TOOLCHAIN_FILE={toolchain}",
            f"-DANDROID_ABI={ABI}",
            f"-DANDROID_PLATFORM={_PLATFORM}",
            "-DCMAKE_BUILD_TYPE=Release",
            f"-DEXECUTORCH_INSTALL={install}",
        ]
        _run([cmake, "-S", str(NATIVE), "-B", scratch, *options])
        _run([cmake, "--build", scratch, "--target", _ENTRY, "--parallel"])
        directory.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(Path(scratch) / _ENTRY, directory / _ENTRY)
    (directory / _ENTRY).chmod(0o755)
    manifest = RunnerManifest(
        id="android-native",
        provider=Provider.ANDROID_NATIVE,
        abi=ABI,
        executorch=version,
        files=(RunnerFile(name=_ENTRY, sha256=hash_of(directory / _ENTRY), executable=True),),
        argv=(f"{{dir}}/{_ENTRY}", "{plan}"),
        backends=("XnnpackBackend",),
        kernels=("optimized", "quantized", ATTENTION),
        features=(PREFIXES,),
    )
    return seal(directory, manifest)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RunnerBuildError(
            f"{Path(command[0]).name} refused the runner:\n{(done.stdout + done.stderr)[-3000:]}",
            advice="docs/real-phone.md names the NDK, the ExecuTorch release and the options that it needs.",
        )
