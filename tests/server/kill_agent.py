"""A process that leases, works and answers straight at the queue, until it is killed. Run by test_kill."""

import os
import random
import sys
import time
from pathlib import Path

from service_examples import ask, measurement

from device_agent.contracts import LeaseHeartbeat, LeaseResult, Success
from server.database import Database
from server.errors import StaleLease
from server.queue.machine import Policy
from server.queue.store import JobQueue

LEASE_SECONDS = 0.4
POLICY = Policy(lease_seconds=LEASE_SECONDS, attempts=50, pause_seconds=0)


def main(url: str, journal: Path, serials: tuple[str, ...]) -> None:
    """Everything it is told was accepted goes into the journal: one short line, appended at once."""
    draw = random.Random(os.getpid())
    queue = JobQueue(Database(url), POLICY)
    with journal.open("ab", buffering=0) as log:
        while True:
            lease = queue.lease(ask(*serials))
            if lease is None:
                time.sleep(0.02)
                continue
            overrun = draw.random() < 0.1
            time.sleep(LEASE_SECONDS * 2 if overrun else 0.02)
            try:
                if not overrun:
                    queue.heartbeat(lease.job_id, LeaseHeartbeat(epoch=lease.epoch, secret=lease.secret))
                outcome = Success(result=measurement(lease.serial, ms=lease.epoch))
                queue.accept(lease.job_id, LeaseResult(epoch=lease.epoch, secret=lease.secret, outcome=outcome))
            except StaleLease:
                log.write(f"stale {lease.job_id} {lease.epoch}\n".encode())
            else:
                log.write(f"accepted {lease.job_id} {lease.epoch}\n".encode())


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), tuple(sys.argv[3:]))
