"""How a search can end without a verdict."""

from device_agent.contracts import Blame, Fault, FulcrumError
from trainer.errors import TrainerError


class SearchCancelled(FulcrumError):
    """The user asked to stop; what was measured stays in the ledger."""

    blame = Blame.USER
    slug = "search-cancelled"


class SearchStalled(FulcrumError):
    """Candidate after candidate fails in the same way: going on would teach nothing."""

    slug = "search-stalled"

    def __init__(self, fault: Fault, times: int) -> None:
        super().__init__(
            f"{times} candidates in a row failed with {fault.slug}; the last said: {fault.message}",
            advice=fault.advice or "Mend what that message names, then start the search again.",
        )
        self.blame = fault.blame


class LedgerMismatch(FulcrumError):
    """The ledger cannot be replayed: its numbers have a gap or it belongs to another spec."""

    blame = Blame.US
    slug = "ledger-mismatch"


class HostFault(FulcrumError):
    """This host failed, not the candidate: a full disk, a worker process that was killed."""

    blame = Blame.INFRASTRUCTURE
    slug = "host-fault"


class MirrorUnreachable(FulcrumError):
    """The Optuna storage that the user named does not answer."""

    blame = Blame.INFRASTRUCTURE
    slug = "mirror-unreachable"


class TrainingRefused(FulcrumError):
    """The trainer cannot work with what it was given: a corpus or a tokenizer, not a candidate."""

    blame = Blame.USER

    def __init__(self, error: TrainerError) -> None:
        super().__init__(error.message, advice=error.advice)
        self.slug = error.slug


class UnknownToolchain(FulcrumError):
    """Versions of torch or ExecuTorch that exporting was not written for."""

    blame, slug = Blame.INFRASTRUCTURE, "unknown-toolchain"


class NotLinkable(FulcrumError):
    """Lowered pieces that cannot become one method: a file of another making, or two that do not fit together."""

    blame, slug = Blame.US, "not-linkable"


class NoTemplate(FulcrumError):
    """What was lowered cannot be re-dimensioned; the plain way remains."""

    blame, slug = Blame.US, "no-template"


class NotAProgram(FulcrumError):
    """A file that is no .pte, or not a whole one."""

    blame, slug = Blame.USER, "not-a-program"
