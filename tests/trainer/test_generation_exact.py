"""What the engine answers is a function of prompt and parameters alone: bit for bit, whatever surrounds a request.

The judge is the same engine without a cache, asked one request at a time; and the plain model for the numbers.
"""

from dataclasses import dataclass, replace
from functools import cache

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trainer.architecture import Architecture, Attention, ShortConv
from trainer.generate import teacher_forced
from trainer.generation import Completion, Engine, Event, Handle, SamplingParams
from trainer.model import HybridLM
from trainer.quantise import quantised

_VOCABULARY = 61
_ALL = {"logprobs": 64}  # more than there are tokens: every event carries all of the logits
_CONTEXT = 700
_OPERATORS = {
    "c": ShortConv(),
    "d": ShortConv(kernel=5),
    "a": Attention(heads=4, kv_heads=2, head_dim=16),
    "m": Attention(heads=2, kv_heads=2, head_dim=16),
}
_PATTERNS = ("c", "a", "cd", "am", "ca", "adc")


@cache
def _model(pattern: str, rounds: bool = False) -> HybridLM:
    blocks = tuple(_OPERATORS[kind] for kind in pattern)
    model = HybridLM(Architecture(vocab_size=_VOCABULARY, width=32, ffn_width=64, blocks=blocks), seed=4).eval()
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(20)
        model.model.embedding_norm.weight.fill_(1)  # narrow models begin louder
    return quantised(model) if rounds else model


def _tokens(seed: int, count: int) -> list[int]:
    return torch.randint(0, _VOCABULARY, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


@dataclass(frozen=True)
class _Request:
    prompt: tuple[int, ...]
    params: SamplingParams
    steps_before: int
    cancelled_after: int | None


@st.composite
def _streams(draw: st.DrawFn) -> list[_Request]:
    """Requests that begin alike, continue or edit earlier ones, come at any time, and are sometimes abandoned."""
    known = [tuple(_tokens(seed, draw(st.sampled_from([150, 300, 5])))) for seed in range(2)]
    requests = []
    for number in range(draw(st.integers(3, 8))):
        start = draw(st.sampled_from(known))
        kept = draw(st.sampled_from([len(start), len(start) // 2 + 1, min(len(start), 128), 1]))
        prompt = start[:kept] + tuple(_tokens(100 + number, draw(st.sampled_from([9, 0, 1, 33]))))
        known.append(prompt)
        params = SamplingParams(
            max_tokens=draw(st.sampled_from([9, 1, 4])),
            temperature=draw(st.sampled_from([0, 1.0])),
            seed=number % 3,
            **_ALL,
        )
        cancelled = draw(st.sampled_from([None, None, None, 0, 2]))
        requests.append(_Request(prompt, params, draw(st.sampled_from([0, 0, 0, 6])), cancelled))
    return requests


def _answers(engine: Engine, stream: list[_Request]) -> list[list[Event]]:
    handles: list[Handle] = []
    for request in stream:
        for _ in range(request.steps_before):
            engine.step()
        handles.append(engine.submit(request.prompt, request.params))
    for number, request in enumerate(stream):
        if request.cancelled_after is not None:
            for _ in range(request.cancelled_after):
                engine.step()
            handles[number].cancel()
    engine.run()
    return [list(handle) for handle in handles]


def _alone(pattern: str, request: _Request) -> list[Event]:
    engine = Engine(_model(pattern), context=_CONTEXT, slots=1, cache_bytes=0)
    return list(engine.submit(request.prompt, request.params))


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    pattern=st.sampled_from(_PATTERNS),
    stream=_streams(),
    slots=st.sampled_from([16, 4, 1]),
    block=st.sampled_from([1, 7, 32, 128]),
    chunk=st.sampled_from([128, 64, 13]),
    cache_bytes=st.sampled_from([1 << 20, 40_000, 3_000, 0]),
)
def test_neither_cache_nor_company_nor_chunks_change_a_bit(
    pattern: str, stream: list[_Request], slots: int, block: int, chunk: int, cache_bytes: int
) -> None:
    engine = Engine(_model(pattern), context=_CONTEXT, slots=slots, block=block, chunk=chunk, cache_bytes=cache_bytes)
    answers = _answers(engine, stream)
    assert engine.statistics.bytes <= cache_bytes
    for request, events in zip(stream, answers, strict=True):
        expected = _alone(pattern, request)
        if events[-1].finish == "cancelled":
            expected = expected[: len(events) - 1]
            events = events[:-1]
        assert [(e.token, e.logprob, e.sampler_logprob, e.top, e.finish) for e in events] == [
            (e.token, e.logprob, e.sampler_logprob, e.top, e.finish) for e in expected
        ]
    _nothing_is_held(engine)


@pytest.mark.parametrize("pattern", ["am", "adc"])
def test_rows_that_share_a_prefix_are_attended_together_and_stay_the_same(pattern: str) -> None:
    first, second, third = _tokens(1, 300), _tokens(2, 200), _tokens(3, 150)
    prompts = [
        [*first, 1],
        [*first, 2, 3],
        [*first[:140], 4],
        [*second, 5],
        [*second, 6],
        [*third, 7],
        [8],
        [9],
        second,
    ]
    params = [SamplingParams(max_tokens=21 - 2 * i, temperature=8.0, seed=i, **_ALL) for i in range(len(prompts))]
    engine = Engine(_model(pattern), context=_CONTEXT)
    handles = [engine.submit(*asked) for asked in zip(prompts, params, strict=True)]
    shared = set()
    while engine.step():
        assert engine._planner._runs is not None
        shared |= {(run.count, run.shared) for run in engine._planner._runs[1]}
    assert {(3, 128), (2, 256), (2, 128)} <= shared
    assert any(count > 1 and tokens == 0 for count, tokens in shared)
    for prompt, how, handle in zip(prompts, params, handles, strict=True):
        assert list(handle) == [
            replace(event, request=handle.id) for event in _alone(pattern, _Request(tuple(prompt), how, 0, None))
        ]


def _nothing_is_held(engine: Engine) -> None:
    nodes = list(engine._memory.cache._nodes.values())
    assert all(node.pins == 0 for node in nodes)
    assert sum(node.entry.bytes for node in nodes) == engine.statistics.bytes
    assert len(nodes) == engine.statistics.nodes
    for node in nodes:
        assert node.children == sum(other.parent is node for other in nodes)
        assert node.parent is None or node.parent in nodes


@pytest.mark.parametrize("rounds", [False, True])
@pytest.mark.parametrize("pattern", ["cd", "am", "adc"])
def test_the_engine_computes_what_the_model_does(pattern: str, rounds: bool) -> None:
    model = _model(pattern, rounds)
    prompts = [[*_tokens(1, 140), *_tokens(seed, 20)] for seed in range(4)]
    engine = Engine(model, context=_CONTEXT)
    params = [SamplingParams(max_tokens=40, temperature=temperature, **_ALL) for temperature in (0, 0, 8, 8)]
    handles = [engine.submit(prompt, how) for prompt, how in zip(prompts, params, strict=True)]
    for prompt, handle, how in zip(prompts, handles, params, strict=True):
        events = list(handle)
        tokens = [event.token for event in events if event.token is not None]
        judged = torch.log_softmax(teacher_forced(model, prompt, tokens), dim=-1)
        ours = torch.tensor([[logprob for _, logprob in sorted(event.top)] for event in events])
        assert (ours - judged).abs().median() < 1e-5
        # Rounded activations jump by a whole step where the order of sums moves one across a boundary.
        assert (ours - judged).abs().max() < (0.5 if rounds else 1e-4)
        assert len(set(tokens)) > 10 or how.temperature == 0
        assert rounds or how.temperature or judged.argmax(dim=-1).tolist() == tokens


def test_a_group_reads_its_prompt_once_and_each_answer_is_its_own() -> None:
    model = _model("adc")
    prompt = _tokens(5, 300)
    params = SamplingParams(max_tokens=20, temperature=1.0, seed=7)
    engine = Engine(model, context=_CONTEXT, slots=4)
    group = [handle.result() for handle in engine.submit_group(prompt, params, 8)]
    assert [answer.cached_tokens for answer in group] == [0] + [300] * 7
    assert len({tuple(answer.tokens) for answer in group}) == 8
    without = Engine(model, context=_CONTEXT, slots=8, cache_bytes=0)
    again = [handle.result() for handle in without.submit_group(prompt, params, 8)]
    assert [_kept(answer) for answer in again] == [_kept(answer) for answer in group]


def _kept(answer: Completion) -> tuple[list[int], list[float], list[float]]:
    return answer.tokens, answer.logprobs, answer.sampler_logprobs


def test_the_next_turn_continues_where_the_last_one_ended() -> None:
    engine = Engine(_model("ca"), context=_CONTEXT)
    first = engine.submit(_tokens(1, 50), SamplingParams(max_tokens=21)).result()
    said = _tokens(1, 50) + first.tokens
    second = engine.submit([*said, *_tokens(2, 8)], SamplingParams(max_tokens=5)).result()
    assert second.cached_tokens == len(said) - 1  # the last token was said, and not read
    edited = engine.submit([*said[:60], *_tokens(3, 8)], SamplingParams(max_tokens=5)).result()
    assert edited.cached_tokens == 50  # the end of the first prompt
    alone = Engine(_model("ca"), context=_CONTEXT, cache_bytes=0)
    assert alone.submit([*said, *_tokens(2, 8)], SamplingParams(max_tokens=5)).result().tokens == second.tokens
