"""Filters, one by one and together, and what is told of what they removed."""

import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.cleaners.contamination import Contamination
from trainer.cleaners.duplicates import ExactDuplicates, NearDuplicates, signature
from trainer.cleaners.language import language
from trainer.cleaners.quality import fault
from trainer.cleaners.words import Words
from trainer.cleaning import Cleaning
from trainer.data import prepare
from trainer.errors import CorpusError
from trainer.sources import Source

_SPOKEN = {
    "en": "It was the best of times, it was the worst of times, and we had everything before us.",
    "de": "Wer immer strebend sich bemüht, den können wir erlösen, und das ist nicht leicht für ihn.",
    "fr": "Longtemps, je me suis couché de bonne heure, et la nuit était pour moi une amie dans les ombres.",
    "es": "En un lugar de la Mancha, de cuyo nombre no quiero acordarme, no ha mucho tiempo que vivía un hidalgo.",
    "it": "Nel mezzo del cammin di nostra vita mi ritrovai per una selva oscura, che la diritta via era smarrita.",
    "nl": "Ik ben makelaar in koffie, en woon op de Lauriergracht, en het is niet mijn gewoonte om te schrijven.",
    "pt": "As armas e os barões assinalados que da ocidental praia lusitana, por mares nunca de antes navegados.",
    "pl": "Litwo, ojczyzno moja, ty jesteś jak zdrowie, ile cię trzeba cenić, ten tylko się dowie, kto cię stracił.",
    "sv": "Det var en gång en man som hade ett hus vid havet, och han var inte rik men han hade allt som behövs.",
    "unknown": "Lorem ipsum dolor sit amet consectetur adipiscing elit sed eiusmod tempor incididunt labore magna.",
}


def _prose(seed: int, words: int = 120) -> str:
    chance = random.Random(seed)
    known = ["river", "stone", "window", "quiet", "morning", "letter", "bread", "garden", "winter", "harbour", "road"]
    glue = ["the", "of", "and", "to", "with", "that", "have", "be", "in"]
    made = [chance.choice(glue if place % 2 else known) + (f"{chance.randrange(40)}" if chance.random() < 0.3 else "")
            for place in range(words)]  # fmt: skip
    return " ".join(made) + "."


@pytest.mark.parametrize("name", list(_SPOKEN))
def test_languages_are_told_by_their_function_words(name: str) -> None:
    assert language(Words(_SPOKEN[name])) == name
    assert language(Words("the and of")) is None


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), changed=st.integers(0, 60))
def test_minhash_estimates_the_jaccard_similarity(seed: int, changed: int) -> None:
    first = _prose(seed, 300).split()
    second = first[:-changed] + [f"other{place}" for place in range(changed)] if changed else first
    one, two = ({tuple(words[i : i + 5]) for i in range(296)} for words in (
        Words(" ".join(first)).words, Words(" ".join(second)).words))  # fmt: skip
    estimated = (signature(Words(" ".join(first))) == signature(Words(" ".join(second)))).mean()
    assert estimated == pytest.approx(len(one & two) / len(one | two), abs=0.2)  # over 4 standard errors


def test_the_first_of_duplicates_stays_and_others_do_too() -> None:
    exact, near = ExactDuplicates(), NearDuplicates(0.8)
    text = _prose(1, 400)
    assert not exact.seen(Words(text))
    assert exact.seen(Words(text.upper().replace(" ", "\n ") + "!"))
    assert not exact.seen(Words(text + " more"))
    texts = [_prose(seed, 400) for seed in range(200)]
    assert not any(near.seen(Words(text)) for text in texts)
    assert all(near.seen(Words(text.replace(" ", " inserted ", 2))) for text in texts)
    assert not near.seen(Words(" ".join(texts[0].split()[:200]) + " " + _prose(999, 200)))  # half is not enough


def test_one_shared_ngram_is_contamination_and_a_shorter_one_is_not() -> None:
    asked = "A train leaves at noon, with eleven coaches and a tired driver; when does it arrive?"
    known = Contamination([asked, "Too short a line.", "What is the capital city of the old kingdom?"], 13)
    words = asked.split()
    assert Words(_prose(1) + " " + " ".join(words[1:15]).upper() + " " + _prose(2)) in known
    assert Words(_prose(1) + " " + " ".join(words[:12]) + " " + _prose(2)) not in known
    assert Words(_prose(3) + " what is the CAPITAL city of the old kingdom") in known
    assert Words("Too short a line. " + _prose(4)) not in known


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (_prose(1), None),
        ("Too few words.", "50"),
        (" ".join(f"{number} 1.5 + the of" for number in range(60)), "word length"),
        (" ".join(f"{number:06} {number:06} {number:06} the of" for number in range(60)), "with a letter"),
        ("word " * 3 + "zephyr quixotic vortex jumbled nymph " * 20, "stop words"),
        (_prose(1) + " {" * 9, "curly"),
        (_prose(1) + " # # # # # # # # # # # # # # # #", "hash"),
        ("\n".join("Lorem ipsum " + _prose(seed, 60) for seed in range(3)), "placeholder"),
        ("\n".join("- " + _prose(seed, 20) for seed in range(9)), "bullet"),
        ("\n".join(_prose(seed, 20) + ".." for seed in range(9)), "ellipsis"),
        ("\n".join(_prose(seed, 20)[:-1] for seed in range(9)), "end with punctuation"),
        ("\n".join(f"Therefore the ends of {seed}." for seed in range(40)), "shorter than 30"),
        ("\n".join([_prose(1, 20)] * 4 + [_prose(seed, 20) for seed in range(4)]), "lines repeated"),
        ("\n".join([_prose(1, 60)] * 2 + [_prose(seed, 20) for seed in range(4)]), "characters in repeated lines"),
        (" ".join(["the silver river"] * 8) + " " + _prose(5, 40), "2-gram"),
        (" ".join([_prose(1, 40)] * 2 + [_prose(2, 60)]), "repeated 5-grams"),
    ],
)
def test_each_rule_of_quality_finds_its_fault(text: str, named: str | None) -> None:
    found = fault(Words(text))
    assert (found is None) if named is None else (found is not None and named in found)


def test_what_was_removed_is_counted_and_shown(tmp_path: Path) -> None:
    good = [_prose(seed) for seed in range(60)]
    judged = "The question asks which of the seven bridges was crossed twice by the mayor on Sunday."
    bad = [good[0].upper(), good[1] + " Indeed.", "short", _SPOKEN["de"] * 9, _prose(77) + " " + judged]
    (tmp_path / "eval.txt").write_text(judged)
    with (tmp_path / "mine.jsonl").open("w") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in good + bad)
    cleaning = Cleaning.prose(evaluations=(Source.at(tmp_path / "eval.txt"),))
    sources = [Source.at(tmp_path / "mine.jsonl")]
    corpus = prepare(sources, tmp_path / "c", vocab_size=300, cleaning=cleaning)
    removed = corpus.meta["sources"][0]["removed"]
    assert {reason.split(":")[0]: 0 for reason in removed}.keys() == {
        "language", "quality", "contamination", "duplicate"}  # fmt: skip
    assert sum(about["documents"] for about in removed.values()) == len(bad)
    assert removed["duplicate: nearly the same words"]["examples"] == [bad[1][:300]]
    assert corpus.meta["documents"] == len(good)
    assert sum(split["documents"] for split in corpus.meta["splits"].values()) == len(good)
    other = prepare(sources, tmp_path / "all", vocab_size=300)
    assert other.meta["documents"] == len(good) + len(bad)
    with pytest.raises(CorpusError, match=r"cleaning removed all 65 documents .*language: en"):
        prepare(sources, tmp_path / "none", vocab_size=300, cleaning=Cleaning(language="sv", quality=True))
    weighty = Source.at(tmp_path / "eval.txt", weight=0.5)
    with pytest.raises(CorpusError, match=r"eval has a weight of 0.5, and no text to train on is left"):
        prepare([*sources, weighty], tmp_path / "none", vocab_size=300, cleaning=Cleaning(evaluations=(weighty,)))
