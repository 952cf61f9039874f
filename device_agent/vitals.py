"""How a phone fares, and whether its battery lets it work.

adb's shell has no right to stop a charger: on a phone without root the upper end of a charge window can only be said,
never enforced. The lower end and the temperature are enforced by giving the phone no work.
"""

from dataclasses import dataclass
from datetime import UTC, datetime

from device_agent import android
from device_agent.adb import Link
from device_agent.contracts import Blame, Fault, Vitals

_SECONDS = 20.0
_MARK = "@@fulcrum@@"
_READ = f"""dumpsys battery 2>/dev/null; echo; echo {_MARK}
df -k /data/local/tmp 2>/dev/null; echo; echo {_MARK}
cat /proc/sys/kernel/random/boot_id 2>/dev/null; echo; echo {_MARK}
getprop ro.serialno"""
LOW, HOT = "battery-low", "battery-hot"
_COOLER_BY = 3.0  # degrees: a phone that rests for its heat comes back only when it has really cooled


@dataclass(frozen=True)
class BatteryPolicy:
    """When a phone works: from `min_percent` up, and not hotter than `max_celsius`.

    A phone that rests for its charge comes back at `resume_percent`. Above `ceiling_percent` a charging phone is told
    of, for a battery that is kept full ages (and swells) sooner. A phone that names no battery always works.
    """

    min_percent: int = 30
    resume_percent: int = 40
    max_celsius: float = 45.0
    ceiling_percent: int = 80

    def objection(self, vitals: Vitals, before: Fault | None = None) -> Fault | None:
        """Why the phone may not work now; None when it may. `before` is the objection of the last time."""
        reason = "" if before is None else before.slug
        percent, celsius = vitals.battery_percent, vitals.battery_celsius
        least = max(self.min_percent, self.resume_percent) if reason == LOW else self.min_percent
        most = self.max_celsius - _COOLER_BY if reason == HOT else self.max_celsius
        if percent is not None and percent < least:
            return Fault(
                blame=Blame.PHONE,
                slug=LOW,
                message=f"The battery is at {percent} %; this phone works again from {least} % up."
                if reason == LOW
                else f"The battery is at {percent} %; the agent lets a phone work from {least} % up.",
                advice="Leave it on a charger that gives enough; it comes back by itself.",
            )
        if celsius is not None and celsius > most:
            return Fault(
                blame=Blame.PHONE,
                slug=HOT,
                message=f"The battery is at {celsius:.1f} °C; this phone works at {most:.1f} °C or less.",
                advice="Let it cool: out of its case, away from the sun; it comes back by itself.",
            )
        return None

    def remark(self, vitals: Vitals) -> str:
        """What to say of a phone that is being charged above the ceiling; "" when nothing is to be said."""
        percent = vitals.battery_percent
        if percent is None or percent <= self.ceiling_percent or not vitals.charging:
            return ""
        return (
            f"charging above {self.ceiling_percent} %, which Fulcrum cannot stop without root: limit it in the phone's "
            "settings (Samsung: Battery protection), or by a socket that switches"
        )


def read_vitals(link: Link) -> tuple[Vitals, str | None]:
    """How the phone fares, in one round trip; and its `ro.serialno`."""
    battery, space, boot, serialno, *_ = [*link.script(_READ, timeout=_SECONDS).split(_MARK), "", "", ""]
    values = android.battery(battery)
    vitals = Vitals(
        taken_at=datetime.now(UTC),
        battery_percent=android.battery_percent(values),
        battery_celsius=android.battery_celsius(values),
        battery_health=android.battery_health(values),
        charging=android.charging(values),
        free_bytes=android.free_bytes(space),
        boot=boot.strip() or None,
    )
    return vitals, serialno.strip() or None
