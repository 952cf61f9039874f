"""Tutors against real peers: an HTTP server that misbehaves, our own server's app, and transformers."""

import json
import pickle
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from server.chat.app import create_chat_app
from server.chat.desk import Desk, Served
from server.settings import Settings
from trainer.architecture import Architecture
from trainer.chat import Message, PlainTemplate
from trainer.checkpoint import Checkpoint, seal
from trainer.data import Corpus
from trainer.generation import Engine, SamplingParams
from trainer.hugging_face import save_hugging_face
from trainer.model import HybridLM
from trainer.tutors import Answer, Prices, Question, TutorError
from trainer.tutors.cache import AnswerCache
from trainer.tutors.checkpoint import OurTutor
from trainer.tutors.endpoint import Endpoint, EndpointOptions
from trainer.tutors.folder import FolderTutor
from trainer.tutors.pace import Clock
from trainer.tutors.secret import Secret

KEY = "sk-very-secret-1234"
Say = Callable[["Peer", BaseHTTPRequestHandler, dict[str, Any]], None]


class HurriedClock(Clock):
    """Waits are over at once, and the time is what they would have taken."""

    def __init__(self) -> None:
        self.waited = 0.0
        self.waits: list[float] = []

    def now(self) -> float:
        return self.waited

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.waited += seconds


class Peer:
    """A real HTTP server which says what a test wants; `asked` are the bodies it was sent, `most` how many at once."""

    def __init__(self, say: Say, port: int = 0) -> None:
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.now = self.most = 0
        lock, peer = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with lock:
                    peer.asked.append(body)
                    peer.headers.append({name.lower(): value for name, value in self.headers.items()})
                    peer.now += 1
                    peer.most = max(peer.most, peer.now)
                try:
                    say(peer, self, body)
                except OSError:
                    pass  # the client has gone
                finally:
                    with lock:
                        peer.now -= 1

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def send(
    handler: BaseHTTPRequestHandler, status: int, body: bytes, kind: str = "application/json", **headers: str
) -> None:
    handler.send_response(status)
    for name, value in {"content-type": kind, "content-length": str(len(body)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def said(text: str, finish: str = "stop") -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    return json.dumps({"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}).encode()


def echo(peer: Peer, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
    send(handler, 200, said(f"{body['messages'][-1]['content']}/{body['seed']}"))


def question(text: str, samples: int = 1, **sampling: Any) -> Question:
    return Question((Message(role="user", content=text),), SamplingParams(max_tokens=16, **sampling), samples)


@contextmanager
def peer(say: Say, port: int = 0) -> Iterator[Peer]:
    found = Peer(say, port)
    try:
        yield found
    finally:
        found.close()


def endpoint(port: int, *, cache: Path | None = None, clock: Clock | None = None, **options: Any) -> Endpoint:
    return Endpoint(
        EndpointOptions(url=f"http://127.0.0.1:{port}/v1", model="larger", **options),
        key=Secret(KEY, "a test"),
        cache=None if cache is None else AnswerCache(cache),
        prices=Prices(prompt=1.0, completion=10.0),
        clock=clock or HurriedClock(),
    )


def texts(tutor: Any, questions: list[Question]) -> list[list[str]]:
    found = {index: [answer.text for answer in answers] for index, answers in tutor.ask(questions)}
    return [found[index] for index in range(len(questions))]


def test_answers_are_kept_counted_and_not_asked_for_again(tmp_path: Path) -> None:
    questions = [question(f"q{number}", samples=2, seed=5) for number in range(12)]

    def slowly(found: Peer, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        time.sleep(0.01)
        echo(found, handler, body)

    with peer(slowly) as found:
        first = endpoint(found.port, cache=tmp_path, concurrency=3)
        asking = first.ask(questions)
        next(asking)
        asking.close()  # as a kill does: what came is kept
        paid = len(list(tmp_path.rglob("*.json")))
        assert 2 <= paid < 24
        again = endpoint(found.port, cache=tmp_path, concurrency=3)
        told = texts(again, questions)
        assert found.most == 3
    assert again.usage.cached == paid
    assert again.usage.answers == 24
    assert again.usage.cost == pytest.approx((24 - paid) * (7 * 1 + 3 * 10) / 1e6)
    assert [each[0] for each in told] == [f"q{number}/5" for number in range(12)]
    assert told[0][0] != told[0][1]  # the second sample has a seed of its own
    assert KEY not in "".join(path.read_text() for path in tmp_path.rglob("*.json"))

    kept = sorted(tmp_path.rglob("*.json"))
    kept[0].write_text(kept[0].read_text().replace("q", "r"))  # an answer that was altered
    kept[1].write_bytes(kept[1].read_bytes()[:40])  # one that was cut short
    with peer(echo) as found:
        healed = endpoint(found.port, cache=tmp_path)
        assert texts(healed, questions) == told
        assert len(found.asked) == 2


def test_what_passes_is_asked_again_as_late_as_the_peer_wants() -> None:
    def say(found: Peer, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        match len(found.asked):
            case 1:
                send(handler, 429, b'{"error": {"message": "slower"}}', retry_after="30")
            case 2:
                send(handler, 500, b"<h1>oops</h1>", "text/html")
            case 3:
                send(handler, 503, b"")
            case 4:
                handler.connection.shutdown(socket.SHUT_RDWR)
            case 5:
                time.sleep(0.5)
            case 6:
                send(handler, 200, b"<html>a proxy's page</html>", "text/html")
            case 7:
                send(handler, 200, b'{"choices": []}')
            case 8:
                handler.send_response(200)  # a body that drips never ends a wait for its next byte
                handler.send_header("content-type", "application/json")
                handler.end_headers()
                for _ in range(20):
                    handler.wfile.write(b" ")
                    handler.wfile.flush()
                    time.sleep(0.05)
            case _:
                echo(found, handler, body)

    clock = HurriedClock()
    with peer(say) as found:
        tutor = endpoint(found.port, clock=clock, timeout=0.25)
        assert texts(tutor, [question("hello")]) == [["hello/0"]]
    assert tutor.usage.retries == 8
    assert 30 <= clock.waits[0] <= 33
    for number, wait in enumerate(clock.waits[1:], start=2):
        assert 0.5 <= wait / min(60, 0.5 * 2**number) <= 1


def test_an_hour_without_the_endpoint_is_survived_by_the_patient() -> None:
    with peer(echo) as found:
        port = found.port
    opened: list[Peer] = []

    class Comeback(HurriedClock):
        async def sleep(self, seconds: float) -> None:
            await super().sleep(seconds)
            if self.waited > 3600 and not opened:
                opened.append(Peer(echo, port))

    try:
        with pytest.raises(TutorError, match=r"tried \d+ times in \d+ s"):
            texts(endpoint(port, patience=600), [question("anyone?")])
        assert texts(endpoint(port, clock=Comeback(), patience=2 * 3600), [question("anyone?")]) == [["anyone?/0"]]
    finally:
        for each in opened:
            each.close()


@pytest.mark.parametrize(
    ("status", "body", "kind", "words"),
    [
        (401, f'{{"error": {{"message": "Incorrect API key {KEY}"}}}}', "application/json", "does not let us in"),
        (404, '{"error": {"message": "no model larger"}}', "application/json", "no model larger"),
        (302, "", "text/plain", "redirects are not followed"),
        (429, '{"error": {"message": "pay", "code": "insufficient_quota"}}', "application/json", "used up"),
        (200, "{nonsense", "application/json", "no JSON"),
        (200, "fine", "text/plain", "not JSON"),
        (200, '{"choices": [{"message": {"content": 3}}]}', "application/json", "without text"),
        (200, "[" * 100_000, "application/json", "no JSON"),
    ],
)
def test_what_cannot_pass_ends_in_words_without_the_key(status: int, body: str, kind: str, words: str) -> None:
    with (
        peer(lambda found, handler, asked: send(handler, status, body.encode(), kind)) as found,
        pytest.raises(TutorError) as raised,
    ):
        texts(endpoint(found.port), [question("hello")])
    assert words in f"{raised.value.message} {raised.value.advice}"
    assert KEY not in f"{raised.value.message} {raised.value.__cause__!r} {raised.value.__context__!r}"


def test_a_refused_question_does_not_end_the_others_and_refusing_all_does() -> None:
    def say(found: Peer, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        if "max_tokens" in body:
            send(handler, 400, b'{"error": {"message": "use max_completion_tokens instead"}}')
        elif "long" in body["messages"][0]["content"]:
            send(handler, 400, b'{"error": {"message": "too many tokens"}}')
        else:
            echo(found, handler, body)

    with peer(say) as found:
        tutor = endpoint(found.port)
        answers = dict(tutor.ask([question("short"), question("long"), question("brief")]))
        assert [answers[index][0].finish for index in range(3)] == ["stop", "refused", "stop"]
        assert answers[1] == [Answer("", 0, "refused", why="too many tokens")]
        with pytest.raises(TutorError, match="refuses every question: too many tokens"):
            texts(endpoint(found.port), [question(f"long {number}") for number in range(9)])


def test_limits_a_minute_are_kept() -> None:
    for limits, minutes in (({"requests_per_minute": 5}, 3), ({"tokens_per_minute": 20}, 7)):
        clock = HurriedClock()
        with peer(echo) as found:
            tutor = endpoint(found.port, clock=clock, concurrency=1, **limits)
            texts(tutor, [question(f"q{number}") for number in range(16)])  # of 10 tokens each, once it is known
        assert 60 * minutes <= clock.waited <= 60 * (16 if "tokens_per_minute" in limits else minutes + 1)


def test_a_key_is_nowhere_to_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_text(f"{KEY}\n")
    monkeypatch.setenv("TUTOR", KEY)
    for secret in (Secret.from_file(tmp_path / "key"), Secret.from_environment("TUTOR")):
        assert KEY not in f"{secret} {secret!r}"
        with pytest.raises(TypeError):
            pickle.dumps(secret)
    with pytest.raises(ValueError, match="keys come from the environment"):
        EndpointOptions(url=f"http://user:{KEY}@example.org/v1", model="m")
    with pytest.raises(TutorError):
        Secret("two words", "a test")
    with peer(echo) as found:
        texts(endpoint(found.port), [question("hello")])
        assert found.headers[0]["authorization"] == f"Bearer {KEY}"


@pytest.fixture(scope="module")
def checkpoint(corpus: Corpus, tiny: Architecture, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return seal(HybridLM(tiny), tmp_path_factory.mktemp("sealed"), corpus.tokenizer)


@contextmanager
def served(checkpoint: Checkpoint) -> Iterator[int]:
    """The app of `fulcrum chat serve`, on a port of this host."""
    engine = Engine(checkpoint.model(), tokenizer=checkpoint.tokenizer, context=512)
    desk = Desk(engine, Served("larger", checkpoint.tokenizer, PlainTemplate(checkpoint.tokenizer), 0), waiting=8)
    with socket.socket() as listener, engine.serving():
        listener.bind(("127.0.0.1", 0))
        app = create_chat_app(desk, Settings(host="127.0.0.1", port=listener.getsockname()[1]))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


def test_a_model_says_the_same_behind_every_adapter(checkpoint: Checkpoint, tmp_path: Path) -> None:
    questions = [question("Who are you?"), question("def main(", samples=3, temperature=0.9, top_k=40, seed=11)]
    questions.append(question("long " * 600))
    ours = OurTutor.open(checkpoint.directory, context=512)
    expected = texts(ours, questions)
    assert len(set(expected[1])) == 3
    with served(checkpoint) as port:
        assert texts(endpoint(port), questions) == expected
    assert ours.usage.refused == 1

    save_hugging_face(checkpoint.model(), tmp_path / "lfm2", tokenizer=checkpoint.tokenizer)
    foreign = FolderTutor.open(tmp_path / "lfm2")
    assert texts(foreign, questions[:1]) == expected[:1]
    drawn = texts(foreign, [questions[1]] * 2)
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) == 3
