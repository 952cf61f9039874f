"""What the stages that quantise have in common: the scheme, its scales, and mixed precision under a budget of bytes."""

import json
from pathlib import Path
from typing import Any

from trainer.calibrate import Watch, calibration
from trainer.errors import CheckpointError, QuantisationError
from trainer.files import write_text
from trainer.mixed import Costs, assign, refuse_too_few, sensitivities
from trainer.model import HybridLM
from trainer.options import PtqOptions, QatOptions
from trainer.precision import Precision, Scheme
from trainer.stage import Workspace


def chosen(
    options: QatOptions | PtqOptions, full: HybridLM, workspace: Workspace, sequence: int, seed: int
) -> tuple[Scheme, dict[str, Any]]:
    """(the scheme to deploy, how it was found). What was measured is kept, so that carrying on is cheap.

    Raises:
        QuantisationError: a group that does not divide, or a budget that nothing keeps.
    """
    options.scheme.check(full.architecture)
    if options.byte_budget is None:
        return options.scheme, {"bytes": options.scheme.bytes(full.architecture)}
    refuse_too_few(options.candidates, full.architecture, options.byte_budget)
    kept = workspace.directory / "sensitivities.json"
    batches = calibration(workspace.corpus, windows=options.calibration_windows, sequence=sequence, seed=seed)
    costs = sensitivities(
        full, batches, options.candidates, watch(workspace), _read(kept), lambda known: _write(kept, known)
    )
    scheme = assign(costs, options.scheme, full.architecture, options.byte_budget)
    return scheme, {
        "byte_budget": options.byte_budget,
        "bytes": scheme.bytes(full.architecture),
        "nats_a_token": {role: {str(p): cost for p, cost in by.items()} for role, by in costs.items()},
    }


def watch(workspace: Workspace) -> Watch:
    """Calibration reports to whoever hears the stage."""
    return Watch(lambda done, total: workspace.report(done, total, {}), workspace.should_stop)


def _read(kept: Path) -> dict[str, dict[Precision, float]] | None:
    if not kept.exists():
        return None
    try:
        plain = json.loads(kept.read_text())
        return {role: {Precision.parse(p): float(cost) for p, cost in by.items()} for role, by in plain.items()}
    except (ValueError, AttributeError, QuantisationError) as wrong:
        raise CheckpointError(f"{kept} is damaged: {wrong}", advice="delete it to measure again") from wrong


def _write(kept: Path, costs: Costs) -> None:
    kept.parent.mkdir(parents=True, exist_ok=True)
    draft = kept.with_suffix(".draft")
    write_text(draft, json.dumps({role: {str(p): cost for p, cost in by.items()} for role, by in costs.items()}))
    draft.rename(kept)
