"""How tests in one process use an answer in another: a line of JSON for every call, and one for what came of it.

So an answer can do nothing to its tests but return values. Plain values are copied, by what they are and not by what
they say of themselves; anything else of the answer is a reference, which can be called, read and walked through.
The cell runs this file before its own. Standard library only, on its own feet.
"""

import builtins
import importlib
import json
import types
from typing import Any, BinaryIO

_LONGEST = 1 << 24  # bytes of a line
_SIZED: dict[str, Any] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}


class Theirs:
    """In the tests' process, something of the answer. Never equal to anything else, whatever it claims."""

    def __init__(self, line: "Line", number: int) -> None:
        self.__dict__.update({"_line": line, "_number": number})

    def __call__(self, *args: Any, **named: Any) -> Any:
        """As the answer's own does."""
        return self._line.ask(self, "__call__", args, named)

    def __getattr__(self, name: str) -> Any:
        return self._line.ask(self, "__getattribute__", (name,), {})

    def __iter__(self) -> Any:
        return self._line.ask(self, "__iter__", (), {})

    def __next__(self) -> Any:
        return self._line.ask(self, "__next__", (), {})

    def __len__(self) -> Any:
        return self._line.ask(self, "__len__", (), {})

    def __getitem__(self, key: Any) -> Any:
        return self._line.ask(self, "__getitem__", (key,), {})

    def __str__(self) -> Any:
        return self._line.ask(self, "__str__", (), {})

    def __bool__(self) -> bool:
        return True


class Line:
    """One end of it. Both raise EOFError where the other one is gone."""

    def __init__(self, reads: int, writes: int) -> None:
        self._reads: BinaryIO = open(reads, "rb")  # noqa: SIM115  # as long as the process
        self._writes: BinaryIO = open(writes, "wb", buffering=0)  # noqa: SIM115
        self._objects: list[Any] = []

    # The answer's

    def serve(self, names: dict[str, Any]) -> None:
        """Say what there is, then do as asked for as long as someone asks."""
        self._say([[name, self._written(value)] for name, value in names.items()])
        while True:
            number, method, args, named = self._heard()
            given = self._read(args), {name: self._read(value) for name, value in named}
            try:
                found = self._objects[number]
                if not hasattr(found, method):
                    raise TypeError(f"{type(found).__name__} has no {method}")  # which `list` takes for an answer
                bound = found if method == "__call__" else getattr(found, method)
                self._say(["returned", self._written(bound(*given[0], **given[1]))])
            except BaseException as wrong:
                known = next(kind for kind in type(wrong).__mro__ if kind.__module__ == "builtins")
                self._say(["raised", [known.__name__, str(wrong)[:2000]]])

    # The tests'

    def names(self) -> dict[str, Any]:
        """What the answer defines, but for names that mean something without it."""
        heard = [(str(name), value) for name, value in self._heard()]
        ours = {name for name, _ in heard if name.startswith("__") or hasattr(builtins, name)}
        return {name: self._read(value) for name, value in heard if name not in ours}

    def ask(self, what: Theirs, method: str, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """What a method of the answer's gives; raises what it raises, as the kind of builtin exception that it is."""
        said = [[name, self._written(value)] for name, value in named.items()]
        self._say([what._number, method, self._written(args), said])
        how, value = self._heard()
        if how == "returned":
            return self._read(value)
        kind = getattr(builtins, value[0], None)
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            kind = RuntimeError
        try:
            raised = kind(value[1])
        except TypeError:  # one that wants more than words
            raised = RuntimeError(value[1])
        raise raised

    # Both

    def _say(self, message: Any) -> None:
        rest = memoryview(json.dumps(message).encode() + b"\n")
        try:
            while rest:
                rest = rest[self._writes.write(rest) :]
        except BrokenPipeError:
            raise EOFError("the answer ended") from None

    def _heard(self) -> Any:
        line = self._reads.readline(_LONGEST)
        if not line.endswith(b"\n"):
            raise EOFError("the answer ended")
        return json.loads(line)

    def _written(self, value: Any) -> Any:
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, Theirs):
            return ["theirs", value._number]
        if isinstance(value, bytes):
            return ["bytes", value.hex()]
        if isinstance(value, complex):
            return ["complex", value.real, value.imag]
        if isinstance(value, types.ModuleType):
            return ["module", value.__name__]
        if isinstance(value, dict):
            return ["dict", *([self._written(key), self._written(item)] for key, item in value.items())]
        for name, kind in _SIZED.items():
            if isinstance(value, kind):
                return [name, *(self._written(item) for item in value)]
        self._objects.append(value)
        return ["object", len(self._objects) - 1]

    def _read(self, value: Any) -> Any:
        if not isinstance(value, list):
            return value
        name, *items = value
        if name in _SIZED:
            return _SIZED[name](map(self._read, items))
        match name:
            case "dict":
                return {self._read(key): self._read(item) for key, item in items}
            case "bytes":
                return bytes.fromhex(items[0])
            case "complex":
                return complex(*items)
            case "module":
                return importlib.import_module(items[0])
            case "theirs":
                return self._objects[items[0]]
        return Theirs(self, int(items[0]))
