"""Synthesis at work: seeds by the block through steps and filters, and what stays to a file that a kill leaves whole.

`examples.jsonl` and `removed.jsonl` grow by a block at a time; `state.json`, replaced after both, says how much of them
counts. Whoever goes on after a kill cuts off what does not, and asks for that block again: an endpoint's cache knows
most of its answers.
"""

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trainer.chat import Message
from trainer.files import fsync_directory, write_text
from trainer.rewards import number_of
from trainer.synthesis.candidate import Candidate
from trainer.synthesis.filters import Judge, NearDuplicate, Tools
from trainer.synthesis.recipe import Recipe, Step, SynthesisError
from trainer.synthesis.report import Report
from trainer.synthesis.seeds import Problems, Seed, from_
from trainer.synthesis.templates import filled, warning, within
from trainer.tutors import Question, Tutor, Usage

EXAMPLES, REMOVED, STATE = "examples.jsonl", "removed.jsonl", "state.json"
_BLOCK = 64
_FINISHES = {"length": "cut off by max_tokens", "filtered": "the tutor's own filter", "refused": "the tutor refused"}
Told = Callable[[Report], None]


def synthesise(
    recipe: Recipe,
    tutor: Tutor,
    out: Path,
    *,
    judge: Tutor | None = None,
    limit: int | None = None,
    block: int = _BLOCK,
    told: Told = lambda _: None,
    heard: Callable[[Usage], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
) -> Report:
    """Make examples in `out` of the first `limit` seeds (None: all), going on where it was left.

    `told` hears of every block and `heard` of every answer; `stop` is asked after each block.

    Raises:
        SynthesisError: `out` holds another recipe's examples, or somebody is at work there.
        TutorError, CorpusError, ProblemError, SandboxError: see there; what was finished is kept.
    """
    out.mkdir(parents=True, exist_ok=True)
    with _alone(out):
        report = _carried_on(out, recipe)
        tasks = recipe.seeds.tasks if isinstance(recipe.seeds, Problems) else None
        tools = Tools(tutor, judge or tutor, tasks, heard)
        _remember(recipe, out, tools)
        seeds = from_(recipe.seeds, recipe.seed, report.seeds, limit)
        for several in _blocks(seeds, block):
            rows = _block(recipe, tools, several, report)
            report.seeds += len(several)
            _append(out, report, rows)
            told(report)
            if stop():
                break
        return report


def questions(recipe: Recipe, step: Step, candidates: Sequence[Candidate]) -> list[Question]:
    """What a step asks of each; a recipe's last step asks for its samples."""
    samples = recipe.samples if step is recipe.steps[-1] else 1

    def one(candidate: Candidate) -> Question:
        seed = number_of("sampling", recipe.seed, candidate.number, step.name) % (1 << 53)
        return Question(_messages(step, candidate.values), step.sampling.model_copy(update={"seed": seed}), samples)

    return [one(candidate) for candidate in candidates]


def _messages(step: Step, values: dict[str, str]) -> tuple[Message, ...]:
    tags: list[str] = []
    messages = []
    for turn in step.messages:
        text, quoted = filled(turn.content, values)
        tags += quoted
        messages.append(Message(role=turn.role, content=text))
    if tags:
        said = warning(tags)
        if messages[0].role == "system":
            messages[0] = Message(role="system", content=f"{messages[0].content}\n\n{said}")
        else:
            messages.insert(0, Message(role="system", content=said))
    return tuple(messages)


def _block(
    recipe: Recipe, tools: Tools, seeds: list[tuple[int, Seed]], report: Report
) -> dict[str, list[dict[str, Any]]]:
    """Rows for each file."""
    rows: dict[str, list[dict[str, Any]]] = {EXAMPLES: [], REMOVED: []}
    candidates = [Candidate(number, seed, values=dict(seed.values)) for number, seed in seeds]

    def remove(candidate: Candidate, name: str, why: str) -> None:
        report.remove(name, candidate)
        provenance = _provenance(recipe, tools.tutor, candidate)
        rows[REMOVED].append({"filter": name, "why": why, "provenance": provenance})

    for step in recipe.steps:
        candidates = _stepped(recipe, step, tools, candidates, report, remove)
    for each in recipe.filters:
        report.see(each.title, len(candidates))
        stay = []
        for candidate, why in zip(candidates, each.verdicts(candidates, tools), strict=True):
            if why is not None:
                remove(candidate, each.title, why)
                continue
            if not isinstance(each, Judge):  # which has written down its score
                candidate.passed.append({"filter": each.title})
            stay.append(candidate)
        candidates = stay
    for candidate in candidates:
        report.keep(candidate)
        said = [(turn.role, filled(turn.content, candidate.values)[0]) for turn in recipe.conversation]
        messages = [{"role": role, "content": text} for role, text in said]
        rows[EXAMPLES].append({"messages": messages, "provenance": _provenance(recipe, tools.tutor, candidate)})
    rows[REMOVED].sort(key=lambda row: int(row["provenance"]["number"]))  # an order that no block shows in
    return rows


def _stepped(
    recipe: Recipe,
    step: Step,
    tools: Tools,
    candidates: list[Candidate],
    report: Report,
    remove: Callable[[Candidate, str, str], None],
) -> list[Candidate]:
    """The candidates with the step's value, each as often as there are answers; those without one are removed."""
    asked = questions(recipe, step, candidates)
    answered = dict(tools.tutor.ask(asked, tools.heard))
    stay = []
    for place, (candidate, question) in enumerate(zip(candidates, asked, strict=True)):
        prompt = [{"role": message.role, "content": message.content} for message in question.messages]
        for sample, answer in enumerate(answered[place]):
            text = answer.text.strip() if step.within is None else within(answer.text, step.within)
            following = candidate.answered(step.name, text or answer.text, prompt, sample)
            if sample:  # what came before was paid for once, and is counted with the first
                following.prompt_tokens = following.tokens = 0
                following.cost = 0.0
            following.pay(answer, tools.tutor.usage.prices.of(answer.prompt_tokens, answer.tokens))
            report.see(f"step {step.name}", 1)
            if answer.finish in _FINISHES:
                why = _FINISHES[answer.finish]
                remove(following, f"step {step.name}", f"{why}: {answer.why}" if answer.why else why)
            elif not text:
                tag = step.within
                why = "an empty answer" if tag is None else f"not exactly one <{tag}>...</{tag}>"
                remove(following, f"step {step.name}", why)
            else:
                stay.append(following)
    return stay


def _provenance(recipe: Recipe, tutor: Tutor, candidate: Candidate) -> dict[str, Any]:
    return {
        "recipe": recipe.name,
        "recipe_sha256": recipe.identity,
        "kind": recipe.kind,
        "seed": candidate.seed.id,
        "number": candidate.number,
        "sample": candidate.sample,
        "tutor": tutor.name,
        "values": candidate.values,
        "prompts": candidate.prompts,
        "passed": candidate.passed,
    }


def _blocks(seeds: Iterator[tuple[int, Seed]], size: int) -> Iterator[list[tuple[int, Seed]]]:
    several = []
    for each in seeds:
        several.append(each)
        if len(several) == size:
            yield several
            several = []
    if several:
        yield several


def _append(out: Path, report: Report, rows: dict[str, list[dict[str, Any]]]) -> None:
    for name, added in rows.items():
        with (out / name).open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in added)
            file.flush()
            os.fsync(file.fileno())
            report.bytes[name] = file.tell()
    write_text(out / f"{STATE}.draft", report.model_dump_json(indent=2))
    (out / f"{STATE}.draft").replace(out / STATE)
    fsync_directory(out)


def _carried_on(out: Path, recipe: Recipe) -> Report:
    """What was reached, with files as long as it says."""
    identity = recipe.identity
    report = Report.read(out) if (out / STATE).exists() else Report(recipe=recipe.name, identity=identity)
    if report.identity != identity:
        raise SynthesisError(
            f"{out} holds examples of another recipe ({report.recipe}), or its sources have changed",
            advice="name another folder",
        )
    for name in (EXAMPLES, REMOVED):
        with (out / name).open("ab") as file:
            if file.tell() < report.bytes.get(name, 0):
                raise SynthesisError(f"{out / name} is shorter than it was", advice="copy it again, or start anew")
            file.truncate(report.bytes.get(name, 0))
    return report


def _remember(recipe: Recipe, out: Path, tools: Tools) -> None:
    """Near duplicates are known by what was kept."""
    if recipe.filters and isinstance(last := recipe.filters[-1], NearDuplicate):
        with (out / EXAMPLES).open(encoding="utf-8") as file:
            for line in file:
                last.seen(json.loads(line)["provenance"]["values"][last.of], tools)


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    with (out / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as wrong:
            raise SynthesisError(f"somebody is at work in {out}", advice="wait, or name another folder") from wrong
        yield
