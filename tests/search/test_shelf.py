"""What this machine has learnt before is not learnt again, and nothing but what was learnt is ever read."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_agent.contracts import Quantisation
from search.export import lowering, shelf
from search.export.pieces import FeedForwardPiece

KEY = "a" * 64
PIECE = FeedForwardPiece(width=64, ffn_width=96, chunk=8, eps=1e-5, quantisation=Quantisation())


@pytest.fixture(autouse=True)
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FULCRUM_CACHE", str(tmp_path))
    return tmp_path


def test_a_template_is_learnt_once_by_whoever_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lowering, "_learn", lambda piece: lowering.Kept(why=f"none at {piece.width}"))
    first, _ = lowering.learn_template(PIECE.model_dump_json())
    monkeypatch.setattr(lowering, "_learn", pytest.fail)
    wider = PIECE.model_copy(update={"width": 128})
    assert lowering.learn_template(wider.model_dump_json())[0] == first
    assert lowering.Kept.model_validate_json(first).why == "none at 64"


@given(cut=st.integers(0, 10_000), flip=st.integers(1, 255))
def test_a_file_that_is_not_what_was_kept_is_as_good_as_none(cut: int, flip: int) -> None:
    value = '{"template": "grüße"}'
    shelf.keep(KEY, value)
    file = shelf.directory() / KEY
    whole = file.read_bytes()
    at = cut % len(whole)
    for spoilt in (whole[:at], whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :], whole + b"x"):
        file.write_bytes(spoilt)
        assert shelf.find(KEY) is None
    shelf.keep(KEY, value)
    assert shelf.find(KEY) == value


def test_a_file_under_another_name_is_as_good_as_none() -> None:
    shelf.keep(KEY, "value")
    (shelf.directory() / KEY).rename(shelf.directory() / ("b" * 64))
    assert shelf.find("b" * 64) is None


def test_many_may_keep_the_same_at_once() -> None:
    values = [str(i) * 100_000 for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        kept = [pool.submit(shelf.keep, KEY, value) for value in values]
        while not all(one.done() for one in kept):
            assert shelf.find(KEY) in (None, *values)
    assert shelf.find(KEY) in values
    assert [path.name for path in shelf.directory().iterdir()] == [KEY]


def test_a_cache_that_cannot_be_written_is_said(empty: Path, caplog: pytest.LogCaptureFixture) -> None:
    (empty / "templates").write_text("no directory")
    shelf.keep(KEY, "value")
    assert "not kept" in caplog.text
    assert shelf.find(KEY) is None


def test_without_a_wish_it_lies_where_the_user_keeps_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("FULCRUM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert shelf.directory().is_relative_to(tmp_path / "xdg" / "fulcrum")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert shelf.directory().is_relative_to(tmp_path / ".cache" / "fulcrum")
    shelf.keep(KEY, "value")
    assert stat.S_ISREG((shelf.directory() / KEY).stat().st_mode)


def test_who_has_no_home_learns_anew(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("FULCRUM_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 987_654_321)
    shelf.keep(KEY, "value")
    assert "not kept" in caplog.text
    assert shelf.find(KEY) is None
