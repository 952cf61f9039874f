"""Self-checks written where the server keeps them: no phone is here to make one."""

from datetime import UTC, datetime

from page_story import Story, facts

from device_agent.contracts import CheckName, CheckStep, SelfCheck, Success
from server.tables import JobRow, SelfCheckRow


def checked(story: Story, serial: str, fails: CheckName | None = None) -> None:
    """The phone's last self-check, which passed, or failed at a step."""
    now, names = datetime.now(UTC), list(CheckName)
    made = names if fails is None else names[: names.index(fails) + 1]
    result = SelfCheck(
        program="a" * 64,
        golden="b" * 64,
        serial=serial,
        virtual=False,
        fingerprint=facts(virtual=False).fingerprint,
        runner="android-native (ExecuTorch 1.4.1)",
        runner_bundle="c" * 64,
        executorch="1.4.1",
        steps=tuple(CheckStep(name=name, ok=name is not fails, message=f"{name} & <b>more</b>") for name in made),
        taken_at=now,
    )
    name = f"check-{serial}-{fails}"
    with story.services.database.write() as session:
        session.add(SelfCheckRow(id=name, serial=serial, created_at=now, job_id=name))
        session.add(
            JobRow(
                id=name,
                dedup_key=name,
                kind="check",
                serial=serial,
                payload_json="{}",
                state="succeeded",
                epoch=1,
                attempts=1,
                cancel_requested=False,
                created_at=now,
                not_before=now,
                outcome_json=Success(result=result).model_dump_json(),
                finished_at=now,
            )
        )
