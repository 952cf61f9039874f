"""Builds the Java runner: ExecuTorch's Android archive (AAR), our classes compiled against it, all dexed for a phone.

It needs no NDK: the native library comes ready in the AAR. `app_process` starts it, as it starts scrcpy's server.
Compiled and dexed it was; on a phone it has not been run yet.
"""

import re
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from device_agent.runner.build import RunnerBuildError
from device_agent.runner.bundle import Provider, RunnerBundle, RunnerFile, RunnerManifest, hash_of, seal

JAVA = Path(__file__).parent / "java"
ABI = "arm64-v8a"
_ARCHIVE = "fulcrum-runner.jar"
_MIN_SDK = 26  # DEX 038 and java.util.function; an S24 left the factory with 34
_LIBRARIES = ("libexecutorch.so", "libfbjni.so", "libc++_shared.so")
_NEEDED = ("libexecutorch.so", "libfbjni.so")
_NAMED = re.compile(r"executorch-android[a-z\-]*-(\d+\.\d+\.\d+)\.aar")


@dataclass(frozen=True)
class JavaParts:
    """What the build is made of.

    `classes` are ExecuTorch's (classes.jar of its AAR), `libraries` the arm64 .so files of its AAR and fbjni's,
    `dexer` a command that takes d8's arguments or a dx.jar, `android` an android.jar.
    """

    executorch: str
    classes: Path
    libraries: Sequence[Path]
    dexer: Path
    android: Path


def parts_from_archives(
    archives: Sequence[Path], scratch: Path, *, dexer: Path, android: Path, executorch: str | None = None
) -> JavaParts:
    """Unpack AARs (executorch-android, fbjni) into `scratch`; the version is the AAR's name's when none is given.

    Raises:
        RunnerBuildError: no version, no classes of ExecuTorch's, or a library is missing.
    """
    named = [match[1] for archive in archives if (match := _NAMED.fullmatch(archive.name))]
    version = executorch or (named[0] if named else None)
    if version is None:
        raise RunnerBuildError(
            "The archive's name does not say of which ExecuTorch it is.",
            advice="Name it: --executorch VERSION. Phones get only Programs of exactly that version.",
        )
    classes, libraries = None, []
    for number, archive in enumerate(archives):
        with _opened(archive) as bag:
            for name in bag.namelist():
                base = name.rpartition("/")[2]
                if name == "classes.jar" and _holds_executorch(bag, scratch / f"classes-{number}.jar"):
                    classes = scratch / f"classes-{number}.jar"
                elif f"/{ABI}/" in f"/{name}" and base in (*_LIBRARIES, "libexecutorch_jni.so"):
                    libraries.append(_unpacked(bag, name, scratch / base.replace("_jni", "")))
    if classes is None:
        raise RunnerBuildError(
            "None of the archives has ExecuTorch's classes.", advice="Give executorch-android's .aar with --aar."
        )
    return JavaParts(version, classes, libraries, dexer, android)


def _opened(archive: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(archive)
    except (OSError, zipfile.BadZipFile) as error:
        raise RunnerBuildError(f"{archive} cannot be read: {error}.", advice="An .aar is a zip file.") from None


def _unpacked(bag: zipfile.ZipFile, name: str, into: Path) -> Path:
    with bag.open(name) as source, into.open("wb") as target:
        shutil.copyfileobj(source, target)
    return into


def _holds_executorch(bag: zipfile.ZipFile, into: Path) -> bool:
    with zipfile.ZipFile(_unpacked(bag, "classes.jar", into)) as jar:
        return "org/pytorch/executorch/Module.class" in jar.namelist()


def build_java(parts: JavaParts, directory: Path) -> RunnerBundle:
    """Compile, dex, and lay the bundle out in `directory`.

    Raises:
        RunnerBuildError: a tool or a library is missing, or a tool's own words.
    """
    missing = [name for name in _NEEDED if name not in {path.name for path in parts.libraries}]
    if missing:
        raise RunnerBuildError(
            f"{' and '.join(missing)} for {ABI} are in none of the archives.",
            advice="libexecutorch.so comes with executorch-android, libfbjni.so with com.facebook.fbjni:fbjni: "
            "give both with --aar.",
        )
    directory.mkdir(parents=True, exist_ok=True)
    compile_and_dex(parts, directory / _ARCHIVE)
    for library in parts.libraries:
        shutil.copyfile(library, directory / library.name)
    names = [_ARCHIVE, *sorted(path.name for path in parts.libraries)]
    manifest = RunnerManifest(
        id="android-java",
        provider=Provider.ANDROID_JAVA,
        abi=ABI,
        executorch=parts.executorch,
        files=tuple(RunnerFile(name=name, sha256=hash_of(directory / name)) for name in names),
        argv=("app_process", "-Dfulcrum.libdir={dir}", "/", "fulcrum.Runner", "{plan}"),
        env={"CLASSPATH": f"{{dir}}/{_ARCHIVE}", "LD_LIBRARY_PATH": "{dir}"},
        backends=("XnnpackBackend",),
        kernels=("portable", "optimized", "quantized", "llm-custom"),
    )
    return seal(directory, manifest)


def compile_and_dex(parts: JavaParts, archive: Path) -> None:
    """Our classes and ExecuTorch's as one dexed archive.

    Raises:
        RunnerBuildError: a tool is missing, or its own words.
    """
    javac = shutil.which("javac")
    if javac is None:
        raise RunnerBuildError("There is no javac.", advice="On Debian: apt-get install openjdk-17-jdk-headless")
    with tempfile.TemporaryDirectory(prefix="fulcrum-java-") as scratch:
        classes = Path(scratch) / "classes"
        classes.mkdir()
        path = f"{parts.classes}:{parts.android}"
        sources = sorted(map(str, JAVA.rglob("*.java")))
        _run([javac, "-nowarn", "--release", "8", "-cp", path, "-d", str(classes), *sources])
        with zipfile.ZipFile(parts.classes) as jar:
            for name in jar.namelist():
                if name.endswith(".class") and ".." not in name.split("/"):
                    jar.extract(name, classes)
        if parts.dexer.suffix == ".jar":
            dx = ["java", "-cp", str(parts.dexer), "com.android.dx.command.Main", "--dex"]
            _run([*dx, f"--min-sdk-version={_MIN_SDK}", f"--output={archive}", str(classes)])
        else:
            compiled = sorted(map(str, classes.rglob("*.class")))
            library = ["--lib", str(parts.android), "--min-api", str(_MIN_SDK)]
            _run([str(parts.dexer), *library, "--output", str(archive), *compiled])


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise RunnerBuildError(f"{command[0]} cannot be started: {error}.", advice="Is the path right?") from None
    if done.returncode != 0:
        said = (done.stderr or done.stdout)[-2000:]
        raise RunnerBuildError(
            f"{Path(command[0]).name} refused the Java runner:\n{said}",
            advice="dx takes class files of Java 8 alone; ExecuTorch 1.2 and newer need d8 of Android's build-tools.",
        )
