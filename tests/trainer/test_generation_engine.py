import threading

import pytest
import torch
from tokenizers import Tokenizer

from trainer.architecture import Architecture
from trainer.data import Corpus
from trainer.errors import ContextOverflow
from trainer.generation import (
    EmptyPrompt,
    Engine,
    NoTokenizer,
    NotReproducible,
    SamplingParams,
    UnknownToken,
    rollouts,
    rows,
)
from trainer.generation.prefix import Entry, PrefixCache
from trainer.model import HybridLM


@pytest.fixture(scope="module")
def model(tiny: Architecture) -> HybridLM:
    model = HybridLM(tiny, seed=4).eval()
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(20)
    return model


@pytest.fixture(scope="module")
def tokenizer(corpus: Corpus) -> Tokenizer:
    return corpus.tokenizer


_WILD = SamplingParams(temperature=8.0, max_tokens=40)


@pytest.mark.parametrize(
    ("prompt", "params", "error", "named"),
    [
        ([], SamplingParams(), EmptyPrompt, "no tokens"),
        ([1] * 1_000_000, SamplingParams(), ContextOverflow, "1000000 tokens .* context of 200"),
        ([1] * 200, SamplingParams(), ContextOverflow, "200 tokens of prompt"),
        ([1] * 150, SamplingParams(max_tokens=51), ContextOverflow, "51 of answer"),
        ([1, 300], SamplingParams(), UnknownToken, "token 300 .* 300"),
        ([1, -1], SamplingParams(), UnknownToken, "token -1"),
        ([1], SamplingParams(stop=("x",)), NoTokenizer, "stop"),
    ],
    ids=["empty", "a million", "full", "too much asked", "unknown", "negative", "no tokenizer"],
)
def test_a_bad_request_is_refused_and_nothing_is_lost(
    model: HybridLM, prompt: list[int], params: SamplingParams, error: type[Exception], named: str
) -> None:
    engine = Engine(model, context=200)
    running = engine.submit([5, 6, 7], SamplingParams(max_tokens=5))
    engine.step()
    with pytest.raises(error, match=named):
        engine.submit(prompt, params)
    assert len(running.result().tokens) == 5


def test_an_answer_ends_at_the_context_at_its_limit_and_at_stop_tokens(model: HybridLM) -> None:
    engine = Engine(model, context=60)
    whole = engine.submit(range(20), _WILD.model_copy(update={"max_tokens": None})).result()
    assert (len(whole.tokens), whole.finish) == (40, "length")
    stop = whole.tokens[9]
    cut = engine.submit(range(20), _WILD.model_copy(update={"stop_tokens": (stop,)})).result()
    assert (cut.tokens, cut.finish) == (whole.tokens[: whole.tokens.index(stop)], "stop")
    none = engine.submit(range(20), SamplingParams(max_tokens=0)).result()
    assert (none.tokens, none.finish) == ([], "length")


def test_text_comes_as_it_becomes_readable_and_ends_before_a_stop_text(model: HybridLM, tokenizer: Tokenizer) -> None:
    engine = Engine(model, tokenizer=tokenizer)
    handle = engine.submit([5, 6, 7], _WILD)
    events = list(handle)
    assert list(handle) == []
    assert handle.result().tokens == [event.token for event in events]
    tokens = [event.token for event in events]
    text = tokenizer.decode(tokens)
    assert "".join(event.text for event in events) == text
    assert len(text) > 20
    stop = text[12:15]
    answer = engine.submit([5, 6, 7], _WILD.model_copy(update={"stop": (stop,)})).result()
    assert (answer.text, answer.finish) == (text[: text.index(stop)], "stop")
    assert answer.tokens == tokens[: len(answer.tokens)]


def test_cancelled_requests_end_and_give_their_places_back(model: HybridLM) -> None:
    engine = Engine(model, slots=1)
    running, waiting, last = (engine.submit([number, 8, 9], _WILD) for number in range(3))
    for _ in range(5):
        engine.step()
    running.cancel()
    waiting.cancel()
    assert len(last.result().tokens) == 40
    assert (running.result().finish, len(running.result().tokens)) == ("cancelled", 5)
    assert (waiting.result().finish, waiting.result().tokens) == ("cancelled", [])
    assert not engine.step()


def test_requests_from_many_threads_are_answered_as_one_by_one(model: HybridLM) -> None:
    prompts = [[number, *range(40)] for number in range(6)]
    alone = [Engine(model).submit(prompt, _WILD).result().tokens for prompt in prompts]
    engine, got = Engine(model, slots=3), {}

    def ask(number: int) -> None:
        got[number] = engine.submit(prompts[number], _WILD).result().tokens

    with engine.serving():
        threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [got[number] for number in range(6)] == alone


def test_leaving_the_service_ends_what_is_unanswered(model: HybridLM) -> None:
    engine = Engine(model, context=100_000)
    with engine.serving():
        handle = engine.submit([1, 2], SamplingParams())
        next(iter(handle))
    assert handle.result().finish == "cancelled"
    assert engine.submit([1, 2], SamplingParams(max_tokens=3)).result().finish == "length"


def test_a_fault_reaches_everyone_who_waits_and_the_next_request_is_answered(
    model: HybridLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(model)
    with monkeypatch.context() as patch:
        patch.setattr(engine._decoder, "forward", lambda plan: 1 / 0)
        with engine.serving():
            handles = [engine.submit([1, 2, number], _WILD) for number in range(3)]
            for handle in handles:
                for _ in range(2):
                    with pytest.raises(ZeroDivisionError):
                        handle.result()
    assert len(engine.submit([1, 2], _WILD).result().tokens) == 40


def test_rollouts_are_groups_with_the_probabilities_of_the_sampler(model: HybridLM) -> None:
    params = SamplingParams(temperature=2.0, top_k=20, max_tokens=8, seed=3)
    heard: list[tuple[int, int]] = []
    prompts = [[1, 2, 3], list(range(50)), [7]]
    engine = Engine(model)
    found = rollouts(engine, prompts, params, 4, heard=lambda *told: heard.append(told))
    assert heard[-1] == (12, 12)
    assert [len(group) for group in found] == [4, 4, 4]
    assert rollouts(Engine(model), prompts, params, 4) == found
    for answer in (answer for group in found for answer in group):
        assert len(answer.sampler_logprobs) == len(answer.tokens) == 8
        assert all(-20 < logprob <= 0 for logprob in answer.sampler_logprobs)
    with pytest.raises(EmptyPrompt):
        rollouts(engine, [[1], []], params, 2)
    assert engine.submit([1], params).result().finish == "length"


def test_a_machine_whose_products_depend_on_their_rows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def depends(x: torch.Tensor) -> torch.Tensor:
        return x + 1 / len(x)

    with pytest.raises(NotReproducible, match="depends on its rows"):
        rows._smallest(depends, 32, "cpu")
    assert rows._smallest(lambda x: x + len(x) % 8, 32, "cpu") == 8
    assert [rows.padded(count, 4) for count in (1, 4, 5, 21, 128)] == [4, 4, 8, 24, 128]


def _entry(size: int) -> Entry:
    return Entry([], torch.zeros(size, dtype=torch.uint8))


def test_eviction_takes_the_longest_unused_leaf_that_nobody_holds() -> None:
    cache = PrefixCache(30, block=2)
    first = cache.insert(None, 0, [1, 2], _entry(10))
    second = cache.insert(first, 2, [3, 4], _entry(10))
    other = cache.insert(None, 0, [5, 6], _entry(10))
    cache.hold(second)
    assert cache.insert(None, 0, [7, 8], _entry(10)) is not None  # `other` goes: the older two are held
    assert cache.match([5, 6], cache.chain([5, 6])) is None
    assert cache.match([1, 2, 3, 4, 9], cache.chain([1, 2, 3, 4, 9])) is second
    assert cache.insert(None, 0, [5, 6], _entry(20)) is None
    assert (cache.statistics.refused, cache.statistics.evictions, cache.statistics.bytes) == (1, 2, 20)
    cache.release(second)
    assert cache.insert(None, 0, [5, 6], _entry(30)) is not None
    assert cache.match([1, 2], cache.chain([1, 2])) is None
    assert other is not None


def test_a_match_ends_at_a_block_or_at_the_longest_tail() -> None:
    cache = PrefixCache(1_000, block=4)
    block = cache.insert(None, 0, [1, 2, 3, 4], _entry(1))
    short = cache.insert(block, 4, [5], _entry(1))
    longer = cache.insert(block, 4, [5, 6, 7], _entry(1))
    for tokens, expected in [
        ([1, 2, 3, 4, 5, 6, 7, 8, 9], longer),
        ([1, 2, 3, 4, 5, 6, 7], longer),
        ([1, 2, 3, 4, 5, 6], short),
        ([1, 2, 3, 4, 6], block),
        ([1, 2, 3], None),
    ]:
        assert cache.match(tokens, cache.chain(tokens)) is expected
    other = PrefixCache(1_000, block=4, identity="another model")
    assert other.chain([1, 2, 3, 4]) != cache.chain([1, 2, 3, 4])
