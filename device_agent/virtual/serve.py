"""A virtual phone as a process: tells its address, runs until SIGINT or SIGTERM."""

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path

from device_agent.virtual.daemon import VirtualPhone


def serve(directory: Path, host: str, port: int, accept_first_key: bool, announce: Callable[[str], None]) -> None:
    """Serve until a signal; `announce` is told the address.

    Raises:
        NotLoopback, RootUnusable, PortTaken: see `VirtualPhone`.
    """
    asyncio.run(_serve(VirtualPhone(directory, host=host, port=port, accept_first_key=accept_first_key), announce))


async def _serve(phone: VirtualPhone, announce: Callable[[str], None]) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    await phone.start()
    announce(phone.address)
    await stopped.wait()
    await phone.stop()
