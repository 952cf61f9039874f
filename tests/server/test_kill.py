"""Agents are killed with SIGKILL again and again, and some overrun their leases; each job is still taken once."""

import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

from kill_agent import POLICY
from service_examples import measure_job, report
from sqlalchemy import func, select

from device_agent.contracts import Measurement, Success
from server import migrate
from server.api.views import PhoneRegistration
from server.database import Database
from server.fleet import Fleet
from server.queue.machine import JobState
from server.queue.store import JobQueue
from server.settings import Settings
from server.tables import JobRow

SERIALS = tuple(f"phone-{i}" for i in range(6))
JOBS = 60
AGENTS = 3
KILL_EVERY = 8  # jobs done between two kills: by the clock, a fast machine would be done before the first
DEADLINE = 120.0


def start(url: str, journal: Path) -> subprocess.Popen[bytes]:
    here = Path(__file__).with_name("kill_agent.py")
    return subprocess.Popen([sys.executable, str(here), url, str(journal), *SERIALS])


def open_jobs(database: Database) -> int:
    with database.read() as session:
        return session.scalar(select(func.count()).where(JobRow.state.in_(["queued", "leased"]))) or 0


def test_killed_agents_lose_nothing_and_double_nothing(empty_url: str, tmp_path: Path) -> None:
    url = Settings(home=tmp_path, database_url=empty_url).url
    migrate.upgrade(url)
    database, journal = Database(url), tmp_path / "journal"
    queue, fleet = JobQueue(database, POLICY), Fleet(database)
    for serial in SERIALS:
        fleet.register(PhoneRegistration(serial=serial))
    fleet.report("bench", report(*SERIALS))
    jobs = [queue.enqueue(measure_job(), SERIALS[i % len(SERIALS)], str(i)) for i in range(JOBS)]
    agents = [start(url, journal) for _ in range(AGENTS)]
    killed, begun = 0, time.monotonic()
    try:
        while left := open_jobs(database):
            assert time.monotonic() - begun < DEADLINE, "the jobs do not end"
            queue.reap()
            if JOBS - left >= KILL_EVERY * (killed + 1):
                victim = agents.pop(0)
                victim.kill()
                victim.wait()
                killed += 1
                agents.append(start(url, journal))
            time.sleep(0.01)
    finally:
        for agent in agents:
            agent.kill()
            agent.wait()
    assert killed >= 2
    accepted: dict[str, set[int]] = defaultdict(set)
    for line in journal.read_text().splitlines():
        word, job, epoch = line.split()
        if word == "accepted":
            accepted[job].add(int(epoch))
    for job in jobs:
        found = queue.look(job)
        assert found.state is JobState.SUCCEEDED
        assert isinstance(found.outcome, Success)
        assert isinstance(found.outcome.result, Measurement)
        taken = found.outcome.result.blocks[0].decode_ns[0][0] // 10**6
        assert found.epoch == taken, "the outcome is not of the last lease"
        assert accepted[job] <= {taken}, "two holders were told that their answer was taken"
    database.close()
