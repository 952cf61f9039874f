"""The agent of a bench host: it leases work from the server, runs it on the phones here, and reports what came back."""

from device_agent.agent.agent import Agent, AgentBusy, AgentSettings
from device_agent.agent.client import ServerClient, ServerRefused, ServerUnavailable, StaleLease

__all__ = ["Agent", "AgentBusy", "AgentSettings", "ServerClient", "ServerRefused", "ServerUnavailable", "StaleLease"]
