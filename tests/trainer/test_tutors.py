"""Tutors against real peers: an HTTP server that misbehaves, our own server's app, and transformers."""

import email.utils
import json
import os
import pickle
import signal
import socket
import ssl
import struct
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

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
        EndpointOptions.model_validate({"url": f"http://127.0.0.1:{port}/v1", "model": "larger", **options}),
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


def _torn(handler: BaseHTTPRequestHandler, head: bytes, body: bytes = b"") -> None:
    """What no HTTP library would send, and the end of the connection."""
    handler.wfile.write(head + b"\r\n\r\n" + body)
    handler.wfile.flush()
    handler.connection.shutdown(socket.SHUT_RDWR)


def _reset(handler: BaseHTTPRequestHandler) -> None:
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


_OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
_FAULTS: dict[str, Callable[[BaseHTTPRequestHandler], None]] = {
    "chunks that end in the middle": lambda h: _torn(h, _OK + b"transfer-encoding: chunked", b'40\r\n{"choices": ['),
    "less than was announced": lambda h: _torn(h, _OK + b"content-length: 4000", said("half")),
    "a broken compression": lambda h: _torn(h, _OK + b"content-encoding: gzip", b"\x1f\x8b nonsense"),
    "no HTTP": lambda h: _torn(h, b"SSH-2.0-OpenSSH_9.2"),
    "a reset": _reset,
    "a gateway's page": lambda h: send(h, 502, b"<html>Bad gateway</html>", "text/html"),
    "a stream": lambda h: send(h, 200, b"data: {}\n\n", "text/event-stream"),
    "an error with status 200": lambda h: send(h, 200, b'{"error": {"message": "overloaded", "code": 529}}'),
    "an answer broken off": lambda h: send(h, 200, said("half an", finish="abort")),
    "too soon": lambda h: send(h, 425, b""),
    "too often, absurdly": lambda h: send(h, 429, b"{}", retry_after="nan"),
    "too often, for no known time": lambda h: send(h, 429, b"{}", retry_after="soon"),
    "too often, since the past": lambda h: send(h, 429, b"{}", retry_after="Wed, 21 Oct 2015 07:28:00 GMT"),
}


@pytest.mark.parametrize("fault", _FAULTS)
def test_a_fault_that_passes_costs_a_retry_and_no_answer(fault: str) -> None:
    def say(found: Peer, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        if len(found.asked) < 3:
            _FAULTS[fault](handler)
        else:
            echo(found, handler, body)

    clock = HurriedClock()
    with peer(say) as found:
        tutor = endpoint(found.port, clock=clock)
        assert texts(tutor, [question("hello")]) == [["hello/0"]]
    assert tutor.usage.retries == 2
    assert 0.5 <= clock.waits[0] <= 1 <= clock.waits[1] <= 2


def test_a_date_to_come_back_at_is_kept_and_one_beyond_the_patience_ends_at_once() -> None:
    def later(seconds: float) -> str:
        return email.utils.formatdate(time.time() + seconds, usegmt=True)

    def say(found: Peer, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        if len(found.asked) == 1:
            send(handler, 503, b"", retry_after=later(100))
        elif body["messages"][0]["content"] == "never":
            send(handler, 429, b"", retry_after=later(1e6))
        else:
            echo(found, handler, body)

    clock = HurriedClock()
    with peer(say) as found:
        texts(endpoint(found.port, clock=clock), [question("hello")])
        assert 98 <= clock.waits[0] <= 110
        with pytest.raises(TutorError, match=r"tried 1 times in 0 s, and asks to wait \d{6,7} s more"):
            texts(endpoint(found.port), [question("never")])


def _choice(message: dict[str, Any] | None, finish: str | None = "stop", **more: Any) -> dict[str, Any]:
    return {"choices": [{"message": message, "finish_reason": finish}], **more}


_COUNTED: dict[str, Any] = {"usage": {"prompt_tokens": 7, "completion_tokens": 3}}
_MUTE = "it says nothing"


@pytest.mark.parametrize(
    ("told", "answer"),
    [
        (_choice({"content": "Hi", "reasoning_content": "hm"}, **_COUNTED), Answer("Hi", 3, "stop", 7)),
        (_choice({"content": None, "reasoning_content": "hm"}, "length", **_COUNTED), Answer("", 3, "length", 7)),
        (_choice({"reasoning": "hm"}, "MAX_TOKENS", **_COUNTED), Answer("", 3, "length", 7)),
        (_choice({"content": None}, **_COUNTED), Answer("", 3, "refused", 7, why=_MUTE)),
        (_choice({"tool_calls": [{}]}, "tool_calls"), Answer("", 0, "refused", 2, why=_MUTE)),
        (_choice({"content": None}, "content_filter"), Answer("", 0, "filtered", 2)),
        (_choice({"content": None, "refusal": "No."}), Answer("No.", 1, "filtered", 2)),
        (_choice({"content": "Hi"}, None), Answer("Hi", 1, "stop", 2)),
        (_choice({"content": "Hi"}, "eos", usage=None, model="another"), Answer("Hi", 1, "stop", 2)),
        (_choice({"content": "Hi"}, usage={"prompt_tokens": -1, "completion_tokens": "3"}), Answer("Hi", 1, "stop", 2)),
        (_choice({"content": [{"type": "thinking"}, {"type": "text", "text": "Hi"}]}), Answer("Hi", 1, "stop", 2)),
        (_choice({"content": "a\ud800b"}), Answer("a?b", 1, "stop", 2)),
    ],
)  # fmt: skip
def test_what_vendors_make_of_an_answer(told: dict[str, Any], answer: Answer) -> None:
    with peer(lambda _, handler, __: send(handler, 200, json.dumps(told).encode())) as found:
        assert next(endpoint(found.port).ask([question("hello")])) == (0, [answer])


def test_a_model_that_never_says_anything_ends_the_run_and_keeps_the_bill() -> None:
    told = json.dumps(_choice({"content": None}, **_COUNTED)).encode()
    with peer(lambda _, handler, __: send(handler, 200, told)) as found:
        tutor = endpoint(found.port, concurrency=1)
        with pytest.raises(TutorError, match="refuses every question: it says nothing"):
            texts(tutor, [question(f"q{number}") for number in range(9)])
    assert tutor.usage.cost == pytest.approx(8 * (7 * 1 + 3 * 10) / 1e6)


def test_a_body_without_end_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.tutors.endpoint._MOST_BYTES", 1 << 16)

    def say(found: Peer, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        handler.send_response(200)
        handler.send_header("content-type", "application/json")
        handler.end_headers()
        while True:
            handler.wfile.write(b" " * 4096)

    with peer(say) as found, pytest.raises(TutorError, match=r"more than 0 MiB for one answer, 4 times"):
        texts(endpoint(found.port), [question("hello")])


def test_a_certificate_that_nobody_vouches_for_ends_at_once(tmp_path: Path) -> None:
    _certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    with peer(echo) as found:
        found.server.socket = context.wrap_socket(found.server.socket, server_side=True)
        tutor = endpoint(found.port, url=f"https://127.0.0.1:{found.port}/v1")
        with pytest.raises(TutorError, match="no certificate that is trusted"):
            texts(tutor, [question("hello")])
    with peer(echo) as found, pytest.raises(TutorError, match=r"SSL.*tried \d+ times"):  # plain HTTP, spoken to in TLS
        texts(endpoint(found.port, url=f"https://127.0.0.1:{found.port}/v1"), [question("hello")])
    assert not found.asked


def _certificate(folder: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(1))
    encoding = serialization.Encoding.PEM
    (folder / "cert.pem").write_bytes(made.sign(key, hashes.SHA256()).public_bytes(encoding))
    shape, nothing = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(encoding, shape, nothing))


def test_a_key_that_a_server_quotes_gets_nowhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Not into answers, the cache or a log, not half of it where a complaint is cut, nor what a traceback shows."""
    caplog.set_level(0)
    odd = "sk-with\\back'slash\""

    def say(found: Peer, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        sent = handler.headers["authorization"].removeprefix("Bearer ")
        if body["messages"][0]["content"] == "answer":
            send(handler, 200, said(f"You are {sent}"))
        elif body["messages"][0]["content"] == "refuse":
            send(handler, 400, json.dumps({"error": {"message": "x" * 285 + f" {sent}\x1b[2J\ud800"}}).encode())
        elif body["messages"][0]["content"] == "enter":
            send(handler, 401, json.dumps({"got": {"the key": sent}}).encode())
        else:
            send(handler, 404, b"")

    for key in (KEY, odd):
        with peer(say) as found:
            options = EndpointOptions(url=f"http://127.0.0.1:{found.port}/v1", model="larger")
            tutor = Endpoint(options, key=Secret(key, "a test"), cache=AnswerCache(tmp_path), clock=HurriedClock())
            answers = dict(tutor.ask([question("answer"), question("refuse")]))
            assert answers[0][0].text == "You are [secret]"
            assert answers[1][0].why.startswith("xxx")
            assert "\x1b" not in answers[1][0].why
            answers[1][0].why.encode()
            with pytest.raises(TutorError, match="does not let us in") as raised:
                texts(tutor, [question("enter")])
            with pytest.raises(TutorError, match="is not there") as lost:
                texts(tutor, [question("where?")])
        frames = traceback.TracebackException.from_exception(lost.value, capture_locals=True).stack
        ours = str([(frame.name, frame.locals) for frame in frames if frame.filename != __file__])
        assert "_refusal" in ours
        kept = "".join(path.read_text() for path in tmp_path.rglob("*.json"))
        for text in (str(answers), str(raised.value), ours, kept, caplog.text, repr(vars(tutor))):
            assert key[:12] not in text
            assert repr(key)[1:-1] not in text
            assert json.dumps(key)[1:-1] not in text


def test_a_kill_while_answers_are_kept_leaves_whole_ones_and_processes_share_them(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path)
    expected = {number: Answer(f"{number}" * 50_000, 1, "stop") for number in range(10)}
    children = []
    for _ in range(2):
        child = os.fork()
        if child == 0:
            while True:
                for number, answer in expected.items():
                    cache.put({"q": number}, answer)
        children.append(child)
    try:
        deadline = time.monotonic() + 30
        while cache.get({"q": 9}) is None and time.monotonic() < deadline:
            time.sleep(0.01)
        for _ in range(20):
            assert {number: cache.get({"q": number}) for number in expected} == expected
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    assert {number: AnswerCache(tmp_path).get({"q": number}) for number in expected} == expected
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(TutorError, match="cannot be kept"):
        AnswerCache(tmp_path / "file").put({"q": 1}, expected[1])


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
