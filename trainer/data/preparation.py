"""Preparing a corpus: survey, tokenizer, shards. Each step is kept, so a killed process is carried on by the next."""

import hashlib
import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from trainer.cleaning import Cleaning
from trainer.data.corpus import LAYOUT, Corpus, Split
from trainer.data.draft import Draft, finish, resumable
from trainer.data.encode import encoded
from trainer.data.split import HELD_OUT_SHARE, HoldOut, place
from trainer.data.survey import Paced, Report, Texts, kept, scaffold, surveyed
from trainer.data.writer import Writer
from trainer.errors import CorpusError
from trainer.sources import Source
from trainer.tokenizer import end_of_text, load_tokenizer, require_fit, train_tokenizer

_FEWEST_TOKENS = 64
_CHECKPOINT_CHARACTERS = 1 << 24  # a few seconds of work
_SPLITS: tuple[Split, ...] = ("train", "held_out")
_SCAFFOLD = ("key.json", "survey.json", "progress.json")
AS_IT_IS = Cleaning()


def silent(message: str, done: int, total: int) -> None:
    """A Report that nobody reads."""


def corpus_key(
    sources: Sequence[Source],
    *,
    vocab_size: int,
    seed: int = 0,
    tokenizer: Path | None = None,
    cleaning: Cleaning = AS_IT_IS,
) -> str:
    """sha256 of everything that determines a prepared corpus: a good name for its directory."""
    parts: list[Any] = [LAYOUT, HELD_OUT_SHARE, vocab_size, seed]
    parts.append([[source.title, source.weight, source.fingerprint()] for source in sources])
    parts.append(hashlib.sha256(tokenizer.read_bytes()).hexdigest() if tokenizer else None)
    parts.append([cleaning.model_dump(mode="json", exclude={"evaluations"})])
    parts.append([source.fingerprint() for source in cleaning.evaluations])
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def prepare(
    sources: Sequence[Source],
    directory: Path,
    *,
    vocab_size: int,
    seed: int = 0,
    tokenizer: Path | None = None,
    cleaning: Cleaning = AS_IT_IS,
    report: Report = silent,
) -> Corpus:
    """Clean and tokenise `sources` into `directory`, or open what an earlier call left there.

    About 5 % of the documents, chosen by their hash, are held out. Nothing is at `directory` until all of it is; a call
    that was killed is carried on by the next one with the same arguments.

    Raises:
        CorpusError: a source that is missing, empty, unreadable; or a directory that holds another corpus.
        TokenizerError: a tokenizer that cannot be read or does not fit `vocab_size`.
    """
    _check_weights(sources)
    key = corpus_key(sources, vocab_size=vocab_size, seed=seed, tokenizer=tokenizer, cleaning=cleaning)
    if not directory.exists():
        with resumable(directory, key) as draft:
            if draft is not None:
                about = {"vocab_size": vocab_size, "seed": seed, "key": key}
                _prepare(draft, sources, tokenizer, cleaning, about, report)
                finish(draft, directory, (*_SCAFFOLD, *scaffold(sources)))
    corpus = Corpus.open(directory)
    if corpus.meta["key"] != key:
        raise CorpusError(f"{directory} holds another corpus", advice="choose another directory")
    return corpus


def _prepare(
    draft: Draft,
    sources: Sequence[Source],
    tokenizer: Path | None,
    cleaning: Cleaning,
    about: dict[str, Any],
    report: Report,
) -> None:
    vocab_size, seed = about["vocab_size"], about["seed"]
    survey = draft.load("survey.json")
    if survey is None:
        survey = surveyed(draft.directory, sources, seed, cleaning, report)
        draft.save("survey.json", survey)
    texts_of = [kept(draft.directory, number, source) for number, source in enumerate(sources)]
    held_out = HoldOut(survey["threshold"], frozenset(survey["single"]), survey["most"])
    trained = draft.directory / "tokenizer.json"
    if not trained.exists():
        report("tokenizer", 0, survey["characters"])
        texts = (text for texts_ in texts_of for text in texts_() if place(text, seed) not in held_out)
        made = load_tokenizer(tokenizer) if tokenizer else train_tokenizer(texts, vocab_size)
        require_fit(made, vocab_size)
        draft.save_text("tokenizer.json", made.to_str())
    shards, splits = _tokenise(draft, texts_of, load_tokenizer(trained), held_out, about, survey["characters"], report)
    described = [
        {"name": name, "format": source.format, "weight": source.weight, "splits": counts, **found}
        for name, source, counts, found in zip(names(sources), sources, splits, survey["sources"], strict=True)
    ]
    _check_left(described)
    total = {split: _sum([counts[split] for counts in splits]) for split in _SPLITS}
    for split in _SPLITS:
        if total[split]["tokens"] < _FEWEST_TOKENS:
            raise CorpusError(
                f"the {split.replace('_', '-')} text has only {total[split]['tokens']} tokens", advice="give more text"
            )
    meta = {"layout": LAYOUT, **about, "cleaning": cleaning.model_dump(mode="json"), "documents": survey["documents"]}
    meta |= {"sources": described, "splits": total, "shards": shards}
    draft.save_text("meta.json", json.dumps(meta, indent=2))


def names(sources: Sequence[Source]) -> list[str]:
    """What each source is called in the corpus: its title, numbered where two have the same."""
    found: list[str] = []
    for source in sources:
        name, number = source.title, 2
        while name in found:
            name, number = f"{source.title}-{number}", number + 1
        found.append(name)
    return found


def _check_weights(sources: Sequence[Source]) -> None:
    weights = [source.weight for source in sources if source.weight is not None]
    if len(weights) < len(sources) and sum(weights) >= 1:
        raise CorpusError(
            f"the weights add up to {sum(weights):g}, and nothing is left for the sources without one",
            advice="give weights below 1 together, or one to every source",
        )


def _check_left(described: list[dict[str, Any]]) -> None:
    for source in described:
        if source["weight"] is not None and not source["splits"]["train"]["tokens"]:
            raise CorpusError(
                f"{source['name']} has a weight of {source['weight']:g}, and no text to train on is left of it",
                advice="give more text, less cleaning, or leave the source out",
            )


def _tokenise(
    draft: Draft,
    texts_of: Sequence[Texts],
    tokenizer: Tokenizer,
    held_out: HoldOut,
    about: dict[str, Any],
    characters: int,
    report: Report,
) -> tuple[list[dict[str, Any]], list[dict[Split, dict[str, int]]]]:
    """(shards, what each source has in each split)."""
    dtype = np.dtype(np.uint16 if about["vocab_size"] <= 1 << 16 else np.uint32)
    progress = draft.load("progress.json") or {"source": 0, "taken": 0, "characters": 0, "writers": []}
    writers = [
        [Writer(draft.directory, number, split, dtype, state) for split, state in zip(_SPLITS, states, strict=True)]
        for number, states in enumerate(progress["writers"])
    ]
    end, paced, saved = (
        end_of_text(tokenizer),
        Paced(report, "tokenise", progress["characters"]),
        progress["characters"],
    )
    for number in range(progress["source"], len(texts_of)):
        taken = progress["taken"] if number == progress["source"] else 0
        if number == len(writers):
            writers.append([Writer(draft.directory, number, split, dtype, {}) for split in _SPLITS])
        for text, ids in encoded(tokenizer, islice(texts_of[number](), taken, None), end):
            writers[number][place(text, about["seed"]) in held_out].add(ids, len(text.encode()))
            taken += 1
            if paced.done - saved >= _CHECKPOINT_CHARACTERS:
                saved = paced.done
                _checkpoint(draft, writers, number, taken, paced.done + len(text))
            paced.more(len(text), characters)
        _checkpoint(draft, writers, number + 1, 0, paced.done)
    shards = [shard for pair in writers for writer in pair for shard in writer.finish()]
    counts = [
        {
            split: {"tokens": sum(writer.tokens), "bytes": writer.bytes, "documents": sum(writer.documents)}
            for split, writer in zip(_SPLITS, pair, strict=True)
        }
        for pair in writers
    ]
    return shards, counts


def _checkpoint(draft: Draft, writers: list[list[Writer]], source: int, taken: int, done: int) -> None:
    for pair in writers:
        for writer in pair:
            writer.sync()
    states = [[writer.state for writer in pair] for pair in writers]
    draft.save("progress.json", {"source": source, "taken": taken, "characters": done, "writers": states})


def _sum(counts: list[dict[str, int]]) -> dict[str, int]:
    return {name: sum(count[name] for count in counts) for name in counts[0]}
