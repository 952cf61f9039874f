from collections.abc import Iterator
from pathlib import Path

import pytest

from device_agent.adb import Link, ensure_key
from device_agent.virtual import VirtualPhone, running


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees or touches the keys and the adb server of whoever runs it."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for name in ("ADB_SERVER_SOCKET", "ADB_VENDOR_KEYS", "ANDROID_USER_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", "1")  # where none listens


@pytest.fixture(scope="session")
def session_key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("nobody")))
        patch.delenv("ANDROID_USER_HOME", raising=False)
        return ensure_key(tmp_path_factory.mktemp("key") / "adbkey")


@pytest.fixture
def phone(tmp_path: Path) -> Iterator[VirtualPhone]:
    with running(tmp_path / "phone", accept_first_key=True) as started:
        yield started


@pytest.fixture
def link(phone: VirtualPhone, session_key: Path) -> Iterator[Link]:
    with Link.connect(phone.address, session_key) as connected:
        yield connected
