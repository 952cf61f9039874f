"""A runner on a phone: its files and a Program's are pushed, plans are written, each run is a fresh process."""

import hashlib
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from device_agent.adb import Link, Push, ShellResult
from device_agent.contracts import Placement, Program, Sha256, Transfer
from device_agent.runner.bundle import RunnerBundle
from device_agent.runner.output import RunnerFailed

HOME = "/data/local/tmp/fulcrum"

# Says where it was placed and how busy the cores were, by the shell alone, and then becomes the runner.
_RUN = """cd "$1" || exit 1
shift
echo $$ > runner.pid
{ while read -r key value rest; do
  case "$key" in Cpus_allowed:) echo "{\\"event\\":\\"placed\\",\\"cpus_allowed\\":\\"$value\\"}" ;; esac
done < /proc/self/status; } 2>/dev/null
{ read -r line < /proc/uptime && echo "$line"; } 2>/dev/null
{ while read -r line; do
  case "$line" in cpu*) echo "$line" ;; *) break ;; esac
done < /proc/stat; } 2>/dev/null
exec "$@" """
_PUSH_SECONDS = 1800.0
_SWEEP_SECONDS = 120.0
_OUT_OF_MEMORY = "The Program does not fit on this phone: tighten the memory budget or the context length."


_SWEEP = """home=$1
shift
for f in "$home"/objects/* "$home"/plans/* "$home"/runners/*/* "$home"/snapshots/* "$home"/snapshots/.[!.]*; do
  [ -f "$f" ] || continue
  for kept; do [ "$kept" = "$f" ] && continue 2; done
  rm -f "$f"
done"""


class PhoneRunner:
    """One bundle over one link. Paths in plans are relative to `HOME`, where the runner is started."""

    def __init__(self, link: Link, bundle: RunnerBundle, process_seconds: float) -> None:
        """`process_seconds` bounds each process on the phone."""
        self.label = bundle.label
        self._link, self._bundle, self._seconds = link, bundle, process_seconds
        self._directory = f"{HOME}/runners/{bundle.id}"

    def files(self, program: Program) -> dict[str, Sha256]:
        """What must lie on the phone for this Program: path to content."""
        objects = {f"{HOME}/{path}": name for name, path in objects_of(program).items()}
        return objects | {f"{self._directory}/{file.name}": file.sha256 for file in self._bundle.manifest.files}

    def sweep(self, program: Program) -> None:
        """Delete what other jobs left on the phone: objects and plans that this Program has no use for, other runners,
        snapshots.

        All of it can be pushed, or computed, again.
        """
        self._link.script(_SWEEP, HOME, *self.files(program), timeout=_SWEEP_SECONDS)

    def push(self, program: Program, files: Mapping[Sha256, Path]) -> Transfer:
        """Make the Program's files and the runner's be there; `files` maps the Program's to where they lie here.

        Raises:
            PushFailed, PhoneUnreachable, DeadlineExceeded: as `Link.push_all`.
        """
        pushes = [Push(files[name], f"{HOME}/{path}", name) for name, path in sorted(objects_of(program).items())]
        for file in self._bundle.manifest.files:
            mode = 0o755 if file.executable else 0o644
            pushes.append(Push(self._bundle.directory / file.name, f"{self._directory}/{file.name}", file.sha256, mode))
        started = time.monotonic()
        sent = self._link.push_all(pushes, timeout=_PUSH_SECONDS)
        pushed = [count for count in sent.values() if count]
        return Transfer(
            pushed_bytes=sum(pushed),
            pushed_files=len(pushed),
            kept_files=len(sent) - len(pushed),
            seconds=time.monotonic() - started,
        )

    def write(self, plan: str) -> str:
        """Put a plan on the phone; its path, for `run`."""
        digest = hashlib.sha256(plan.encode()).hexdigest()
        self._link.push(plan.encode(), f"{HOME}/plans/{digest}", digest)
        return f"plans/{digest}"

    def run(self, plan: str, placement: Placement | None = None, longer: float = 0.0) -> list[str]:
        """The lines of one fresh process, for a plan that `write` put there, pinned to `placement` if there is one;
        `longer` seconds come on top of its bound.

        Raises:
            RunnerFailed: it ended without a word of its own.
            PhoneUnreachable, DeadlineExceeded: the phone's own troubles.
        """
        argv, environment = self._bundle.manifest.command(self._directory, plan)
        pinned: Sequence[str] = ("taskset", placement.mask) if placement is not None else ()
        done = self._link.shell([*pinned, "sh", "-c", _RUN, "sh", HOME, *argv], self._seconds + longer, env=environment)
        lines = done.text.splitlines()
        if done.exit_code != 0 and not any('"error"' in line for line in lines):
            raise _death(done)
        return lines


def objects_of(program: Program) -> dict[Sha256, str]:
    """Where each file of a Program lies, relative to `HOME`."""
    return {name: f"objects/{name}" for name in program.files}


def _death(done: ShellResult) -> RunnerFailed:
    """What an exit without a word means: Android's low-memory killer and Linux's both send SIGKILL."""
    tail = done.stderr.decode(errors="replace").strip()[-500:]
    if done.exit_code == 128 + signal.SIGKILL:
        return RunnerFailed(
            f"The runner was killed on the phone, most likely for its memory. {tail}".strip(),
            slug="out-of-memory",
            advice=_OUT_OF_MEMORY,
        )
    how = f"exit code {done.exit_code}"
    if done.exit_code > 128 and done.exit_code - 128 in set(signal.Signals):
        how = f"signal {signal.Signals(done.exit_code - 128).name}"
    return RunnerFailed(
        f"The runner ended with {how}. {tail}".strip(),
        slug="runner-crashed",
        advice="Run the plan by hand on the phone to see why; the Program may use an operator the runner lacks.",
    )
