"""Runners for Android as far as a host without NDK and SDK can tell: what is looked for, said, and laid out.

The tools are scripts that do what they are asked on the file system; that the real ones agree is for `make runner-java`
and for whoever has an NDK.
"""

import os
import stat
import zipfile
from pathlib import Path

import pytest

from device_agent.runner import android_native
from device_agent.runner.android_java import build_java, parts_from_archives
from device_agent.runner.android_native import build_android_native, find_executorch, find_ndk
from device_agent.runner.build import RunnerBuildError
from device_agent.runner.bundle import Provider

CONFIG = "lib/cmake/ExecuTorch/executorch-config.cmake"
CMAKE = """#!/bin/sh
echo "$@" >> {log}
case "$1" in --build) printf binary > "$2/fulcrum-runner" ;; esac
case "$*" in *{broken}*) echo "CMake Error: no xnnpack_backend" >&2; exit 1 ;; esac
"""
TOOL = """#!/bin/sh
echo "${0##*/} $@" >> LOG
while [ $# -gt 0 ]; do
  case "$1" in --output) printf dexed > "$2" ;; esac
  shift
done
"""


def ndk(directory: Path) -> Path:
    (directory / "build/cmake").mkdir(parents=True)
    (directory / "build/cmake/android.toolchain.cmake").touch()
    return directory


def install_tree(directory: Path) -> Path:
    (directory / CONFIG).parent.mkdir(parents=True)
    (directory / CONFIG).touch()
    return directory


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def test_the_ndk_is_found_where_android_puts_it(tmp_path: Path) -> None:
    for version in ("9.1.0", "27.2.1", "28.0.3"):
        ndk(tmp_path / f"sdk/ndk/{version}")
    assert find_ndk(None, {"ANDROID_HOME": str(tmp_path / "sdk")}).name == "28.0.3"
    other = ndk(tmp_path / "other")
    assert find_ndk(None, {"ANDROID_HOME": str(tmp_path / "sdk"), "ANDROID_NDK": str(other)}) == other
    assert find_ndk(tmp_path / "sdk/ndk/9.1.0", {"ANDROID_NDK": str(other)}).name == "9.1.0"


def test_what_is_missing_is_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(RunnerBuildError, match="No Android NDK") as caught:
        find_ndk(None, {})
    assert "android-java" in caught.value.advice
    with pytest.raises(RunnerBuildError, match="is no Android NDK"):
        find_ndk(tmp_path, {})
    with pytest.raises(RunnerBuildError, match="No ExecuTorch for Android") as caught:
        find_executorch(None, {})
    assert "docs/real-phone.md" in caught.value.advice
    with pytest.raises(RunnerBuildError, match="is no install tree"):
        find_executorch(tmp_path, {})
    with pytest.raises(RunnerBuildError, match="no version"):
        build_android_native(tmp_path, "newest")


def test_the_native_bundle_is_what_cmake_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"
    script(tmp_path / "bin/cmake", CMAKE.format(log=log, broken="broken-tree"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    made = build_android_native(
        tmp_path / "bundle", "1.4.1", ndk=ndk(tmp_path / "ndk"), executorch=install_tree(tmp_path / "install")
    )
    manifest = made.manifest
    assert (manifest.provider, manifest.abi, manifest.executorch) == (Provider.ANDROID_NATIVE, "arm64-v8a", "1.4.1")
    assert manifest.command("/data/r", "p")[0] == ["/data/r/fulcrum-runner", "p"]
    assert (tmp_path / "bundle/fulcrum-runner").stat().st_mode & stat.S_IXUSR
    configured, built = log.read_text().splitlines()
    assert f"-S {android_native.NATIVE}" in configured
    assert f"-DEXECUTORCH_INSTALL={tmp_path / 'install'}" in configured
    assert "-DANDROID_ABI=arm64-v8a" in configured
    assert "android.toolchain.cmake" in configured
    assert "--target fulcrum-runner" in built
    with pytest.raises(RunnerBuildError, match="no xnnpack_backend") as caught:
        build_android_native(
            tmp_path / "other", "1.4.1", ndk=tmp_path / "ndk", executorch=install_tree(tmp_path / "broken-tree")
        )
    assert caught.value.advice
    assert not (tmp_path / "other").exists()


def aar(path: Path, names: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as bag:
        for name, content in names.items():
            bag.writestr(name, content)
    return path


def jar(path: Path, *names: str) -> bytes:
    return aar(path, dict.fromkeys(names, b"\xca\xfe\xba\xbe")).read_bytes()


@pytest.fixture
def archives(tmp_path: Path) -> list[Path]:
    classes = jar(tmp_path / "et.jar", "org/pytorch/executorch/Module.class")
    theirs = jar(tmp_path / "fb.jar", "com/facebook/jni/HybridData.class")
    return [
        aar(
            tmp_path / "executorch-android-1.4.1.aar",
            {
                "classes.jar": classes,
                "jni/arm64-v8a/libexecutorch.so": b"arm",
                "jni/x86_64/libexecutorch.so": b"x86",
            },
        ),
        aar(
            tmp_path / "fbjni-0.7.0.aar",
            {"classes.jar": theirs, "jni/arm64-v8a/libfbjni.so": b"fb", "jni/arm64-v8a/libc++_shared.so": b"c++"},
        ),
    ]


def test_the_java_bundle_holds_arm64_alone(
    tmp_path: Path, archives: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    script(tmp_path / "bin/javac", TOOL.replace("LOG", str(log)))
    d8 = script(tmp_path / "bin/d8", TOOL.replace("LOG", str(log)))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    (tmp_path / "unpacked").mkdir()
    parts = parts_from_archives(archives, tmp_path / "unpacked", dexer=d8, android=tmp_path / "android.jar")
    bundle = build_java(parts, tmp_path / "bundle")
    assert (bundle.manifest.provider, bundle.manifest.executorch) == (Provider.ANDROID_JAVA, "1.4.1")
    argv, environment = bundle.manifest.command("/data/r", "plans/p")
    assert argv == ["app_process", "-Dfulcrum.libdir=/data/r", "/", "fulcrum.Runner", "plans/p"]
    assert environment["CLASSPATH"] == "/data/r/fulcrum-runner.jar"
    assert {file.name: (tmp_path / "bundle" / file.name).read_bytes() for file in bundle.manifest.files} == {
        "fulcrum-runner.jar": b"dexed",
        "libexecutorch.so": b"arm",
        "libfbjni.so": b"fb",
        "libc++_shared.so": b"c++",
    }
    compiled, dexed = log.read_text().splitlines()
    assert compiled.startswith("javac ")
    assert "TorchStage.java" in compiled
    assert "Module.class" in dexed


def test_the_java_build_says_what_it_lacks(tmp_path: Path, archives: list[Path]) -> None:
    scratch = tmp_path / "unpacked"
    scratch.mkdir()
    tools = {"dexer": tmp_path / "d8", "android": tmp_path / "android.jar"}
    with pytest.raises(RunnerBuildError, match=r"libfbjni\.so for arm64-v8a are in none"):
        build_java(parts_from_archives(archives[:1], scratch, **tools), tmp_path / "bundle")
    with pytest.raises(RunnerBuildError, match="of which ExecuTorch") as caught:
        parts_from_archives(archives[1:], scratch, **tools)
    assert "--executorch" in caught.value.advice
    with pytest.raises(RunnerBuildError, match="has ExecuTorch's classes"):
        parts_from_archives(archives[1:], scratch, executorch="1.4.1", **tools)
    (tmp_path / "no.aar").write_bytes(b"no zip")
    with pytest.raises(RunnerBuildError, match="cannot be read"):
        parts_from_archives([tmp_path / "no.aar"], scratch, executorch="1.4.1", **tools)
