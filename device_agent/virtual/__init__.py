"""A virtual phone: an ADB daemon on loopback that answers like a Galaxy S24 and runs what it is told on this host."""

from device_agent.virtual.daemon import NotLoopback, VirtualPhone, running

__all__ = ["NotLoopback", "VirtualPhone", "running"]
