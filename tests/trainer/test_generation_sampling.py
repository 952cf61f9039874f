"""transformers' logits processors judge the sampler's; its randomness is judged by counting."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from trainer.generation import SamplingParams
from trainer.generation.sampling import choose, distribution, draw, penalised, seed_of_sample, uniform

_VOCABULARY = 50


def _logits(seed: int) -> Tensor:
    return 3 * torch.randn(_VOCABULARY, generator=torch.Generator().manual_seed(seed))


def _theirs(logits: Tensor, params: SamplingParams, tokens: list[int]) -> Tensor:
    processors = LogitsProcessorList()
    if params.logit_bias:
        processors.append(SequenceBiasLogitsProcessor([[[token], bias] for token, bias in params.logit_bias]))
    if params.no_repeat_ngram:
        processors.append(NoRepeatNGramLogitsProcessor(params.no_repeat_ngram))
    if params.repetition_penalty != 1:
        processors.append(RepetitionPenaltyLogitsProcessor(params.repetition_penalty))
    processors.append(TemperatureLogitsWarper(params.temperature))
    if params.min_p:
        processors.append(MinPLogitsWarper(params.min_p))
    if params.top_k:
        processors.append(TopKLogitsWarper(params.top_k))
    if params.top_p < 1:
        processors.append(TopPLogitsWarper(params.top_p))
    return torch.log_softmax(processors(torch.tensor([tokens]), logits[None].clone())[0], dim=-1)


def _ours(logits: Tensor, params: SamplingParams, tokens: list[int]) -> Tensor:
    logprobs, kept = distribution(penalised(logits, params, tokens, []), params)
    if kept is None:
        return logprobs
    return torch.full((_VOCABULARY,), -torch.inf).scatter(0, kept, logprobs)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10_000),
    tokens=st.lists(st.integers(0, 5), min_size=1, max_size=12),
    params=st.builds(
        SamplingParams,
        temperature=st.sampled_from([0.3, 1.0, 1.7]),
        top_k=st.sampled_from([0, 1, 5, 49, 50, 80]),
        top_p=st.sampled_from([1.0, 0.95, 0.5, 0.01]),
        min_p=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
        repetition_penalty=st.sampled_from([1.0, 1.3, 0.8]),
        no_repeat_ngram=st.sampled_from([0, 1, 2, 3]),
        logit_bias=st.sampled_from([(), ((3, 2.5), (4, -100.0))]),
    ),
)
def test_distributions_are_those_of_transformers(seed: int, tokens: list[int], params: SamplingParams) -> None:
    logits = _logits(seed)
    expected, got = _theirs(logits, params, tokens), _ours(logits, params, tokens)
    assert torch.equal(expected.isfinite(), got.isfinite())
    assert torch.allclose(got, expected, atol=1e-5)


def test_presence_and_frequency_follow_openai() -> None:
    logits = _logits(1)
    params = SamplingParams(presence_penalty=0.5, frequency_penalty=0.25)
    expected = logits.clone()
    expected[7] -= 0.5 + 3 * 0.25
    expected[9] -= 0.5 + 0.25
    assert torch.allclose(penalised(logits, params, [1, 2, 3], [7, 9, 7, 7]), expected)
    assert torch.equal(penalised(logits, params, [7, 9], []), logits)


def test_draws_have_the_frequencies_of_the_distribution() -> None:
    logprobs, tokens = distribution(_logits(2), SamplingParams(temperature=1.5, top_k=8))
    drawn = [draw(logprobs, tokens, uniform(11, index)) for index in range(4_000)]
    assert tokens is not None
    chi2 = 0.0
    for token, logprob in zip(tokens.tolist(), logprobs.tolist(), strict=True):
        expected = 4_000 * math.exp(logprob)
        chi2 += (sum(d[0] == token for d in drawn) - expected) ** 2 / expected
    assert chi2 < 24.3  # 7 degrees of freedom, p = 0.001; the draws are fixed by the seed
    assert all(d[1] == pytest.approx(logprobs[(tokens == d[0])].item()) for d in drawn)


def test_a_draw_never_leaves_the_distribution() -> None:
    logprobs = torch.log(torch.tensor([0.0, 0.25, 0.0, 0.75, 0.0]))
    assert [draw(logprobs, None, u)[0] for u in (0.0, 0.2499, 0.25, 0.9999999)] == [1, 1, 3, 3]


def test_greedy_takes_the_lowest_of_equals_and_reports_the_likeliest() -> None:
    logits = torch.zeros(5)
    logits[[2, 4]] = 1
    penalty = SamplingParams(repetition_penalty=5.0)
    choice, banned = choose(logits.expand(2, -1), [(SamplingParams(logprobs=2), [0], []), (penalty, [2], [1])])
    assert choice.token == 2
    assert choice.sampler_logprob == 0
    assert choice.logprob == pytest.approx(1 - math.log(3 + 2 * math.e))
    assert {token for token, _ in choice.top} == {2, 4}
    assert banned.token == 4


def test_seeds_of_samples_differ_and_the_first_is_the_requests_own() -> None:
    seeds = {seed_of_sample(5, sample) for sample in range(50)}
    assert len(seeds) == 50
    assert seed_of_sample(5, 0) == 5
    assert all(SamplingParams(seed=seed) for seed in seeds)
    assert uniform(1, 2) != uniform(2, 1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1},
        {"temperature": math.nan},
        {"top_p": 0},
        {"min_p": 2},
        {"repetition_penalty": 0},
        {"max_tokens": -1},
        {"stop": ("",)},
        {"seed": -1},
        {"unheard_of": 3},
    ],
    ids=str,
)
def test_impossible_parameters_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        SamplingParams(**wrong)
