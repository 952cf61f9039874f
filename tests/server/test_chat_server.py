"""OpenAI's own client against `fulcrum chat serve`: one process of a tiny model for the whole module."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import openai
import pytest
from openai import OpenAI
from speaking import tiny_checkpoint
from starlette.testclient import TestClient
from typer.testing import CliRunner

from server.chat.app import create_chat_app
from server.chat.desk import Desk, Served
from server.cli.main import application
from server.settings import Settings
from trainer.chat import PlainTemplate
from trainer.checkpoint import Checkpoint
from trainer.generation import Engine

MODEL, SLOTS, QUEUE, CONTEXT = "tiny", 4, 6, 40_000
SYSTEM = "You are the assistant of the system, and you answer the user. " * 6
ASK: Any = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "Hello?"}]
_PATIENCE, _ENDLESS = 120.0, 30_000  # seconds that anything may take; tokens of answers that would take much longer


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return tiny_checkpoint(tmp_path_factory.mktemp("sealed"))


@pytest.fixture(scope="module")
def server(checkpoint: Checkpoint) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    command = ["chat", "serve", str(checkpoint.directory), "--port", "0", "--name", MODEL, "--context", str(CONTEXT)]
    command += ["--max-batch", str(SLOTS), "--queue", str(QUEUE)]
    process = subprocess.Popen(
        [sys.executable, "-c", "from server.cli import main; main()", *command],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    words = process.stdout.readline().split()
    assert words[:3] == [MODEL, "talks", "on"]
    yield words[3], process
    process.kill()
    process.wait()


@pytest.fixture(scope="module")
def client(server: tuple[str, object]) -> OpenAI:
    return OpenAI(base_url=server[0], api_key="none", max_retries=0, timeout=_PATIENCE)


def test_the_model_is_listed(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).owned_by == "fulcrum"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("another")


def test_a_chat_is_answered(client: OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=ASK, max_completion_tokens=12, temperature=0)
    (choice,) = answer.choices
    assert (choice.message.role, choice.finish_reason) == ("assistant", "length")
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 12
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 12


def test_a_stream_says_what_the_whole_answer_says(client: OpenAI) -> None:
    asked: Any = {"model": MODEL, "messages": ASK, "max_tokens": 20, "temperature": 0.9, "seed": 5, "n": 2}
    whole = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    for index, choice in enumerate(whole.choices):
        of_choice = [each for chunk in chunks for each in chunk.choices if each.index == index]
        assert "".join(each.delta.content or "" for each in of_choice) == choice.message.content
        assert of_choice[0].delta.role == "assistant"
        assert [each.finish_reason for each in of_choice if each.finish_reason] == [choice.finish_reason]
    assert whole.choices[0].message.content != whole.choices[1].message.content
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert len({chunk.id for chunk in chunks}) == 1


def test_an_equal_seed_gives_an_equal_answer(client: OpenAI) -> None:
    def said(seed: int | None) -> str | None:
        answer = client.chat.completions.create(model=MODEL, messages=ASK, max_tokens=16, temperature=1, seed=seed)
        return answer.choices[0].message.content

    assert said(3) == said(3) != said(4)
    assert said(-1) == said(-1)
    assert said(None) != said(None)


def test_a_stop_text_ends_the_answer_and_is_left_out(client: OpenAI) -> None:
    asked: Any = {"model": MODEL, "prompt": "Hello", "max_tokens": 40, "temperature": 0}
    free = client.completions.create(**asked).choices[0].text
    stop = free[len(free) // 2 :][:2]
    for stops in (stop, [stop, "never said"]):
        choice = client.completions.create(**asked, stop=stops).choices[0]
        assert (choice.text, choice.finish_reason) == (free[: free.index(stop)], "stop")
    streamed = client.completions.create(**asked, stop=stop, stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == free[: free.index(stop)]


def test_completions_take_several_prompts_texts_and_tokens(client: OpenAI, checkpoint: Checkpoint) -> None:
    answer = client.completions.create(model=MODEL, prompt=["Hello", "I am"], n=2, max_tokens=4, echo=True, seed=1)
    texts = [choice.text for choice in answer.choices]
    assert [text.startswith(("Hello", "I am")[i // 2]) for i, text in enumerate(texts)] == [True] * 4
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    tokens = [0, *checkpoint.tokenizer.encode("Hello").ids]
    asked: Any = {"model": MODEL, "max_tokens": 8, "temperature": 0}
    as_tokens = client.completions.create(**asked, prompt=tokens)
    assert as_tokens.choices[0].text == client.completions.create(**asked, prompt="Hello").choices[0].text
    assert as_tokens.usage is not None
    assert as_tokens.usage.prompt_tokens == len(tokens)


def test_probabilities_are_told(client: OpenAI) -> None:
    asked: Any = {"model": MODEL, "max_tokens": 5, "temperature": 0}
    chat = client.chat.completions.create(**asked, messages=ASK, logprobs=True, top_logprobs=3).choices[0].logprobs
    assert chat is not None
    assert chat.content is not None
    assert len(chat.content) == 5
    for said in chat.content:
        assert len(said.top_logprobs) == 3
        assert said.logprob == said.top_logprobs[0].logprob < 0  # greedy takes the likeliest
    plain = client.completions.create(**asked, prompt="Hello", logprobs=2).choices[0].logprobs
    assert plain is not None
    assert plain.token_logprobs is not None
    assert plain.top_logprobs is not None
    assert [max(beside.values()) for beside in plain.top_logprobs] == pytest.approx(plain.token_logprobs)
    bias = client.completions.create(**asked, prompt="Hello", logprobs=0, logit_bias={"65": 100}).choices[0]
    assert bias.logprobs is not None
    assert bias.logprobs.tokens is not None
    assert len(set(bias.logprobs.tokens)) == 1


def test_eight_that_share_a_system_prompt_read_it_once(client: OpenAI, server: tuple[str, object]) -> None:
    system = "A prompt that nobody else in this module has sent to the assistant. " * 5

    def ask(number: int) -> tuple[int, int]:
        messages: Any = [{"role": "system", "content": system}, {"role": "user", "content": f"Question {number}"}]
        used = client.chat.completions.create(model=MODEL, messages=messages, max_tokens=4).usage
        assert used is not None
        assert used.prompt_tokens_details is not None
        return used.prompt_tokens, used.prompt_tokens_details.cached_tokens or 0

    before = httpx2.get(f"{server[0]}/cache").json()
    with ThreadPoolExecutor(8) as pool:
        used = list(pool.map(ask, range(8)))
    assert sum(cached > 0 for _, cached in used) >= 7
    assert all(cached < prompt for prompt, cached in used)
    after = httpx2.get(f"{server[0]}/cache").json()
    assert after["saved_tokens"] - before["saved_tokens"] == sum(cached for _, cached in used)
    assert 0 < after["hit_rate"] <= 1
    _wait_until(server[0], lambda state: state["unanswered"] == 0)


@pytest.mark.parametrize(
    ("change", "words", "code"),
    [
        ({"messages": []}, "messages", "too_short"),
        ({"messages": [{"role": "oracle", "content": "x"}]}, "messages.0.role", "literal_error"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content", None),
        ({"temperature": 3}, "temperature", "less_than_equal"),
        ({"tools": []}, "tools: this server does not know", "extra_forbidden"),
        ({"max_tokens": CONTEXT}, "exceed the context of", "context_length_exceeded"),
        ({"messages": [{"role": "user", "content": "hi " * 100_000}]}, "exceed", "context_length_exceeded"),
        ({"stop": ""}, "stop", None),
    ],
)
def test_a_request_that_cannot_be_is_a_bad_request(
    client: OpenAI, change: dict[str, Any], words: str, code: str | None
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**({"model": MODEL, "messages": ASK, "max_tokens": 4} | change))
    assert words in caught.value.message
    assert caught.value.type == "invalid_request_error"
    if code:
        assert caught.value.code == code


def test_other_errors_have_their_own_exceptions(client: OpenAI, server: tuple[str, object]) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(model="gpt", messages=ASK)
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.RateLimitError) as busy:
        client.completions.create(model=MODEL, prompt="x", n=SLOTS + QUEUE + 1)
    assert "answers" in busy.value.message
    with pytest.raises(openai.BadRequestError, match="not one of the model"):
        client.completions.create(model=MODEL, prompt=[100_000])
    broken = httpx2.post(f"{server[0]}/completions", content=b"{", headers={"content-type": "application/json"})
    assert (broken.status_code, broken.json()["error"]["message"]) == (400, "the body is not JSON")
    elsewhere = httpx2.get(f"{server[0]}/nothing")
    assert (elsewhere.status_code, elsewhere.json()["error"]["type"]) == (404, "invalid_request_error")
    foreign = httpx2.get(f"{server[0]}/models", headers={"host": "evil.example"})
    assert foreign.status_code == 421
    assert "error" in foreign.json()


@pytest.mark.parametrize("stream", [True, False])
def test_who_hangs_up_is_answered_no_further(client: OpenAI, server: tuple[str, object], stream: bool) -> None:
    address = httpx2.URL(server[0])
    body = json.dumps({"model": MODEL, "prompt": "Hello", "max_tokens": _ENDLESS, "n": SLOTS + QUEUE, "stream": stream})
    request = "POST /v1/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    with socket.create_connection((address.host, address.port), timeout=_PATIENCE) as connection:
        connection.sendall(f"{request}content-length: {len(body)}\r\n\r\n{body}".encode())
        if stream:
            connection.recv(100)
        else:
            _wait_until(server[0], lambda state: state["unanswered"] > 0)
    _wait_until(server[0], lambda state: state["unanswered"] == 0)
    client.completions.create(model=MODEL, prompt="Hello", max_tokens=1)


def test_beyond_loopback_a_token_is_asked_for(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FULCRUM_TOKEN", raising=False)
    refused = CliRunner().invoke(application(), ["chat", "serve", str(checkpoint.directory), "--host", "0.0.0.0"])
    assert getattr(refused.exception, "slug", None) == "insecure-settings"
    tokenizer = checkpoint.tokenizer
    desk = Desk(Engine(checkpoint.model(), slots=1), Served(MODEL, tokenizer, PlainTemplate(tokenizer), 0), 0)
    asked = TestClient(create_chat_app(desk, Settings.model_validate({"host": "0.0.0.0", "token": "secret"})))
    without = asked.get("/v1/models")
    assert (without.status_code, without.json()["error"]["code"]) == (401, "invalid_api_key")
    assert asked.get("/v1/models", headers={"authorization": "Bearer secret"}).status_code == 200


def test_a_signal_ends_streams_and_then_the_server(client: OpenAI, server: tuple[str, "subprocess.Popen[str]"]) -> None:
    """The last of the module: the server is gone after it."""
    asked: Any = {"model": MODEL, "prompt": "Hello", "max_tokens": _ENDLESS, "n": SLOTS + QUEUE}
    stream = iter(client.completions.create(**asked, stream=True))
    next(stream)
    server[1].send_signal(signal.SIGTERM)
    with pytest.raises(openai.APIError, match="shutting down"):
        list(stream)
    assert server[1].wait(timeout=_PATIENCE) == 0


def _wait_until(address: str, wanted: Any) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not wanted(httpx2.get(f"{address}/cache").json()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
