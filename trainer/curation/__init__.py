"""Which conversations to train on: filters one after another, and a report of what each removed."""

from trainer.curation.curate import Curated, curate
from trainer.curation.recipe import Curation

__all__ = ["Curated", "Curation", "curate"]
