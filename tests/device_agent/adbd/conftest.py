"""Tests against AOSP's own daemon run in network and mount namespaces of their own, for it has no authentication.

The tests of a file that were chosen are run together by a second pytest inside, and what it reports of each is reported
here as it is. That works for root and, by a user namespace, for everybody else. Inside, /bin/sh is mksh, which
is what Android calls sh.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from real_daemon import PACKAGES, RealDaemon

HERE = Path(__file__).parent
_INSIDE = "FULCRUM_TESTS_INSIDE"  # the file into which the pytest inside writes its reports
_REPORTS = pytest.StashKey[dict[str, list[Any]]]()
_SECONDS = 280


def pytest_runtest_protocol(item: pytest.Item) -> bool | None:
    """Outside, a test's reports are taken from the run inside."""
    if _INSIDE in os.environ or HERE not in item.path.parents:
        return None
    hook, session = item.ihook, item.session
    reports = session.stash.setdefault(_REPORTS, {})
    if item.nodeid not in reports:
        reports |= _run_inside(session, item.path)
    hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in reports[item.nodeid]:
        hook.pytest_runtest_logreport(report=report)
    hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def _run_inside(session: pytest.Session, path: Path) -> dict[str, list[Any]]:
    chosen = [item.nodeid for item in session.items if item.path == path]
    root = session.config.rootpath
    file = Path(str(session.config._tmp_path_factory.mktemp("inside"))) / "reports"  # type: ignore[attr-defined]
    mapped = [] if os.geteuid() == 0 else ["--map-root-user"]
    enter = 'ip link set lo up && mount --bind "$1" /bin/sh && shift && exec "$@"'
    command = ["unshare", "--net", "--mount", *mapped, "sh", "-c", enter, "sh", str(PACKAGES / "usr/bin/mksh-static")]
    command += [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout", str(_SECONDS), *chosen]
    environment = os.environ | {_INSIDE: str(file), "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    reports: dict[str, list[Any]] = {name: [] for name in chosen}
    for line in file.read_text().splitlines() if file.exists() else []:
        report = session.config.hook.pytest_report_from_serializable(config=session.config, data=json.loads(line))
        reports[report.nodeid].append(report)
    missing = [name for name, found in reports.items() if not found]
    if missing:
        raise RuntimeError(f"The run inside said nothing of {missing}:\n{done.stdout[-8000:]}\n{done.stderr[-8000:]}")
    return reports


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """Inside, every report goes into the file."""
    report = yield
    if _INSIDE in os.environ:
        data = item.config.hook.pytest_report_to_serializable(config=item.config, report=report)
        with Path(os.environ[_INSIDE]).open("a") as file:
            file.write(json.dumps(data) + "\n")
    return report


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[RealDaemon]:
    with RealDaemon() as started:
        yield started
