"""Text out of tokens as they come: never half a character, and never the beginning of a stop text."""

import codecs
from collections.abc import Sequence

from tokenizers import Tokenizer


class TokenBytes:
    """The bytes that each token of a byte-level BPE stands for; special tokens stand for none."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._added = tokenizer.get_added_tokens_decoder()

    def __call__(self, token: int) -> bytes:
        """Of one id; unused ids stand for nothing."""
        if token in self._added:
            added = self._added[token]
            return b"" if added.special else str(added.content).encode()
        name = self._tokenizer.id_to_token(token)
        if name is None:
            return b""
        if all(character in _BYTES for character in name):
            return bytes(_BYTES[character] for character in name)
        return str(name).encode()  # as the tokenizer's own decoder does with what is outside its alphabet


class TextStream:
    """Decodes one answer token by token. A token may end inside a UTF-8 character; what is none becomes U+FFFD."""

    def __init__(self, token_bytes: TokenBytes, stops: Sequence[str] = ()) -> None:
        self._token_bytes = token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._stops = stops
        self._held = ""  # readable, but perhaps the beginning of a stop text
        self.stopped = False

    def push(self, token: int) -> str:
        """What became readable; when a stop text is complete, what precedes it, and `stopped` is set."""
        return self._release(self._decoder.decode(self._token_bytes(token)))

    def flush(self) -> str:
        """What is left at the end."""
        text = self._release(self._decoder.decode(b"", final=True))
        if not self.stopped:
            text, self._held = text + self._held, ""
        return text

    def _release(self, text: str) -> str:
        self._held += text
        found = [(self._held.index(stop), stop) for stop in self._stops if stop in self._held]
        if found:
            self.stopped = True
            text, self._held = self._held[: min(found)[0]], ""
            return text
        keep = max((_overlap(self._held, stop) for stop in self._stops), default=0)
        cut = len(self._held) - keep
        text, self._held = self._held[:cut], self._held[cut:]
        return text


def _overlap(text: str, stop: str) -> int:
    """The longest beginning of `stop` that `text` ends with."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)


def _byte_level_alphabet() -> dict[str, int]:
    """Character -> byte of byte-level BPE (GPT-2's encoder.py): printable bytes are themselves, the rest follow 255."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    rest = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + i): byte for i, byte in enumerate(rest)}


_BYTES = _byte_level_alphabet()
