"""`python -m device_agent.agent.phone_process`: the process of one phone. Only an agent starts it.

It ends with its agent, however that ends: the kernel sends it SIGKILL (Linux), and its standard input ends.
"""

import ctypes
import faulthandler
import logging
import os
import signal
import sys
import threading
from typing import BinaryIO

from device_agent.agent.cache import ArtifactCache
from device_agent.agent.client import ServerClient
from device_agent.agent.messages import News, Orders, Word
from device_agent.agent.outbox import Outbox
from device_agent.agent.worker import PhoneWorker, Tools
from device_agent.runner.install import RUNNERS
from device_agent.runner.shelf import open_runners

_PR_SET_PDEATHSIG = 1
_GONE = 3


def main() -> None:
    """Read the orders, then work until a word to stop."""
    words, news = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever else writes to standard output must not speak to the agent
    faulthandler.enable()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="[%X]")
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    orders = Orders.model_validate_json(words.readline())
    _end_with(orders.agent_pid)
    client = ServerClient(orders.server, orders.token)
    tools = Tools(
        client=client,
        outbox=Outbox(orders.home / "outbox.db"),
        cache=ArtifactCache(orders.home / "artifacts", client),
        runners=open_runners(orders.runner, orders.home / RUNNERS),
    )
    worker = PhoneWorker(orders, tools, lambda item: _tell(news, item))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the agent decides
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=worker.stop).start())
    threading.Thread(target=_listen, args=(words, worker), name="agent", daemon=True).start()
    worker.run()
    tools.outbox.close()
    client.close()


def _end_with(agent: int) -> None:
    libc = ctypes.CDLL(None)
    if hasattr(libc, "prctl"):
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != agent:  # it went while this process started, and no signal will come
        os._exit(_GONE)


def _tell(news: BinaryIO, item: News) -> None:
    try:
        news.write(item.model_dump_json().encode() + b"\n")
        news.flush()
    except BrokenPipeError:
        os._exit(_GONE)


def _listen(words: BinaryIO, worker: PhoneWorker) -> None:
    """Hear the agent. Its silence for ever is its death: then nobody wants what runs here."""
    for line in words:
        word = Word.model_validate_json(line)
        if word.poll_seconds is not None:
            worker.poll_seconds = word.poll_seconds
        if word.delivered:
            worker.delivered()
        if word.check:
            worker.check_soon()
        if word.stop:
            worker.stop()
            return
    os._exit(_GONE)


if __name__ == "__main__":
    main()
