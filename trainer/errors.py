"""Errors that the trainer raises on purpose. The person who started the work can mend each of them."""


class TrainerError(Exception):
    """The root: `slug` is stable and names the kind, `message` says what happened, `advice` what to do about it."""

    slug: str = "trainer"

    def __init__(self, message: str, *, advice: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.advice = advice


class CorpusError(TrainerError):
    """A source of text that is missing, empty or unreadable."""

    slug = "bad-corpus"


class TokenizerError(TrainerError):
    """A tokenizer that cannot be loaded, or does not fit its model."""

    slug = "bad-tokenizer"


class TeacherError(TrainerError):
    """A teacher that cannot teach: missing, of another tokenizer, or a cache of something else."""

    slug = "bad-teacher"


class CheckpointError(TrainerError):
    """A checkpoint that is missing, cut short, or belongs to another architecture."""

    slug = "bad-checkpoint"


class UnsupportedArchitecture(TrainerError):
    """An architecture that the other side of an exchange cannot express."""

    slug = "unsupported-architecture"


class ContextOverflow(TrainerError):
    """More positions than the cache was made for."""

    slug = "context-overflow"


class NotEnoughMemory(TrainerError):
    """Work that this machine's memory cannot hold."""

    slug = "not-enough-memory"


class QuantisationError(TrainerError):
    """A tensor that the asked quantisation cannot take."""

    slug = "bad-quantisation"


class TrainingDiverged(TrainerError):
    """A loss that is no longer a finite number."""

    slug = "training-diverged"


class MergeError(TrainerError):
    """Models that cannot be merged, or not so."""

    slug = "bad-merge"


class Interrupted(TrainerError):
    """Somebody asked to stop; what was reached is in the last checkpoint."""

    slug = "interrupted"


class StorageFull(CheckpointError):
    """A file system that has too little room for a checkpoint; the one before it is whole."""

    slug = "storage-full"


class UnevenBatch(TrainerError):
    """A batch that the ranks cannot share evenly."""

    slug = "uneven-batch"


class RankLost(TrainerError):
    """Another rank of a distributed training died."""

    slug = "rank-lost"
