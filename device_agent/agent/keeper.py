"""The keeper of a lease: heartbeats while a job runs, and pulls the plug when the lease is lost."""

import logging
import threading
from typing import Self

from device_agent.adb import Link
from device_agent.agent.client import ServerClient, StaleLease
from device_agent.contracts import FulcrumError, Lease

_LOG = logging.getLogger(__name__)


class LeaseKeeper:
    """A thread for the length of a block. `lost` means that nobody wants the outcome any more.

    While the server is away the work goes on: whether the lease still holds is the server's to say.
    """

    def __init__(self, client: ServerClient, lease: Lease) -> None:
        self._client = client
        self._lease = lease
        self._seconds = lease.seconds
        self._done = threading.Event()
        self._lock = threading.Lock()
        self._link: Link | None = None
        self._thread = threading.Thread(target=self._keep, name=f"lease-{lease.job_id}", daemon=True)
        self._dropped = False
        self.lost = False

    def __enter__(self) -> Self:
        """Ask first whether the lease holds, so that a late holder touches no phone."""
        self._beat()
        if not self.lost:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        if self._thread.is_alive():
            self._thread.join()

    def guard(self, link: Link) -> None:
        """Close this link, and with it what runs on the phone, when the lease is lost."""
        with self._lock:
            self._link = link
            if self.lost or self._dropped:
                link.close()

    def drop(self) -> None:
        """Stop the work now, or as soon as it begins."""
        with self._lock:
            self._dropped = True
            if self._link is not None:
                self._link.close()

    def _keep(self) -> None:
        while not self.lost and not self._done.wait(self._seconds / 3):
            self._beat()

    def _beat(self) -> None:
        try:
            state = self._client.heartbeat(self._lease)
        except StaleLease:
            self._lose("is held by another")
        except FulcrumError as error:
            _LOG.warning("no heartbeat for job %s: %s", self._lease.job_id, error.message)
        else:
            self._seconds = state.seconds
            if state.cancelled:
                self._lose("was cancelled")

    def _lose(self, why: str) -> None:
        _LOG.info("job %s %s", self._lease.job_id, why)
        with self._lock:
            self.lost = True
            if self._link is not None:
                self._link.close()
