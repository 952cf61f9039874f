"""The runners that an agent has, and which of them runs a Program on a phone."""

from collections.abc import Sequence
from pathlib import Path

from device_agent.contracts import Blame, FulcrumError, Program
from device_agent.runner.bundle import ATTENTION, MANIFEST, RunnerBundle, RunnerBundleError


class RunnerMismatch(FulcrumError):
    """No runner of the agent's is for this phone and this Program."""

    blame = Blame.USER
    slug = "runner-mismatch"


def open_runners(named: Path | None, installed: Path) -> tuple[RunnerBundle, ...]:
    """The bundles that a user named first, then those that were installed; all verified.

    A place is a bundle, or a directory of bundles. A named one must hold some.

    Raises:
        RunnerBundleError: a bundle is altered, or there is none.
    """
    places = [place for place in (named, installed) if place is not None]
    found = {place: _bundles_in(place) for place in places}
    if not found[places[0]] and (named is not None or not found[installed]):
        raise RunnerBundleError(
            f"No runner bundle in {places[0]}.",
            advice="Build one with `fulcrum runner build`, bring one in with `fulcrum runner install`, "
            "or point --runner to a bundle.",
        )
    return tuple({bundle.id: bundle for place in places for bundle in found[place]}.values())


def _bundles_in(place: Path) -> list[RunnerBundle]:
    if (place / MANIFEST).is_file():
        return [RunnerBundle(place)]
    return [RunnerBundle(path.parent) for path in sorted(place.glob(f"[!.]*/{MANIFEST}"))]


def pick(
    runners: Sequence[RunnerBundle],
    serial: str,
    abi: str | None,
    program: Program,
    features: frozenset[str] = frozenset(),
) -> RunnerBundle:
    """The first runner for the phone's ABI whose ExecuTorch is the Program's, with the kernels that the Program calls
    and the `features` of the contract that the job needs.

    Raises:
        RunnerMismatch: there is none; the message names what the phone and the Program want, and what there is.
    """
    fitting = [runner for runner in runners if runner.manifest.abi == abi]
    if not fitting:
        there = ", ".join(f"{runner.manifest.id} is for {runner.manifest.abi}" for runner in runners)
        raise RunnerMismatch(
            f"{serial} runs programs for {abi}; the runner {there}.",
            advice="Give the agent a runner built for this phone: `fulcrum runner install`, or --runner.",
        )
    same = [runner for runner in fitting if runner.manifest.executorch == program.executorch]
    lacking = {runner.manifest.id: _lacking(runner, program, features) for runner in same}
    for runner in same:
        if not lacking[runner.manifest.id]:
            return runner
    if same:
        there = "; ".join(f"the runner {name} has no {' and no '.join(what)}" for name, what in lacking.items())
        raise RunnerMismatch(
            f"The job needs what no runner for {serial} has: {there}.",
            advice="Build the native runner with this version of Fulcrum (`fulcrum runner build`), "
            "or ask for a float32 KV cache and for no prefix.",
        )
    there = ", ".join(f"the runner {runner.manifest.id} has {runner.manifest.executorch}" for runner in fitting)
    raise RunnerMismatch(
        f"The Program was exported by ExecuTorch {program.executorch}, {there}.",
        advice="Use a runner of the exporter's version: a newer .pte may not load in an older runtime.",
    )


def _lacking(runner: RunnerBundle, program: Program, features: frozenset[str]) -> list[str]:
    kernels = {ATTENTION} if program.kv_cache not in (None, "float32") else set()
    return sorted(kernels - set(runner.manifest.kernels)) + sorted(features - set(runner.manifest.features))
