"""Whether two tokenizers give the same tokens for every text: only then do two models' predictions compare."""

import json
from typing import Any, NoReturn

from tokenizers import Tokenizer

from trainer.errors import TeacherError

# Where normalisers, pre-tokenisers and special tokens are known to differ; each is encoded by both.
_PROBES = (
    "The quick brown fox, in 2026, didn't jump.",
    "  two  spaces\tand tabs\r\n\r\n\nlines \u00a0\u2003 end ",
    "def f(x):\n    return x ** 2 != 10_000.5e-3  # caf\u00e9",
    "cafe\u0301 caf\u00e9 \u212b \u00c5 \ufb01 fi \u00bd \u2460 \uff21\u200b\u200d",
    "ÉCOLE Straße İstanbul ΣΊΣΥΦΟΣ ПРИВЕТ",
    "日本語のテキスト。中文 한국어 العربية עברית ไทย",
    "😀👩‍👩‍👧‍👦🇩🇪 \x00\x07\x1b \ufeff \ufffd",
    "1234567890 12345 123 1,234.50 0x1F",
    "<|endoftext|> <s> </s> <unk> [MASK] <|im_start|>user",
    "we'll I'M they'VE 'tis o'clock",
)
_ADVICE = "distil from a teacher that shares the tokenizer, or prepare the corpus with the teacher's tokenizer.json"


def require_same(teacher: Tokenizer, ours: Tokenizer, label: str) -> None:
    """Raise TeacherError, saying what differs, unless `teacher` gives every text the tokens that `ours` gives.

    Ids and merges must be equal. How text is cut before that is compared by its description; where the description
    differs, as after another library wrote it, by what it does to probes that tell the usual ways apart.
    """
    theirs, known = _described(teacher), _described(ours)
    _require_same_ids(teacher.get_vocab(), ours.get_vocab(), label)
    for index, (one, other) in enumerate(zip(theirs["merges"], known["merges"], strict=False)):
        if one != other:
            _refuse(f"{label} merges {one} where the corpus's tokenizer merges {other} (merge {index})")
    if len(theirs["merges"]) != len(known["merges"]):
        _refuse(f"{label} has {len(theirs['merges'])} merges, the corpus's tokenizer {len(known['merges'])}")
    if theirs["special"] != known["special"]:
        differing = sorted(set(theirs["special"]) ^ set(known["special"]))[0]
        _refuse(f"{label} and the corpus's tokenizer treat the special token {differing[1]!r} differently")
    if theirs["cutting"] == known["cutting"]:
        return
    for probe in _PROBES:
        if _ids(teacher, probe) != _ids(ours, probe):
            _refuse(f"{label} reads {probe!r} as other tokens than the corpus's tokenizer: its normaliser differs")


def _require_same_ids(theirs: dict[str, int], known: dict[str, int], label: str) -> None:
    if theirs == known:
        return
    token = min(
        (token for token in theirs.keys() | known.keys() if theirs.get(token) != known.get(token)),
        key=lambda token: min(each[token] for each in (theirs, known) if token in each),
    )
    one, other = (f"id {each[token]}" if token in each else "none of its tokens" for each in (theirs, known))
    _refuse(f"{label} has another vocabulary: {token!r} is {one} to it and {other} to the corpus's tokenizer")


def _described(tokenizer: Tokenizer) -> dict[str, Any]:
    plain = json.loads(tokenizer.to_str())
    model = plain["model"]
    # Older files write a merge as one text, newer ones as a pair.
    merges = [tuple(each.split(" ", 1)) if isinstance(each, str) else tuple(each) for each in model.get("merges", [])]
    flags = ("special", "lstrip", "rstrip", "single_word", "normalized")
    special = [(each["id"], each["content"], *(each[flag] for flag in flags)) for each in plain["added_tokens"]]
    options = {name: value for name, value in model.items() if name not in ("vocab", "merges") and value}
    return {
        "merges": merges,
        "special": special,
        "cutting": (plain["normalizer"], plain["pre_tokenizer"], options),
    }


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """As a corpus is read: special tokens in a text are plain text."""
    reader: Tokenizer = Tokenizer.from_str(tokenizer.to_str())
    reader.no_truncation()
    reader.no_padding()
    reader.encode_special_tokens = True
    ids: list[int] = reader.encode(text, add_special_tokens=False).ids
    return ids


def _refuse(message: str) -> NoReturn:
    raise TeacherError(message, advice=_ADVICE)
