"""Settings changed on a phone for a measurement, and put back whatever happens to us.

What a setting was is written to a journal on the phone before it is changed. It is put back by the first of three:
the bench, when the measurement ends; a restorer on the phone, a shell of its own session that outlives the link, when
neither a runner lives nor the lease was renewed; or the next bench, which heals what a rebooted phone was left with.
The idea of a process on the phone that cleans up after its client is scrcpy's.
"""

import ipaddress
import logging
import re
from collections.abc import Sequence
from secrets import token_hex

from device_agent import android
from device_agent.adb import Link
from device_agent.contracts import FulcrumError, Setting, SettingChange

_LOG = logging.getLogger(__name__)
_SECONDS = 20.0
LEASE_SECONDS = 30
_WAS = re.compile(r"null|[A-Za-z0-9]{1,20}")

_READ: dict[Setting, str] = {
    "airplane-mode": "settings get global airplane_mode_on",
    "stay-awake": "settings get global stay_on_while_plugged_in",
    "fixed-performance": "echo off",  # Android has no question for it; a phone is taken to be as it was sold
    "screen-off": "dumpsys power",
}
_CHANGE: dict[Setting, str] = {
    "airplane-mode": "cmd connectivity airplane-mode enable",
    "stay-awake": "settings put global stay_on_while_plugged_in 3",
    "fixed-performance": "cmd power set-fixed-performance-mode-enabled true",
    "screen-off": "input keyevent 223",  # KEYCODE_SLEEP
}

# Shell of the phone, in the bench's home. Standard input is the journal, so no command may read it.
_RESTORE = """restore() {
  [ -f settings.journal ] || return 0
  failed=
  while read -r name was; do
    case "$name" in
      session) ;;
      airplane-mode)
        if [ "$was" = 1 ]; then cmd connectivity airplane-mode enable
        else cmd connectivity airplane-mode disable; fi ;;
      stay-awake)
        if [ "$was" = null ]; then settings delete global stay_on_while_plugged_in
        else settings put global stay_on_while_plugged_in "$was"; fi ;;
      fixed-performance) cmd power set-fixed-performance-mode-enabled false ;;
      screen-off) if [ "$was" = Awake ]; then input keyevent 224; fi ;;
    esac </dev/null >/dev/null 2>&1 || failed="$failed $name"
  done < settings.journal
  if [ -z "$failed" ]; then rm -f settings.journal; else echo "$failed"; fi
}
"""
_RESTORE_NOW = _RESTORE + 'cd "$1" 2>/dev/null || exit 0\nrestore'
_RESTORER = (
    _RESTORE
    + """cd "$1" || exit 1
lived=0
while sleep 1; do
  { read -r word session < settings.journal; } 2>/dev/null || exit 0
  [ "$session" = "$2" ] || exit 0
  read -r up rest < /proc/uptime
  up=${up%%.*}
  if { read -r pid < runner.pid; } 2>/dev/null && kill -0 "$pid" 2>/dev/null; then lived=$up; continue; fi
  until=0
  { read -r until < settings.lease; } 2>/dev/null
  if [ "$up" -lt "$until" ] || [ "$up" -lt $((lived + $3)) ]; then continue; fi
  restore
  exit 0
done"""
)
_LEASE = 'read -r up rest < /proc/uptime; echo $(( ${up%%.*} + $2 )) > "$1/settings.lease"'
_BEGIN = (
    'cd "$1" && echo "session $2" > settings.journal || exit 1\n'
    'setsid sh -c "$3" fulcrum-restorer "$1" "$2" "$4" </dev/null >/dev/null 2>&1 &'
)


_NOTE = """cd "$1" || exit 1
{ read -r word session < settings.journal; } 2>/dev/null
[ "$session" = "$2" ] || { echo 'the phone took the bench for gone'; exit 1; }
echo "$3" >> settings.journal
"""


class SettingsSession:
    """The changes of one measurement. Use it as a context; `changes` says afterwards what came of them."""

    def __init__(self, link: Link, home: str, settings: Sequence[Setting], lease_seconds: int = LEASE_SECONDS) -> None:
        self._link, self._home, self._lease_seconds = link, home, lease_seconds
        self._settings = settings
        self._id = token_hex(8)
        self.changes: tuple[SettingChange, ...] = ()

    def __enter__(self) -> "SettingsSession":
        if self._settings:
            heal(self._link, self._home)
            lease = str(self._lease_seconds)
            self._link.script(f'mkdir -p "$1"; {_LEASE}', self._home, lease, timeout=_SECONDS)
            self._link.script(_BEGIN, self._home, self._id, _RESTORER, lease, timeout=_SECONDS)
            self.changes = tuple(self._change(setting) for setting in self._settings)
        return self

    def __exit__(self, *_: object) -> None:
        if not self._settings:
            return
        try:
            heal(self._link, self._home)
            self.changes = tuple(self._checked(change) for change in self.changes)
        except FulcrumError as error:  # the link is gone: the restorer on the phone does it
            _LOG.warning("Settings are put back by the phone itself: %s", error.message)
            note = "the link broke first; the phone's own restorer puts it back"
            self.changes = tuple(change.model_copy(update={"note": note}) for change in self.changes)

    def renew(self) -> None:
        """Say that we live, before the lease ends. While a runner lives nobody needs to."""
        if self._settings:
            self._link.script(_LEASE, self._home, str(self._lease_seconds), timeout=_SECONDS)

    def _change(self, setting: Setting) -> SettingChange:
        if setting == "airplane-mode" and over_the_air(self._link.address):
            return SettingChange(setting=setting, note="it would cut the wireless link")
        was = self._now(setting)
        if was is None:
            return SettingChange(setting=setting, note="what it is could not be read")
        self.renew()
        change = f"{_NOTE}{_CHANGE[setting]} </dev/null 2>&1"
        done = self._link.shell(["sh", "-c", change, "sh", self._home, self._id, f"{setting} {was}"], _SECONDS)
        said = done.text.strip()[-200:]
        return SettingChange(setting=setting, was=was, applied=done.exit_code == 0, note=said)

    def _checked(self, change: SettingChange) -> SettingChange:
        return change.model_copy(update={"restored": change.applied and self._now(change.setting) == change.was})

    def _now(self, setting: Setting) -> str | None:
        said = self._link.shell(["sh", "-c", _READ[setting]], _SECONDS).text
        value = android.wakefulness(said) if setting == "screen-off" else said.strip()
        return value if value and _WAS.fullmatch(value) else None


def heal(link: Link, home: str) -> None:
    """Put back what a journal on the phone says was changed; the same for us, for the next bench, and twice.

    Raises:
        CommandFailed, PhoneUnreachable, DeadlineExceeded: see `Link.script`.
    """
    failed = link.script(_RESTORE_NOW, home, timeout=_SECONDS).split()
    if failed:
        _LOG.warning("%s could not be put back on %s; the next measurement tries again.", failed, link.address)


def over_the_air(address: str) -> bool:
    """Whether a link's address is one of a network: neither USB nor this host's own loopback (a tunnel of adb's)."""
    host, colon, _ = address.rpartition(":")
    if not colon:
        return "._adb" in address  # as the adb server names phones that it found by mDNS
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host != "localhost"
