"""Judges: who says which answer is better. A language model may, or declared rules; their names say which it is."""

from trainer.preference.judges.bias import bias
from trainer.preference.judges.port import Case, Comparison, Criterion, Judge, Marks, Verifier, Vote, total
from trainer.preference.judges.rules import RuleJudge, verifiable
from trainer.preference.judges.spoken import CRITERIA, SpokenJudge
from trainer.preference.judges.verified import Verified

__all__ = [
    "CRITERIA",
    "Case",
    "Comparison",
    "Criterion",
    "Judge",
    "Marks",
    "RuleJudge",
    "SpokenJudge",
    "Verified",
    "Verifier",
    "Vote",
    "bias",
    "total",
    "verifiable",
]
