"""What can go wrong between a host and its phone, by who can mend it."""

from device_agent.contracts import Blame, FulcrumError


class AddressInvalid(FulcrumError):
    """The name of a phone is neither host:port nor a serial."""

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


class PhoneUnpaired(FulcrumError):
    """The phone offers wireless debugging, which goes through a paired adb server."""

    blame = Blame.USER
    slug = "phone-unpaired"


class PhoneBusy(FulcrumError):
    """Another program of this host holds the phone's USB interface."""

    blame = Blame.USER
    slug = "phone-busy"


class PhoneForbidden(FulcrumError):
    """This user may not open the phone's USB device."""

    blame = Blame.USER
    slug = "phone-forbidden"


class LibusbMissing(FulcrumError):
    """The library through which USB is spoken is not on this host."""

    blame = Blame.USER
    slug = "libusb-missing"


class AdbServerFailed(FulcrumError):
    """There is no adb server, or it does not do what it is asked."""

    blame = Blame.USER
    slug = "adb-server"


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
