"""From what a run asks of a stage to the trainer's stage."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from device_agent.contracts import Blame, FulcrumError, Quantisation
from search.numerics import scheme_of
from server.runs import StageRequest
from trainer.extend import Extend
from trainer.merge.stage import Merge
from trainer.preference.stage import Preference
from trainer.pretrain import Pretrain, Teacher
from trainer.ptq import Ptq
from trainer.qat import Qat
from trainer.rl.stage import Rl
from trainer.sft import Sft
from trainer.synthesis.stage import Synthesise

AnyStage = Teacher | Pretrain | Extend | Synthesise | Sft | Merge | Preference | Rl | Qat | Ptq
STAGE_KINDS: dict[str, type[AnyStage]] = {
    "teacher": Teacher,
    "pretrain": Pretrain,
    "extend": Extend,
    "synthesise": Synthesise,
    "sft": Sft,
    "merge": Merge,
    "preference": Preference,
    "rl": Rl,
    "qat": Qat,
    "ptq": Ptq,
}
_WINDOWS_APART, _MOST_SCORES = 512, 50  # of scores on held-out text


class StageRefused(FulcrumError):
    """A stage's options do not go together."""

    blame, slug = Blame.USER, "stage-refused"


def stage_of(
    request: StageRequest,
    quantisation: Quantisation,
    teacher: Path | None = None,
    before: Sequence[AnyStage] = (),
    files: Mapping[str, Sequence[Path]] | None = None,
) -> AnyStage:
    """The stage asked for, after those `before` it; `teacher` is the folder of the teacher that the request names, and
    `files` are the artifacts that it names, by option.

    What quantises rounds as the search's Programs do, and a context is stretched from the one that the model was
    trained on, unless the options say otherwise.

    Raises:
        StageRefused: the options do not go together, in a way that only the trainer knows.
    """
    given = _derived(request, quantisation, before) | request.options
    if request.tokens is not None:
        given["tokens"] = request.tokens
    if teacher is not None:
        given["teacher"] = teacher
    for option, paths in (files or {}).items():
        name, _, part = option.partition("/")
        if part:
            given[name] = {**_mapping(given[name]), part: tuple(paths)}
        else:
            given[name] = tuple(paths) if isinstance(request.options[name], list) else paths[0]
    try:
        stage = STAGE_KINDS[request.name].model_validate(given)
    except ValidationError as wrong:
        said = "; ".join(f"{'.'.join(map(str, e['loc'])) or request.name}: {e['msg']}" for e in wrong.errors())
        raise StageRefused(f"the stage {request.name} cannot be so: {said}", advice="Ask for another run.") from wrong
    return stage if "evaluate_every" in given else _scored(stage)


def _mapping(value: object) -> dict[str, object]:
    assert isinstance(value, dict), "an option of several parts is a mapping"
    return value


def _derived(request: StageRequest, quantisation: Quantisation, before: Sequence[AnyStage]) -> dict[str, object]:
    if request.name in ("qat", "ptq"):
        return {"scheme": scheme_of(quantisation)}
    trained = [stage.sequence for stage in before if isinstance(stage, Pretrain)]
    return {"original": trained[-1]} if request.name == "extend" and trained else {}


def _scored(stage: AnyStage) -> AnyStage:
    """With scores on held-out text as often as it takes to see how it goes, at a few percent of its time.

    What is trained does not depend on them. A stage whose windows are long scores itself, before and after.
    """
    if not isinstance(stage, Teacher | Pretrain | Sft | Merge | Qat):
        return stage
    apart = max(_WINDOWS_APART * stage.sequence, stage.tokens / _MOST_SCORES)
    return stage.model_copy(update={"evaluate_every": math.ceil(apart / (stage.batch * stage.sequence))})
