"""Synthetic data: a larger model makes conversations of seeds, filters take away what is not good enough."""

from trainer.synthesis.recipe import Recipe, SynthesisError, read_recipe, shipped
from trainer.synthesis.report import Report
from trainer.synthesis.run import synthesise

__all__ = ["Recipe", "Report", "SynthesisError", "read_recipe", "shipped", "synthesise"]
