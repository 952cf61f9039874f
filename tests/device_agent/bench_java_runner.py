"""`make runner-java`: compile and dex the Java runner against the real classes of ExecuTorch's Android archive.

The classes and the arm64 library come from npm (react-native-executorch 0.8.3, ExecuTorch 1.1.0), dx and android.jar
from Debian bullseye, the last release that has them. The bundle is complete but for fbjni's library, so only the
archive is made; it is of another ExecuTorch than ours, and the agent would refuse it. Nothing runs.
"""

import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from device_agent.runner.android_java import JavaParts, compile_and_dex

_NPM, _EXECUTORCH = "react-native-executorch@0.8.3", "1.1.0"
_DEBS = ("dalvik-exchange", "libandroid-23-java")
_KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"


def classes(scratch: Path) -> tuple[Path, Path]:
    """(classes.jar, arm64 libexecutorch.so) of the npm package."""
    subprocess.run(["npm", "pack", "--silent", _NPM], cwd=scratch, check=True, stdout=subprocess.DEVNULL)
    with tarfile.open(next(scratch.glob("*.tgz"))) as ball:
        ball.extractall(scratch, filter="data")
    package = scratch / "package"
    native = package / "third-party/android/libs/executorch/arm64-v8a/libexecutorch.so"
    return package / "android/libs/classes.jar", native


def mirror() -> str:
    """Where this host takes Debian's packages from."""
    asked = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Release: bookworm"]
    return subprocess.run(asked, check=True, capture_output=True, text=True).stdout.split()[0]


def tools(scratch: Path) -> tuple[Path, Path]:
    """(dx.jar, android.jar), unpacked from Debian's packages into a directory: nothing is installed."""
    for folder in ("lists/partial", "cache/archives/partial", "debs", "root"):
        (scratch / folder).mkdir(parents=True)
    (scratch / "status").touch()
    (scratch / "sources.list").write_text(f"deb [signed-by={_KEYS}] {mirror()} bullseye main\n")
    places = {
        "Dir::Etc::sourcelist": scratch / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State::lists": scratch / "lists",
        "Dir::Cache": scratch / "cache",
        "Dir::State::status": scratch / "status",
        "APT::Sandbox::User": "root",
    }
    options = [word for name, place in places.items() for word in ("-o", f"{name}={place}")]
    subprocess.run(["apt-get", *options, "update", "-qq"], check=True)
    subprocess.run(["apt-get", *options, "download", "-qq", *_DEBS], cwd=scratch / "debs", check=True)
    for deb in (scratch / "debs").glob("*.deb"):
        subprocess.run(["dpkg", "-x", deb, scratch / "root"], check=True)
    root = scratch / "root/usr"
    return root / "lib/android-sdk/build-tools/debian/lib/dx.jar", root / "share/java/com.android.android-23.jar"


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="fulcrum-java-") as place:
        scratch = Path(place)
        jar, native = classes(scratch)
        dexer, android = tools(scratch / "debian")
        archive = scratch / "fulcrum-runner.jar"
        compile_and_dex(JavaParts(_EXECUTORCH, jar, (native,), dexer, android), archive)
        with zipfile.ZipFile(archive) as made:
            dex = made.read("classes.dex")
        print(f"{archive.name}: {archive.stat().st_size} bytes, DEX {dex[4:7].decode()}, {len(dex)} bytes of code,")
        print(
            f"against ExecuTorch {_EXECUTORCH}'s classes; beside it would lie {native.stat().st_size} bytes of arm64."
        )
    return 0 if dex.startswith(b"dex\n03") else 1


if __name__ == "__main__":
    sys.exit(main())
