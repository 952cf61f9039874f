"""Archives of runners come from elsewhere: nothing is written outside, nothing is taken that is not named."""

import io
import os
import tarfile
import zipfile
from pathlib import Path

import pytest
from bench_examples import stub_bundle

from device_agent.runner.bundle import MANIFEST, RunnerBundleError
from device_agent.runner.install import install
from device_agent.runner.shelf import open_runners


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    directory = stub_bundle(tmp_path / "bundle").directory
    (directory / "notes.txt").write_text("not named")
    return directory


def tarball(path: Path, members: dict[str, bytes | tarfile.TarInfo]) -> Path:
    with tarfile.open(path, "w:gz") as ball:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                ball.addfile(content)
            else:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                ball.addfile(info, io.BytesIO(content))
    return path


def zipped(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as bag:
        for name, content in members.items():
            bag.writestr(name, content)
    return path


def contents(bundle: Path, prefix: str = "") -> dict[str, bytes]:
    return {prefix + path.name: path.read_bytes() for path in bundle.iterdir()}


def test_a_directory_and_archives_of_it_install_alike(tmp_path: Path, bundle: Path) -> None:
    home = tmp_path / "home"
    sources = [
        bundle,
        tarball(tmp_path / "flat.tar.gz", dict(contents(bundle))),
        tarball(tmp_path / "nested.tgz", dict(contents(bundle, "./stub-runner/"))),
        zipped(tmp_path / "flat.zip", contents(bundle)),
    ]
    places = {install(source, home).directory for source in sources}
    (place,) = places
    assert place.parent == home / "runners"
    assert {path.name for path in place.iterdir()} == {MANIFEST, "stub"}
    assert os.access(place / "stub", os.X_OK)
    assert [runner.directory for runner in open_runners(None, home / "runners")] == [place]


def test_installing_again_mends_what_was_altered_since(tmp_path: Path, bundle: Path) -> None:
    place = install(bundle, tmp_path / "home").directory
    (place / "stub").write_text("altered")
    with pytest.raises(RunnerBundleError):
        open_runners(None, tmp_path / "home/runners")
    install(bundle, tmp_path / "home")
    assert len(open_runners(None, tmp_path / "home/runners")) == 1


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    ("name", "member"),
    [
        ("../escaped", b"out"),
        ("/tmp/fulcrum-escaped", b"out"),
        ("bundle/../../escaped", b"out"),
        ("..", b"out"),
        ("deep/er/file", b"out"),
        ("other/stub", b"out"),
        ("a\\b", b"out"),
        ("link", link("link", "/etc/passwd")),
        ("hard", link("hard", "runner.json", tarfile.LNKTYPE)),
        ("fifo", link("fifo", "", tarfile.FIFOTYPE)),
    ],
)
def test_an_unsafe_tar_is_refused_whole(
    tmp_path: Path, bundle: Path, name: str, member: bytes | tarfile.TarInfo
) -> None:
    archive = tarball(tmp_path / "bad.tar.gz", {**contents(bundle), name: member})
    with pytest.raises(RunnerBundleError, match="archive is refused"):
        install(archive, tmp_path / "home")
    assert list((tmp_path / "home/runners").iterdir()) == []
    assert not (tmp_path / "escaped").exists()
    assert not (tmp_path / "home/escaped").exists()


@pytest.mark.parametrize("name", ["../escaped", "/escaped", "x/../../escaped"])
def test_an_unsafe_zip_is_refused_whole(tmp_path: Path, bundle: Path, name: str) -> None:
    archive = zipped(tmp_path / "bad.zip", {**contents(bundle), name: b"out"})
    with pytest.raises(RunnerBundleError, match="archive is refused"):
        install(archive, tmp_path / "home")
    assert list((tmp_path / "home/runners").iterdir()) == []


def test_a_link_in_a_zip_is_refused(tmp_path: Path, bundle: Path) -> None:
    archive = zipped(tmp_path / "bad.zip", contents(bundle))
    info = zipfile.ZipInfo("link")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(archive, "a") as bag:
        bag.writestr(info, "/etc/passwd")
    with pytest.raises(RunnerBundleError, match="no plain file"):
        install(archive, tmp_path / "home")


def test_a_file_that_is_not_what_the_manifest_names_is_refused(tmp_path: Path, bundle: Path) -> None:
    archive = tarball(tmp_path / "bad.tar.gz", {**contents(bundle), "stub": b"#!/bin/sh\necho evil\n"})
    with pytest.raises(RunnerBundleError, match="not what the manifest names"):
        install(archive, tmp_path / "home")
    assert list((tmp_path / "home/runners").iterdir()) == []


def test_a_member_that_comes_twice_is_refused(tmp_path: Path, bundle: Path) -> None:
    with tarfile.open(tmp_path / "twice.tar", "w") as ball:
        ball.add(bundle / MANIFEST, MANIFEST)
        ball.add(bundle / "stub", "stub")
        ball.add(bundle / MANIFEST, "stub")
    with pytest.raises(RunnerBundleError, match="beside the manifest, once"):
        install(tmp_path / "twice.tar", tmp_path / "home")


@pytest.mark.parametrize("content", [b"", b"no archive at all", b"PK\x03\x04 broken"])
def test_what_is_no_archive_is_said_to_be_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(RunnerBundleError):
        install(tmp_path / "file", tmp_path / "home")
    with pytest.raises(RunnerBundleError, match="There is no"):
        install(tmp_path / "nothing", tmp_path / "home")
