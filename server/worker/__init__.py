"""The worker: the process beside the API in which searches and training runs happen.

It claims a search or a run, wires its ports to tables, queue and disk, and goes on from what the tables say. It may
be killed at any line.
"""

from server.worker.loop import Worker, serve

__all__ = ["Worker", "serve"]
