"""The command `fulcrum`. One module per group of commands; each imports what is heavy only when it runs."""

from server.cli.main import main

__all__ = ["main"]
