"""What a model makes of a long context: retrieval by depth, and how well it predicts text by position."""

from trainer.evaluate.haystack import Text
from trainer.evaluate.positions import Bucket, bits_by_position
from trainer.evaluate.report import Report, evaluate
from trainer.evaluate.retrieval import Needle, Task, episodes, task
from trainer.evaluate.scores import Recall, recall

__all__ = [
    "Bucket",
    "Needle",
    "Recall",
    "Report",
    "Task",
    "Text",
    "bits_by_position",
    "episodes",
    "evaluate",
    "recall",
    "task",
]
