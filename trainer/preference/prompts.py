"""What a model is asked: the prompts of files and of pairs, or problems; some of them are held out of training."""

from collections.abc import Callable
from dataclasses import dataclass

from trainer.chat import ChatError, ChatTemplate, Message
from trainer.options import PreferenceOptions
from trainer.preference.judges import Case
from trainer.preference.rows import Pair, PreferenceError, cases_of, read_cases, read_pairs
from trainer.rewards import Problem, ProblemError, Tasks, drawn, number_of

Obstacle = Callable[[Case], str]
"""Why a chat cannot be put to the model; nothing where it can."""


@dataclass(frozen=True)
class Prompts:
    """Chats to learn from and chats to judge by, none in both; `pairs` where they are given; how many were left out."""

    learnt: list[Case]
    held_out: list[Case]
    pairs: list[Pair] | None = None
    left_out: int = 0

    @classmethod
    def of(cls, options: PreferenceOptions, seed: int, obstacle: Obstacle) -> "Prompts":
        """Those that the options name. Problems are held out by the rule of `trainer.rewards.is_held_out`, so that no
        stage trains on them; prompts by a hash of theirs.

        Raises:
            PreferenceError: files that cannot be used, or nothing to learn from or to judge by.
            ProblemError: problems that cannot be had.
        """
        if options.tasks is not None:
            return _posed(options, options.tasks, seed, obstacle)
        pairs = None if options.pairs is None else read_pairs(options.pairs)
        cases = read_cases(options.prompts) if options.prompts is not None else cases_of(pairs or [])
        usable = [case for case in cases if not obstacle(case)]
        if not usable:
            raise PreferenceError(
                f"none of {len(cases)} prompts can be put to the model; the last: {obstacle(cases[-1])}",
                advice="raise `sequence`, or correct the prompts",
            )
        held_out = [case for case in usable if case.draw < options.held_out]
        learnt = [case for case in usable if case.draw >= options.held_out]
        if options.held_out and not held_out:
            raise PreferenceError(
                f"none of {len(usable)} prompts is held out for the win rate",
                advice="give more prompts, or raise `held_out`; 0 goes without a win rate",
            )
        if not learnt:
            raise PreferenceError("all prompts are held out", advice="give more prompts, or lower `held_out`")
        given = None if pairs is None else [pair for pair in pairs if Case(pair.prompt).draw >= options.held_out]
        return cls(learnt, held_out, given, len(cases) - len(usable))


def obstacle_of(template: ChatTemplate, sequence: int) -> Obstacle:
    """Why a pair of answers to a chat would not fit into `sequence` tokens, or the template refuses the chat."""

    def obstacle(case: Case) -> str:
        try:
            tokens = len(template.encode(case.messages))
        except ChatError as refused:
            return refused.message
        return f"it has {tokens} tokens, and twice that exceeds {sequence}" if 2 * tokens > sequence else ""

    return obstacle


def _posed(options: PreferenceOptions, tasks: Tasks, seed: int, obstacle: Obstacle) -> Prompts:
    for level in tasks.names:
        tasks.problem(level, seed)  # what cannot be had at all is said now; below, a level may be exhausted
    kept = max(1, round(options.problems * options.held_out)) if options.held_out else 0
    if kept == options.problems:
        raise PreferenceError("all problems are held out", advice="ask for more `problems`, or lower `held_out`")
    learnt = _problems(tasks, options.problems - kept, seed, obstacle, held_out=False)
    return Prompts(learnt, _problems(tasks, kept, seed, obstacle, held_out=True))


def _problems(tasks: Tasks, count: int, seed: int, obstacle: Obstacle, *, held_out: bool) -> list[Case]:
    """`count` different problems, of each level in turn; a level that has no more is left, and others give more."""
    cases: dict[str, Case] = {}
    levels = list(tasks.names)

    def fits(problem: Problem) -> bool:
        return problem.prompt not in cases and not obstacle(case_of(problem))

    while len(cases) < count:
        level = levels[len(cases) % len(levels)]
        try:
            found = drawn(tasks, level, number_of("posed", seed, len(cases)), held_out=held_out, fits=fits)
            cases[found.prompt] = case_of(found)
        except ProblemError as none:
            levels.remove(level)
            if not levels:
                raise PreferenceError(
                    f"the tasks have {len(cases)} different problems that fit and are "
                    f"{'held out' if held_out else 'not held out'}, and {count} are wanted",
                    advice="ask for fewer `problems`, give more levels, or raise `sequence`",
                ) from none
    return list(cases.values())


def case_of(problem: Problem) -> Case:
    """A problem as a chat."""
    return Case((Message(role="user", content=problem.prompt),), problem.answer, problem)
