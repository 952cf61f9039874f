"""The search's ports over the queue: ask a phone by a durable job, and wait for its answer."""

import time
from collections.abc import Callable

from device_agent.contracts import (
    Failure,
    GenerateJob,
    Generation,
    MeasureJob,
    Measurement,
    Program,
    Protocol,
    SelfCheck,
    Success,
    content_hash,
)
from server.errors import Cancelled, RemoteFault
from server.queue.machine import Job, JobState
from server.queue.store import JobQueue

_POLL_SECONDS = 0.1


class PhoneBench:
    """Measures and generates on phones for one search or one run. Its jobs outlive it: asked again, it finds them.

    `waiting` hears why a job waits for its phone when that takes long, and None when it waits no longer.
    """

    def __init__(
        self,
        queue: JobQueue,
        cancelled: Callable[[], bool],
        *,
        search: str,
        run: str | None = None,
        waiting: Callable[[str | None], None] = lambda _: None,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._queue, self._cancelled, self._pause = queue, cancelled, pause
        self._search, self._run, self._waiting = search, run, waiting

    def measure(self, program: Program, protocol: Protocol, phone: str, number: int, session: int = 0) -> Measurement:
        """This is `search.ports.Measure`.

        Raises:
            RemoteFault: the job failed; its blame says by whose fault.
            Cancelled: the user stopped the search or the run.
        """
        what = {"program": program.hash, "protocol": content_hash(protocol), "phone": phone, "number": number}
        again = {"session": session} if session else {}  # the first one's key is the one that older ledgers hold
        key = self._key("measure", **what, **again)
        result = self._ask(MeasureJob(program=program, protocol=protocol), phone, number, key)
        assert isinstance(result, Measurement)  # the queue takes no other answer
        return result

    def generate(
        self, program: Program, prompt: tuple[int, ...], new_tokens: int, phone: str, number: int
    ) -> Generation:
        """Continue a prompt greedily on a phone.

        Raises:
            RemoteFault: the job failed; its blame says by whose fault.
            Cancelled: the user stopped the search or the run.
        """
        key = self._key(
            "generate", program=program.hash, prompt=prompt, new_tokens=new_tokens, phone=phone, number=number
        )
        work = GenerateJob(program=program, prompt=prompt, new_tokens=new_tokens)
        result = self._ask(work, phone, number, key)
        assert isinstance(result, Generation)  # the queue takes no other answer
        return result

    def _key(self, kind: str, **what: object) -> str:
        return content_hash({"kind": kind, "search": self._search, "run": self._run, **what})

    def _ask(
        self, work: MeasureJob | GenerateJob, phone: str, number: int, key: str
    ) -> Measurement | Generation | SelfCheck:
        job_id = self._queue.enqueue(work, phone, key, search=self._search, run=self._run, number=number)
        said = None
        while not (job := self._queue.look(job_id)).final:
            if self._cancelled():
                self._queue.cancel(job_id)
                raise Cancelled("the user asked to stop")
            if (why := self._queue.hindrance(job_id)) != said:
                self._waiting(why)
                said = why
            self._pause(_POLL_SECONDS)
        if said is not None:
            self._waiting(None)
        return _answer(job)


def _answer(job: Job) -> Measurement | Generation | SelfCheck:
    if isinstance(job.outcome, Success):
        return job.outcome.result
    if job.state is JobState.CANCELLED or not isinstance(job.outcome, Failure):
        raise Cancelled("the job was cancelled", advice="Start the search or the run again.")
    raise RemoteFault(job.outcome.fault)
