"""A request on its way through the engine."""

import hashlib
from array import array
from collections.abc import Sequence as Tokens
from dataclasses import dataclass, field

from torch import Tensor

from trainer.generation.params import SamplingParams
from trainer.generation.plan import TILE
from trainer.generation.prefix import Node
from trainer.generation.requests import Event, Finish, Handle
from trainer.generation.sampling import Choice
from trainer.generation.text import TextStream


@dataclass(eq=False)
class Sequence:
    """Tokens known, tokens read into its slot, and whom to tell of new ones."""

    handle: Handle
    params: SamplingParams
    prompt: list[int]
    limit: int
    """Tokens that the answer may have."""
    chain: list[bytes]
    """Keys of the prompt's blocks and tail in the prefix cache."""
    text: TextStream | None
    slot: int = -1
    read: int = 0
    """Positions whose state is in the slot."""
    node: Node | None = None
    """The whole block of the cache that its next block would follow; held while the request is active."""
    known: Tensor | None = None
    """The hidden state [width] after the prompt, where the cache had it all."""
    last: Tensor | None = None
    """The hidden state [width] after what was read last."""
    answer: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tiles = _tile_keys(self.prompt)

    @property
    def prefilling(self) -> bool:
        """Whether part of the prompt is still unread."""
        return self.read < len(self.prompt)

    def pending(self, most: int) -> tuple[int, ...]:
        """The next tokens to read, at most so many; the last token of the answer is among them."""
        if self.prefilling:
            return tuple(self.prompt[self.read : self.read + most])
        return tuple(self.answer[self.read - len(self.prompt) :][:most])

    def tokens(self, start: int, end: int) -> list[int]:
        """Positions [start, end) of prompt and answer."""
        prompt = len(self.prompt)
        return self.prompt[start:end] + self.answer[max(0, start - prompt) : max(0, end - prompt)]

    def shares(self, other: "Sequence") -> int:
        """Positions, in whole tiles, in which both prompts begin alike."""
        tiles = 0
        for mine, theirs in zip(self.tiles, other.tiles, strict=False):
            if mine != theirs:
                break
            tiles += 1
        return tiles * TILE

    def awaits(self, other: "Sequence", matched: int, block: int) -> bool:
        """Whether `other`, which is reading its prompt, will soon have read more of this one's than the cache had."""
        common = 0
        for mine, theirs in zip(self.chain, other.chain, strict=False):
            if mine != theirs:
                break
            common += 1
        ends_alike = common == len(self.chain) == len(other.chain)
        return ends_alike or (common > matched and other.read < common * block)

    def take(self, choice: Choice) -> Finish | None:
        """Add a token, or end with it."""
        if choice.token in self.params.stop_tokens:
            self.handle.completion.ended_by = (choice.token, choice.sampler_logprob)
            return self.end("stop")
        self.answer.append(choice.token)
        text = self.text.push(choice.token) if self.text else ""
        finish: Finish | None = None
        if self.text and self.text.stopped:
            finish = "stop"
        elif len(self.answer) >= self.limit:
            finish = "length"
            text += self.text.flush() if self.text else ""
            finish = "stop" if self.text and self.text.stopped else finish
        logprobs = (choice.logprob, choice.sampler_logprob, choice.top)
        self.handle.tell(Event(self.handle.id, choice.token, *logprobs, text=text, finish=finish))
        return finish

    def end(self, finish: Finish) -> Finish:
        """End without another token."""
        text = self.text.flush() if self.text else ""
        self.handle.tell(Event(self.handle.id, None, text=text, finish=finish))
        return finish


def _tile_keys(tokens: Tokens[int]) -> list[bytes]:
    keys, key = [], b""
    for start in range(0, len(tokens) - TILE + 1, TILE):
        key = hashlib.sha256(key + array("q", tokens[start : start + TILE]).tobytes()).digest()
        keys.append(key)
    return keys
