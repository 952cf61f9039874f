"""What can go wrong between a host and its phone, by who can mend it."""

from device_agent.contracts import Blame, FulcrumError


class AddressInvalid(FulcrumError):
    """The address of a phone is not host:port."""

    blame = Blame.USER
    slug = "phone-address"


class KeyUnusable(FulcrumError):
    """The private key that should open phones cannot be used."""

    blame = Blame.USER
    slug = "adb-key"


class PhoneUnreachable(FulcrumError):
    """Nothing answers at the address, the connection broke, or what answers is not an ADB daemon."""

    blame = Blame.PHONE
    slug = "phone-unreachable"


class PhoneUnauthorised(FulcrumError):
    """The phone does not know our key and nobody accepted it."""

    blame = Blame.USER
    slug = "phone-unauthorised"


class DeadlineExceeded(FulcrumError):
    """The phone took longer than the caller allowed; the connection is closed and what ran there is killed."""

    blame = Blame.PHONE
    slug = "phone-deadline"


class CommandFailed(FulcrumError):
    """A command on the phone ended with an exit code other than 0."""

    blame = Blame.PHONE
    slug = "command-failed"


class PushFailed(FulcrumError):
    """A file could not be written on the phone, or arrived damaged."""

    blame = Blame.PHONE
    slug = "push-failed"


class PhoneFull(PushFailed):
    """The phone has no room left."""

    slug = "phone-full"


class PullFailed(FulcrumError):
    """A file could not be read on the phone."""

    blame = Blame.PHONE
    slug = "pull-failed"
