"""Code that a model wrote, run in processes of its own that may do next to nothing, and tested from outside of them."""

from trainer.sandbox.outside import Ran, SandboxError, program, run

__all__ = ["Ran", "SandboxError", "program", "run"]
