"""What can go wrong at the service, by who can mend it."""

from device_agent.contracts import Blame, Fault, FulcrumError


class NotFound(FulcrumError):
    """Nothing has this name."""

    blame, slug = Blame.USER, "not-found"


class Conflict(FulcrumError):
    """The request does not suit the present state."""

    blame, slug = Blame.USER, "conflict"


class Unacceptable(FulcrumError):
    """The request is well formed, but what it asks for cannot be done."""

    blame, slug = Blame.USER, "unacceptable"


class UnknownCorpus(Unacceptable):
    """A search names a corpus that nobody registered."""

    slug = "unknown-corpus"


class UnknownPhone(Unacceptable):
    """A search or a run names a phone that is not in the fleet."""

    slug = "unknown-phone"


class PhoneNotReady(Unacceptable):
    """A search or a run names a phone that could not take work now."""

    slug = "phone-not-ready"


class BudgetOutOfReach(Unacceptable):
    """No architecture of the space can keep a budget."""

    slug = "budget-out-of-reach"


class CorpusMissing(Unacceptable):
    """A corpus names bytes that were never uploaded."""

    slug = "corpus-missing"


class TokenizerMissing(Unacceptable):
    """A search names a tokenizer that was never uploaded."""

    slug = "tokenizer-missing"


class CorpusEmpty(Unacceptable):
    """A corpus holds no bytes at all."""

    slug = "corpus-empty"


class NoWinner(Conflict):
    """A run asks for the winner of a search that has none (yet)."""

    slug = "no-winner"


class StagesApart(Unacceptable):
    """A stage needs what none before it makes."""

    slug = "stages-apart"


class TeacherNotReady(Conflict):
    """A stage names a run as its teacher that trains still, or trained nothing of the kind."""

    slug = "teacher-not-ready"


class TeacherUnfit(Unacceptable):
    """A stage names a teacher that reads other tokens than the student."""

    slug = "teacher-unfit"


class TeacherLost(FulcrumError):
    """A run's checkpoint that our tables name is not on the disk."""

    blame, slug = Blame.INFRASTRUCTURE, "teacher-lost"


class KeyReused(Unacceptable):
    """An Idempotency-Key came again with another body."""

    slug = "idempotency-key-reused"


class StaleLease(FulcrumError):
    """The answer of someone who holds the lease no longer; it is refused, and need not be sent again."""

    blame, slug = Blame.INFRASTRUCTURE, "stale-lease"


class WrongAnswer(Unacceptable):
    """A result that belongs to another job than the one it was sent for."""

    slug = "wrong-answer"


class OwnershipLost(FulcrumError):
    """Another worker has taken this search or run over; the loser stops and writes nothing more."""

    blame, slug = Blame.INFRASTRUCTURE, "ownership-lost"


class Cancelled(FulcrumError):
    """The user asked to stop."""

    blame, slug = Blame.USER, "cancelled"


class HashMismatch(FulcrumError):
    """The bytes that came are not those that their name says."""

    blame, slug = Blame.USER, "hash-mismatch"


class ArtifactLost(FulcrumError):
    """Bytes that our tables name are not on the disk."""

    blame, slug = Blame.INFRASTRUCTURE, "artifact-lost"


class TooLarge(FulcrumError):
    """A body is over its limit."""

    blame, slug = Blame.USER, "too-large"


class DiskFull(FulcrumError):
    """Storing this would leave too little free space."""

    blame, slug = Blame.INFRASTRUCTURE, "disk-full"


class DatabaseUnusable(FulcrumError):
    """The database does not answer, or holds what this version does not know."""

    blame, slug = Blame.INFRASTRUCTURE, "database-unusable"


class AddressTaken(FulcrumError):
    """The service cannot listen where it was told to."""

    blame, slug = Blame.USER, "address-taken"


class InsecureSettings(FulcrumError):
    """The service would be open to the network without a token."""

    blame, slug = Blame.USER, "insecure-settings"


class Unauthorised(FulcrumError):
    """No token, or a wrong one."""

    blame, slug = Blame.USER, "unauthorised"


class Forbidden(FulcrumError):
    """A browser sent this from another site's page."""

    blame, slug = Blame.USER, "cross-site"


class WrongHost(FulcrumError):
    """The request names a host that this server is not."""

    blame, slug = Blame.USER, "wrong-host"


class RemoteFault(FulcrumError):
    """A Fault that came as a value (from a phone's job, or from the server), raised again as an error."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.message, advice=fault.advice)
        self.blame, self.slug = fault.blame, fault.slug


class NotReady(FulcrumError):
    """The service cannot work yet."""

    blame, slug = Blame.INFRASTRUCTURE, "not-ready"
