"""Does an outcome answer the job that it came for?"""

from device_agent.contracts import (
    CheckJob,
    Failure,
    GenerateJob,
    Generation,
    Job,
    JobOutcome,
    Measurement,
    SelfCheck,
    content_hash,
)
from server.errors import WrongAnswer


def require_answer(work: Job, serial: str, outcome: JobOutcome) -> None:
    """A failure answers every job; a result must be of the job's kind, Program and phone, and made as it asked.

    Raises:
        WrongAnswer: it is the result of something else.
    """
    if isinstance(outcome, Failure):
        return
    result = outcome.result
    asked: dict[str, object] = {"kind": work.kind, "program": work.program.hash, "serial": serial}
    given: dict[str, object] = {"kind": _kind(result), "program": result.program, "serial": result.serial}
    if isinstance(work, GenerateJob):
        asked["prompt"], given["prompt"] = work.prompt, getattr(result, "prompt", None)
    elif isinstance(work, CheckJob):
        asked["golden"], given["golden"] = content_hash(work.golden), getattr(result, "golden", None)
    else:
        asked["protocol"], given["protocol"] = work.protocol, getattr(result, "protocol", None)
    wrong = [name for name in asked if asked[name] != given[name]]
    if wrong:
        raise WrongAnswer(
            f"the result is not of this job: another {', '.join(wrong)}",
            advice="Send the result of this very job, or a failure. Are server and agent of one version?",
        )


def _kind(result: Measurement | Generation | SelfCheck) -> str:
    match result:
        case Measurement():
            return "measure"
        case Generation():
            return "generate"
        case SelfCheck():
            return "check"
