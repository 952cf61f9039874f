"""A virtual phone as a process: prints its address on the first line, runs until SIGINT or SIGTERM."""

import asyncio
import signal
from pathlib import Path

from device_agent.virtual.daemon import VirtualPhone


def serve(directory: Path, host: str, port: int, accept_first_key: bool) -> None:
    """Serve until a signal.

    Raises:
        NotLoopback, RootUnusable, PortTaken: see `VirtualPhone`.
    """
    asyncio.run(_serve(VirtualPhone(directory, host=host, port=port, accept_first_key=accept_first_key)))


async def _serve(phone: VirtualPhone) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    await phone.start()
    print(phone.address, flush=True)
    await stopped.wait()
    await phone.stop()
