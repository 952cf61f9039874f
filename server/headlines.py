"""What each stage of a run is for: its lever, the figure that says whether it helped, and how that figure is read.

The command line, the demo's summary and the page all read it here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

Unit = Literal["percent", "bits per byte", "nats a token"]
Change = Literal["better", "worse", "same"]


class Reading(BaseModel):
    """One figure of a stage as it is read, before and after."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    figure: str = Field(description="Its name among the stage's figures")
    title: str = Field(description="What it says, in words")
    unit: Unit = Field(description="Of percent the values are shares, from 0 to 1")
    better: Literal["higher", "lower"] | None = Field(description="None where neither is")
    before: float | None
    after: float | None
    change: Change | None = Field(description="As the figures are printed; None unless both are known")

    @property
    def label(self) -> str:
        """What it says, with its unit."""
        return self.title if self.unit == "percent" else f"{self.title}, {self.unit}"


@dataclass(frozen=True)
class _Measure:
    figure: str
    title: str
    unit: Unit
    better: Literal["higher", "lower"] | None

    def of(self, before: Mapping[str, float], after: Mapping[str, float]) -> Reading:
        old, new = before.get(self.figure), after.get(self.figure)
        return Reading(
            figure=self.figure,
            title=self.title,
            unit=self.unit,
            better=self.better,
            before=old,
            after=new,
            change=self._change(old, new),
        )

    def _change(self, old: float | None, new: float | None) -> Change | None:
        if old is None or new is None or self.better is None:
            return None
        if written(old, self.unit) == written(new, self.unit):
            return "same"
        return "better" if (new > old) == (self.better == "higher") else "worse"


@dataclass(frozen=True)
class Kind:
    """What a kind of stage does; `measures` are its headline, the first that the stage has, and `counted` is what its
    way is counted in."""

    lever: int
    title: str
    measures: tuple[_Measure, ...]
    counted: Literal["tokens", "seeds"] = "tokens"

    def headline(self, before: Mapping[str, float], after: Mapping[str, float]) -> Reading:
        """The figure that this lever is pulled for."""
        told = before.keys() | after.keys()
        chosen = next((each for each in self.measures if each.figure in told), self.measures[0])
        return chosen.of(before, after)

    def forgetting(self, before: Mapping[str, float], after: Mapping[str, float]) -> Reading | None:
        """What became of plain text meanwhile; None where that is the headline, or was not looked at."""
        if self.headline(before, after).figure == _TEXT.figure or _TEXT.figure not in before.keys() | after.keys():
            return None
        return _TEXT.of(before, after)


_PARENT = "parent/"
_TEXT = _Measure("bits_per_byte", "held-out text", "bits per byte", "lower")
_LONG = _Measure("bits_per_byte/long", "held-out text at the new length", "bits per byte", "lower")
_ANSWERS = _Measure("answers/nats", "held-out answers", "nats a token", "lower")
_MEAN = _Measure("nats", "held-out answers, mean over the distributions", "nats a token", "lower")
_YIELD = _Measure("yield", "answers that passed every filter", "percent", None)

KINDS: Mapping[str, Kind] = {
    "teacher": Kind(2, "teacher", (_TEXT,)),
    "pretrain": Kind(2, "pretraining", (_TEXT,)),
    "extend": Kind(3, "longer context", (_LONG, _TEXT)),
    "synthesise": Kind(4, "synthetic data", (_YIELD,), counted="seeds"),
    "sft": Kind(5, "fine-tuning on conversations", (_ANSWERS,)),
    "merge": Kind(5, "merging of specialists", (_MEAN,)),
    "preference": Kind(6, "preferences", (_Measure("win_rate", "held-out prompts won", "percent", "higher"),)),
    "rl": Kind(7, "reinforcement learning", (_Measure("success", "held-out problems solved", "percent", "higher"),)),
    "qat": Kind(8, "quantisation-aware training", (_TEXT,)),
    "ptq": Kind(8, "quantisation", (_TEXT,)),
}
"""Every kind of stage that a run may ask for."""


def written(value: float, unit: Unit) -> str:
    """A figure as it is printed, without its unit but for the percent sign; ties go away from zero, as in a browser."""
    return f"{_rounded(100 * value, 1)} %" if unit == "percent" else _rounded(value, 3)


def _rounded(value: float, digits: int) -> str:
    return str(Decimal(value).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP))


def notes(kind: str, options: Mapping[str, JsonValue], after: Mapping[str, float]) -> tuple[str, ...]:
    """What must be known to read a stage's headline: sentences."""
    if kind == "merge":
        return _of_merging(after)
    if kind == "preference":
        return _of_preferences(options)
    if kind == "rl":
        return ("One greedy answer to each held-out problem, which is never trained on; the mean over the levels.",)
    if kind in ("qat", "ptq"):
        rounded = "rounded to nearest" if kind == "qat" else "in full precision"
        return (f"Before: the model {rounded}. After: the integers that are shipped.",)
    return ()


def _of_merging(after: Mapping[str, float]) -> tuple[str, ...]:
    parents = {name.removeprefix(_PARENT): value for name, value in after.items() if name.startswith(_PARENT)}
    if not parents or "merge/nats" not in after:
        return ()
    best = min(parents, key=parents.__getitem__)
    said = f"{written(after['merge/nats'], _MEAN.unit)} {_MEAN.unit}"
    compared = ", ".join(f"{name} {written(value, _MEAN.unit)}" for name, value in parents.items())
    if after.get("merge/won"):
        return (f"The merge, {said}, beats each of its parents ({compared}) and goes on.",)
    return (f"The merge, {said}, does not beat all of its parents ({compared}): it was dropped, and {best} goes on.",)


def _of_preferences(options: Mapping[str, JsonValue]) -> tuple[str, ...]:
    judge = _named(options, "judge", "")
    examiner = _named(options, "examiner", "all that need no setting and chose no pair")
    return (
        "Answers to held-out prompts against those of the model that the stage began with. A tie counts half: 50 % is "
        "no difference.",
        f"Examined by {examiner}. "
        + ("Pairs were given." if options.get("pairs") else f"Pairs were chosen by {judge}."),
    )


def _named(options: Mapping[str, JsonValue], role: str, otherwise: str) -> str:
    """Who judged: a language model is called one, and rules never are."""
    match options.get(f"{role}_model"):
        case None:
            given = options.get(role)
            rules = (
                [each["rule"] for each in given if isinstance(each, dict)] if isinstance(given, list | tuple) else []
            )
            return f"rules, not a language model ({', '.join(map(str, rules)) or otherwise})"
        case {"model": str(name)}:
            return f"the language model {name}"
        case _:
            return "a language model"
