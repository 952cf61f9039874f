"""The engine: requests come in at any time, and every step reads the next tokens of all that are active.

Prompts are read in chunks beside the tokens of running answers (as in Sarathi, arXiv 2308.16369), first come first
served; a request whose prompt begins like one that is being read waits for it, and takes the rest from the cache.
"""

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Tokens
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from trainer.errors import ContextOverflow
from trainer.generation.batch import Planner
from trainer.generation.decoder import Decoder
from trainer.generation.errors import EmptyPrompt, NoTokenizer, UnknownToken
from trainer.generation.memory import Memory
from trainer.generation.params import SamplingParams
from trainer.generation.plan import Segment, whole_tiles
from trainer.generation.prefix import CacheStatistics, PrefixCache
from trainer.generation.requests import Handle
from trainer.generation.rows import MOST_ROWS, padded
from trainer.generation.sampling import choose, seed_of_sample
from trainer.generation.sequence import Sequence
from trainer.generation.text import TextStream, TokenBytes
from trainer.model import HybridLM

GREEDY = SamplingParams()


class Engine:
    """Answers many requests at once. Its weights are a copy: a model that was trained on needs a new engine."""

    def __init__(
        self,
        model: HybridLM,
        *,
        tokenizer: Tokenizer | None = None,
        context: int = 4096,
        slots: int = 16,
        cache_bytes: int = 256 << 20,
        block: int = 32,
        chunk: int = MOST_ROWS,
    ) -> None:
        """Prepare a model.

        Args:
            model: computed in float32, whatever the type of its weights.
            tokenizer: gives events their text; needed for stop texts.
            context: positions that prompt and answer together may have; memory grows as they are used.
            slots: requests that are active at once; others wait.
            cache_bytes: budget of the prefix cache, 0 for none. Active requests have their state besides.
            block: tokens of a block of the cache.
            chunk: most tokens of a prompt that are read in one step.

        Raises:
            NotReproducible: see there.
        """
        if not (1 <= slots < MOST_ROWS and chunk >= 1 and block >= 1 and context >= 1 and cache_bytes >= 0):
            raise ValueError("an engine has 1 to 127 slots, and chunk, block and context of at least 1")
        self.context = context
        self.slots = slots
        self._vocabulary = model.architecture.vocab_size
        self._chunk = chunk
        self._decoder = Decoder(model, whole_tiles(context))
        self._threads = torch.get_num_threads()
        cache = PrefixCache(cache_bytes, block, model.architecture.hash)
        self._memory = Memory(self._decoder.states, cache, slots, context)
        self._planner = Planner(self._decoder.device)
        self._token_bytes = None if tokenizer is None else TokenBytes(tokenizer)
        self._active: dict[int, Sequence] = {}  # by slot
        self._order: list[Sequence] = []  # active ones whose prompt is being read, first come first
        self._waiting: deque[Sequence] = deque()
        self._inbox: queue.SimpleQueue[Sequence] = queue.SimpleQueue()
        self._cancelled: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._submitted = self.answered = 0
        self._lock = threading.RLock()  # of a step
        self._news = threading.Condition()
        self._thread: threading.Thread | None = None

    @property
    def statistics(self) -> CacheStatistics:
        """Of the prefix cache, as it is now."""
        return self._memory.cache.statistics

    def submit(self, prompt: Tokens[int], params: SamplingParams = GREEDY) -> Handle:
        """Queue a request; from any thread.

        Raises:
            EmptyPrompt: no prompt.
            UnknownToken: an id outside the vocabulary.
            ContextOverflow: prompt and answer do not fit the context.
            NoTokenizer: stop texts without a tokenizer.
        """
        limit = self._limit(prompt, params)
        tokens = [int(token) for token in prompt]
        with self._news:
            number = self._submitted
            self._submitted += 1
        handle = Handle(number, len(tokens), self._drive, lambda: self._cancel(number))
        text = TextStream(self._token_bytes, params.stop) if self._token_bytes else None
        self._inbox.put(Sequence(handle, params, tokens, limit, self._memory.cache.chain(tokens), text))
        with self._news:
            self._news.notify_all()
        return handle

    def submit_group(self, prompt: Tokens[int], params: SamplingParams, samples: int) -> list[Handle]:
        """`samples` answers to one prompt, which is read once; their seeds are derived from params.seed.

        Raises:
            see `submit`.
        """
        seeds = (seed_of_sample(params.seed, sample) for sample in range(samples))
        return [self.submit(prompt, params.model_copy(update={"seed": seed})) for seed in seeds]

    def run(self, heard: Callable[[int, int], None] | None = None) -> None:
        """Step until every request is answered; `heard` is told (answered, submitted) after each step."""
        while self.step():
            if heard:
                heard(self.answered, self._submitted)

    @contextmanager
    def serving(self) -> Iterator[None]:
        """A thread steps the engine while the context is open; leaving it cancels what is unanswered."""
        stop = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(stop,), name="generation", daemon=True)
        self._thread.start()
        try:
            yield
        finally:
            stop.set()
            with self._news:
                self._news.notify_all()
            self._thread.join()
            self._thread = None
            self._abandon(None)

    def step(self) -> bool:
        """One forward pass over what is active; False when there was nothing to do."""
        with self._lock, torch.inference_mode():
            try:
                return self._step()
            except Exception as wrong:  # whatever it is, those who wait must hear of it
                self._abandon(wrong)
                raise

    def _step(self) -> bool:
        self._admit()
        self._drop_cancelled()
        if not self._active:
            return False
        self._check_threads()
        self._sample(self._forward())
        return True

    def _limit(self, prompt: Tokens[int], params: SamplingParams) -> int:
        if len(prompt) == 0:
            raise EmptyPrompt("the prompt has no tokens", advice="start with the end-of-text token or with some text")
        room = self.context - len(prompt)
        limit = room if params.max_tokens is None else params.max_tokens
        if room < max(1, limit):
            raise ContextOverflow(
                f"{len(prompt)} tokens of prompt and {max(1, limit)} of answer exceed the context of {self.context}",
                advice="shorten the prompt, ask for fewer tokens, or make the context larger",
            )
        if not 0 <= min(prompt) <= max(prompt) < self._vocabulary:
            wrong = next(token for token in prompt if not 0 <= token < self._vocabulary)
            raise UnknownToken(
                f"token {wrong} is not one of the model's {self._vocabulary}",
                advice="use the tokenizer that belongs to the model",
            )
        if params.stop and self._token_bytes is None:
            raise NoTokenizer("stop texts need a tokenizer", advice="give the engine one, or use stop_tokens")
        return limit

    # Who is active

    def _admit(self) -> None:
        while not self._inbox.empty():
            sequence = self._inbox.get()
            if sequence.limit == 0:
                sequence.end("length")
                self.answered += 1
            else:
                self._waiting.append(sequence)
        while self._waiting and len(self._active) < self.slots:
            sequence = self._waiting.popleft()
            sequence.slot = next(slot for slot in range(self.slots) if slot not in self._active)
            self._active[sequence.slot] = sequence
            self._order.append(sequence)

    def _drop_cancelled(self) -> None:
        gone: set[int] = set()
        while not self._cancelled.empty():
            gone.add(self._cancelled.get())
        for sequence in [s for s in (*self._active.values(), *self._waiting) if s.handle.id in gone]:
            if sequence in self._waiting:
                self._waiting.remove(sequence)
            else:
                self._free(sequence)
            sequence.end("cancelled")
            self.answered += 1

    def _free(self, sequence: Sequence) -> None:
        """Leave the slot; what was read stays in the cache, up to the last token."""
        self._memory.keep_tail(sequence)
        self._memory.leave(sequence)
        del self._active[sequence.slot]
        if sequence in self._order:
            self._order.remove(sequence)

    # One pass

    def _forward(self) -> list[tuple[Sequence, Tensor]]:
        """Read the next tokens; the sequences that can say one now, with their hidden states [width]."""
        running = [s for _, s in sorted(self._active.items()) if s not in self._order]
        segments = [self._segment(s, 1) for s in running]
        segments += self._prompts(min(self._chunk, MOST_ROWS - len(segments)))
        ready = [(s, s.known) for s in self._order if s.known is not None]
        self._order = [s for s in self._order if s.known is None]
        if segments:
            for segment in segments:
                self._memory.reserve(segment.slot, segment.start + len(segment.tokens))
            plan = self._planner.plan(running, segments, self._memory.slots, self._decoder.tile)
            ready += self._advance(segments, self._decoder.forward(plan))
        return ready

    def _prompts(self, room: int) -> list[Segment]:
        """Parts of prompts, at most `room` tokens, first come first served."""
        segments: list[Segment] = []
        reading: list[Sequence] = []
        for sequence in self._order:
            if room <= 0:
                break
            if (sequence.read == 0 and not self._begin(sequence, reading)) or sequence.known is not None:
                continue
            segments.append(self._segment(sequence, room))
            reading.append(sequence)
            room -= len(segments[-1].tokens)
        return segments

    def _begin(self, sequence: Sequence, reading: list[Sequence]) -> bool:
        """Take from the cache what it has of the prompt; False where it is worth waiting for a request before."""
        cache = self._memory.cache
        node = cache.match(sequence.prompt, sequence.chain)
        matched = 0 if node is None else node.end
        if cache.budget and matched < len(sequence.prompt):
            blocks = matched // cache.block
            if any(sequence.awaits(other, blocks, cache.block) for other in reading):
                return False
        self._memory.begin(sequence, node)
        return True

    def _segment(self, sequence: Sequence, most: int) -> Segment:
        tokens = sequence.pending(most)
        return Segment(sequence.slot, sequence.read, tokens, self._memory.marks(sequence.read, len(tokens)))

    def _advance(self, segments: list[Segment], hidden: Tensor) -> list[tuple[Sequence, Tensor]]:
        """Note what was read, and cache it; `hidden` [rows, width] are the segments' positions, end to end."""
        ready: list[tuple[Sequence, Tensor]] = []
        row = mark = 0
        for segment in segments:
            sequence = self._active[segment.slot]
            sequence.read = segment.start + len(segment.tokens)
            for offset in segment.marks:
                self._memory.keep_block(sequence, segment.start + offset + 1, hidden[row + offset], mark)
                mark += 1
            row += len(segment.tokens)
            sequence.last = hidden[row - 1]
            if sequence.prefilling:
                continue
            ready.append((sequence, sequence.last))
            if sequence in self._order:
                self._order.remove(sequence)
                self._memory.keep_tail(sequence)
        return ready

    # What is said

    def _sample(self, ready: list[tuple[Sequence, Tensor]]) -> None:
        if not ready:
            return
        hidden = torch.stack([state for _, state in ready])
        rows = padded(len(ready), self._decoder.tile)
        logits = self._decoder.logits(F.pad(hidden, (0, 0, 0, rows - len(ready))))
        asked = [(sequence.params, sequence.prompt, sequence.answer) for sequence, _ in ready]
        for (sequence, _), choice in zip(ready, choose(logits[: len(ready)], asked), strict=True):
            sequence.known = None
            if sequence.take(choice) is not None:
                self._free(sequence)
                self.answered += 1

    def _check_threads(self) -> None:
        if torch.get_num_threads() != self._threads:
            # Which counts of rows agree was found with another number of threads.
            self._threads = torch.get_num_threads()
            self._decoder.find_tiles()

    # Threads

    def _cancel(self, number: int) -> None:
        self._cancelled.put(number)
        with self._news:
            self._news.notify_all()

    def _drive(self) -> bool:
        if self._thread is not None:
            return False
        self.step()
        return True

    def _serve(self, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                worked = self.step()
            except Exception:  # noqa: S112  # the requests that were active have been told
                continue
            with self._news:
                if not worked and self._inbox.empty() and self._cancelled.empty() and not stop.is_set():
                    self._news.wait(timeout=1)

    def _abandon(self, wrong: Exception | None) -> None:
        """End whatever is unanswered: cancelled, or with an error."""
        with self._lock, torch.inference_mode():
            self._admit()
            for sequence in [*self._active.values(), *self._waiting]:
                if wrong is not None:
                    sequence.handle.tell(wrong)
                else:
                    sequence.end("cancelled")
                self._memory.leave(sequence)
                self.answered += 1
            self._active.clear()
            self._order.clear()
            self._waiting.clear()
