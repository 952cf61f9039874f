"""What is shipped: the wheel's content, the walls that installing `[agent]` alone relies on, the compose file."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
ROOMS = {"device_agent", "migrations", "search", "server", "trainer"}

# What `pip install 'fulcrum[agent]'` does not bring. Importing any of it in the agent's commands must fail the test.
_ABSENT = """
import sys
class Absent:
    names = {"torch", "torchao", "executorch", "optuna", "fastapi", "sqlalchemy", "alembic", "numpy", "uvicorn"}
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.names:
            raise ModuleNotFoundError(f"{name} is not installed", name=name)
sys.meta_path.insert(0, Absent())
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    directory = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", directory, ROOT]
    subprocess.run(command, check=True, timeout=120)
    return zipfile.ZipFile(next(directory.glob("fulcrum-*.whl")))


def test_wheel_holds_the_rooms_and_all_they_need(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    top = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert top == ROOMS
    for needed in (
        "device_agent/runner/native/runner.cpp",
        "device_agent/runner/native/attention.inl",
        "device_agent/runner/native/host/pthreadpool.cpp",
        "device_agent/runner/native/CMakeLists.txt",
        "device_agent/runner/java/fulcrum/Runner.java",
        "device_agent/runner/java/com/facebook/jni/HybridData.java",
        "migrations/env.py",
        "server/page/static/vendor/manifest.json",
    ):
        assert needed in names
    assert any(name.startswith("migrations/versions/0001") for name in names)
    assert any(name.startswith("server/page/templates/") for name in names)
    assert not any("test" in Path(name).name for name in names)


@pytest.mark.parametrize("command", [["agent", "--help"], ["phone", "--help"], ["phone", "virtual", "--help"]])
def test_agent_commands_need_the_agent_extra_alone(command: list[str]) -> None:
    code = f"{_ABSENT}sys.argv = ['fulcrum', *{command!r}]\nfrom server.cli import main\nmain()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "Examples" in done.stdout or "virtual" in done.stdout


def test_agent_and_virtual_phone_import_nothing_else() -> None:
    code = f"{_ABSENT}import device_agent.agent, device_agent.virtual.serve, device_agent.bench"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_missing_extra_is_named() -> None:
    code = f"{_ABSENT}sys.argv = ['fulcrum', 'server']\nfrom server.cli import main\nmain()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert re.search(r"pip install 'fulcrum\[\w+\]'", done.stderr)


def test_compose_file_says_what_the_commands_take() -> None:
    """As far as it can be judged without a Docker engine: its commands parse, its settings exist, its names resolve."""
    from server.settings import Settings

    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    services = compose["services"]
    assert {"database", "server", "phone", "agent"} <= services.keys()
    known = {f"FULCRUM_{name.upper()}" for name in Settings.model_fields} | {"FULCRUM_AGENT_HOME"}
    assert services["agent"]["depends_on"]["server"] == {"condition": "service_healthy"}
    assert "/readyz" in services["server"]["healthcheck"]["test"][-1]
    for name in ("server", "phone", "agent"):
        service = services[name]
        assert {k for k in service.get("environment", {}) if k.startswith("FULCRUM_")} <= known
        assert {str(volume).split(":")[0] for volume in service["volumes"]} <= compose["volumes"].keys()
        assert set(service.get("depends_on", ())) <= services.keys()
        options = [word for word in service["command"] if word.startswith("--")]
        group = [word for word in service["command"][:2] if re.fullmatch(r"[a-z]+", word)]
        shown = subprocess.run(
            [sys.executable, "-c", "from server.cli import main; main()", *group, "--help"],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
            env=os.environ | {"COLUMNS": "200"},
        ).stdout
        assert all(option in shown for option in options), (name, options)
    settings = services["server"]["environment"]
    url = settings["FULCRUM_DATABASE_URL"].replace("${POSTGRES_PASSWORD}", "secret")
    assert Settings(database_url=url).url == "postgresql+psycopg://fulcrum:secret@database/fulcrum"
