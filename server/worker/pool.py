"""The processes that export and train side by side, one per core."""

import ctypes
import multiprocessing
import os
import signal
from concurrent.futures import ProcessPoolExecutor

_PR_SET_PDEATHSIG = 1


def make_pool(workers: int | None = None) -> ProcessPoolExecutor:
    """A pool of fresh interpreters; `workers` defaults to the cores this process may use.

    Spawned, since torch's threads do not survive a fork.
    """
    cores = workers or len(os.sched_getaffinity(0))
    return ProcessPoolExecutor(
        cores, mp_context=multiprocessing.get_context("spawn"), initializer=_begin, initargs=(os.getpid(),)
    )


def _begin(parent: int) -> None:
    """One thread each, deaf to Ctrl-C (the parent decides), gone when the parent is."""
    os.environ["OMP_NUM_THREADS"] = "1"
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(ctypes.CDLL(None), "prctl"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it went while we started, and no signal will come
        os._exit(0)
