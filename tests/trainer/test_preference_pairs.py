import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from scripted import Scripted

from trainer import linear_cross_entropy
from trainer.architecture import Architecture
from trainer.chat import Message, PlainTemplate
from trainer.data import Corpus
from trainer.generation import SamplingParams
from trainer.linear_cross_entropy import IGNORED
from trainer.model import HybridLM
from trainer.options import Rule
from trainer.preference import logprobs
from trainer.preference.batches import encode, kept_reference, logprobs_of
from trainer.preference.judges import (
    Case,
    Comparison,
    RuleJudge,
    Verified,
    Vote,
)
from trainer.preference.judges.rules import number
from trainer.preference.logprobs import answer_nats
from trainer.preference.pairs import make_pairs, revised
from trainer.preference.rollouts import Answered
from trainer.preference.rows import Pair, PreferenceError, read_cases, read_pairs, written

_CASE = Case((Message(role="user", content="2+3="),), "5")


_GREEDY = SamplingParams(max_tokens=8)


def test_answers_in_chunks_have_the_values_and_gradients_of_whole_logits(
    tiny: Architecture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (linear_cross_entropy, logprobs):
        monkeypatch.setattr(module, "most_rows", lambda vocab_size: 5)
    model = HybridLM(tiny, seed=3)
    generator = torch.Generator().manual_seed(1)
    inputs, targets = torch.randint(0, 300, (2, 2, 23), generator=generator)
    documents = (torch.arange(23) > 9).long().expand(2, -1)
    targets[:, ::3] = IGNORED
    slopes = torch.randn(2, 23, generator=generator)  # each token has its own: a loss of sums is not a mean
    asked = targets != IGNORED
    right = targets.clamp(min=0)[..., None]
    whole = -model(inputs, documents=documents).log_softmax(-1).gather(-1, right)[..., 0] * asked
    found = answer_nats(model, inputs, targets, documents)
    assert torch.allclose(found, whole, atol=1e-5)
    ours, expected = (torch.autograd.grad((n * slopes).sum().tanh(), list(model.parameters())) for n in (found, whole))
    for one, other in zip(ours, expected, strict=True):
        assert (one - other).abs().max() <= 1e-5 * (1 + other.abs().max())


def test_a_pair_in_one_row_has_the_log_probabilities_of_its_answers_alone(
    corpus: Corpus, tiny: Architecture, tmp_path: Path
) -> None:
    template, model = PlainTemplate(corpus.tokenizer), HybridLM(tiny, seed=3)
    pairs = [
        Pair((Message(role="user", content="def f"),), "(self):", "x" * 30, rejected_cut=True),
        Pair((Message(role="system", content="Be brief."), Message(role="user", content="Why?")), "", "Because."),
    ]
    expected = torch.zeros(2, 2)
    for row, pair in enumerate(pairs):
        prompt = template.encode(pair.prompt)
        for side, (text, cut) in enumerate(((pair.chosen, pair.chosen_cut), (pair.rejected, pair.rejected_cut))):
            answer = [*corpus.tokenizer.encode(text).ids, *([] if cut else [corpus.end_of_text])]
            logits = model(torch.tensor([[*prompt, *answer]]))[0].log_softmax(-1)
            expected[row, side] = sum(logits[len(prompt) - 1 + at, token].item() for at, token in enumerate(answer))
    rows = encode(pairs, template, 128)
    assert torch.allclose(logprobs_of(model, rows), expected, atol=1e-4)
    file = tmp_path / "reference.safetensors"
    kept = kept_reference(file, model, rows, {"of": "this"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainer.preference.batches.logprobs_of", None)  # nothing is computed twice
        assert torch.equal(kept_reference(file, model, rows, {"of": "this"}), kept)
    with pytest.raises(PreferenceError, match="another round"):
        kept_reference(file, model, rows, {"of": "that"})
    file.write_bytes(file.read_bytes()[:-1] + b"\x11")
    with pytest.raises(PreferenceError, match="damaged"):
        kept_reference(file, model, rows, {"of": "this"})
    with pytest.raises(PreferenceError, match="none of 2 pairs fits"):
        encode(pairs, template, 16)


def test_the_best_is_set_against_the_worst_where_they_are_apart_and_the_judge_stands_by_it() -> None:
    class Twice(RuleJudge):
        """Says the contrary when it is shown both answers to 1+1."""

        def compare(self, asked: Sequence[tuple[Case, str, str]]) -> list[Comparison]:
            return [Comparison((Vote(-1 if case.messages[0].content == "1+1=" else 1),)) for case, _, _ in asked]

    judge = Twice([Rule(rule="number"), Rule(rule="length", words=1)])
    cases = [_CASE, Case((Message(role="user", content="1+1="),), "2"), Case((Message(role="user", content="Hi"),))]
    answers = [["4", "it is 5", "5", "5"], ["2", "3"], ["a b", "a"]]
    groups = [[Answered(text, "student", text == "4") for text in group] for group in answers]
    judged, figures = make_pairs(cases, groups, judge, margin=0.3)
    pairs = [pair for _, pair in judged]
    assert [(pair.chosen, pair.rejected, pair.chosen_cut, pair.rejected_cut) for pair in pairs] == [
        ("5", "4", False, True)
    ]
    assert (figures["pairs"], figures["too_close"], figures["withdrawn"], figures["unmarked"]) == (1, 1, 1, 0)
    better = revised(
        judged, Scripted(lambda question, _: "It is 5"), RuleJudge([Rule(rule="length", words=3)]), _GREEDY
    )
    assert (better[0].chosen, better[0].provenance["revised_from"]) == ("It is 5", "5")
    assert revised(judged, Scripted(lambda question, _: "6"), RuleJudge([Rule(rule="exact")]), _GREEDY) == pairs


def test_a_right_answer_is_better_than_a_wrong_one_whatever_the_judge_likes() -> None:
    wordy = RuleJudge([Rule(rule="length", words=6)])  # likes the wrong one
    said = [[Answered("five", "a"), Answered("it is six, of course it is", "b"), Answered("5", "a")]]
    assert make_pairs([_CASE], said, wordy, margin=0.1)[0][0][1].chosen.startswith("it is six")
    judge = Verified(wordy, number)
    ((case, pair),), figures = make_pairs([_CASE], said, judge, margin=0.1, overruling=number)
    assert (case, pair.chosen, pair.rejected) == (_CASE, "5", "five")
    assert (figures["judge/verified"], figures["judge/agreement"]) == (1, 0)


def test_pairs_and_prompts_come_from_files_as_they_were_written(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    pairs = [Pair(_CASE.messages, "5\n\u2028", "", rejected_cut=True, provenance={"judge": "rules", "expected": "5"})]
    file.write_text(written(pairs))
    assert read_pairs(file) == pairs
    file.write_text('{"prompt": "2+3=", "chosen": "5", "rejected": [{"role": "assistant", "content": "4"}]}\n')
    assert read_pairs(file) == [Pair(_CASE.messages, "5", "4")]
    chat = {"messages": [{"role": "user", "content": "2+3="}, {"role": "assistant", "content": "5"}], "answer": "5"}
    file.write_text(json.dumps(chat) + "\n\n" + json.dumps({"prompt": "2+3=", "answer": "5"}))
    assert read_cases(file) == [_CASE]
    for line, why in (
        (b'{"prompt": "a", "chosen": "b", "rejected": "b"}', "the same"),
        (b'{"prompt": "a", "chosen": ["b"], "rejected": "c"}', "message 1 is no object"),
        (b'{"prompt": [{"role": "root", "content": "a"}], "chosen": "b", "rejected": "c"}', "unknown role: message 1"),
        (b'{"prompt": " ", "chosen": "b", "rejected": "c"}', "message 1 says nothing"),
        (b'{"prompt": "\\ud800", "chosen": "b", "rejected": "c"}', "half a surrogate"),
        (b'{"prompt": "\xff"}', "not UTF-8"),
        (b'{"prompt": "' + b"a" * (10 << 20), "longer than 4 MiB"),
        (b"[1]", "no object"),
    ):
        file.write_bytes(b"\n" + line)
        with pytest.raises(PreferenceError, match=f"line 2: .*{why}"):
            read_pairs(file)
