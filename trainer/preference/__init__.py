"""Lever 6: a model learns which of its answers are preferred, in rounds of its own answers."""
