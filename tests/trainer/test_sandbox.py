"""The sandbox: what others' code may do, which is next to nothing, and that it cannot talk its tests into passing."""

import socket
import tempfile
from pathlib import Path
from uuid import uuid4

import pytest

from trainer.sandbox import program, run


@pytest.mark.parametrize(
    "code",
    [
        "raise SystemExit(0)",
        "import os; os._exit(0)",
        "open('/etc/passwd').read()",
        f"open({str(Path(__file__))!r}).read()",
        "open('NEW', 'w')",
        "import os; os.fork()",
        "import threading; threading.Thread(target=print).start()",
        "import socket; socket.create_connection(('127.0.0.1', PORT), timeout=5)",
        "x = bytearray(1 << 30)",
        "while True: pass",
        "while True: print('x' * 10_000)",
        "assert not __import__('os').environ.get('FULCRUM_SECRET'); 1 / 0",
    ],
)
def test_code_is_shut_in(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FULCRUM_SECRET", "yes")
    new = Path(tempfile.gettempdir()) / f"fulcrum-{uuid4()}"  # where anybody may write
    with socket.create_server(("127.0.0.1", 0)) as listener:
        known = code.replace("PORT", str(listener.getsockname()[1])).replace("NEW", str(new))
        ran = run(known, seconds=1, memory=256 << 20)
    assert not ran.passed
    assert "ConnectionRefused" not in ran.why
    assert not new.exists()


TESTS = "assert f(2) == 4\nassert f(3) == 6"


@pytest.mark.parametrize(
    ("code", "passes"),
    [
        ("def f(x): return 2 * x", True),
        ("def f(x): return x + 2", False),
        # It prints whatever it finds, in its frames too: there is no seal in its process.
        (
            "import sys\nframe = sys._getframe()\nwhile frame:\n    print(frame.f_locals)\n    frame = frame.f_back\n"
            "import os; sys.stdout.flush(); os._exit(0)",
            False,
        ),
        ("class A(int):\n    def __eq__(self, other): return True\ndef f(x): return A()", False),
        ("class A:\n    def __eq__(self, other): return True\ndef f(x): return A()", False),
        ("import sys\ndef f(x): sys.exit(0)", False),
        ("import os\ndef f(x): os._exit(0)", False),
        ("import os\n[os.write(n, b'[]\\n') for n in range(3, 60) if os.path.exists(f'/proc/self/fd/{n}')]", False),
        ("def f(x): raise StopIteration", False),
        ("f = 4", False),
        ("__builtins__ = AssertionError = None\nassert_ = print\ndef f(x): return 0", False),
    ],
)
def test_an_answer_passes_by_what_it_returns(code: str, passes: bool) -> None:
    assert run(code, TESTS, seconds=2).passed == passes


def test_values_cross_as_they_are() -> None:
    code = """
import math
from collections import Counter
class Stack:
    def __init__(self): self.items = []
    def push(self, item): self.items.append(item); return self
def same(x): return x
def fail(): raise KeyError("k")
def count(n):
    for i in range(n): yield i
def often(text): return Counter(text)
class Own(ValueError): pass
def own(): raise Own("mine")
abs = lambda x: 0
"""
    tests = """
values = [frozenset(),
1, -2.5, float("inf"), "\\u00e9\\n", b"\\x00", None, True, (1, (2,)), {3, 4}, {(1, 2): [3]}, 2j, 10**50]
for value in values:
    assert same(value) == value and type(same(value)) is type(value)
assert Stack().push(3).push("a").items == [3, "a"]
assert list(count(3)) == [0, 1, 2]
assert often("aab") == {"a": 2, "b": 1}
assert math.gcd(4, 6) == 2 and abs(-3) == 3
for what, kind in ((fail, KeyError), (own, ValueError)):
    try:
        what()
    except kind:
        continue
    raise AssertionError(what)
stack = Stack()
assert same(x=stack).push(1) is not None and stack.items == [1]
"""
    ran = run(code, tests)
    assert ran.passed, ran.why
    assert "KeyError" in run(code, "fail()").why
    assert "ended" not in run("1 / 0", "f()").why
    assert "ZeroDivisionError" in run("1 / 0", "f()").why


def test_the_program_of_an_answer() -> None:
    assert program("so:\n```python\na = 1\n```\nor\n```\na = 2\n```\n.") == "a = 2\n"
    assert program("a = 3") == "a = 3"
