"""A tutor in a local folder of transformers. The library is imported here alone, and only when one is opened."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from trainer.chat import ChatError, ChatTemplate, template_of
from trainer.generation.params import SamplingParams
from trainer.tutors.port import Answer, Prices, Question, TutorError, Usage


class FolderTutor:
    """See `Tutor`: `generate` of transformers, one question at a time, its samples in one batch.

    The chat template is read by `trainer.chat`, which refuses what would speak in another's name.
    """

    def __init__(
        self, name: str, model: Any, tokenizer: Tokenizer, template: ChatTemplate, prices: Prices | None = None
    ) -> None:
        self.name = name
        self.usage = Usage(prices)
        self._model, self._tokenizer, self._template = model.eval(), tokenizer, template
        named = model.generation_config.eos_token_id
        self._ends = sorted({*template.ends, *([] if named is None else [named] if isinstance(named, int) else named)})
        self._context: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)

    @classmethod
    def open(cls, folder: Path, prices: Prices | None = None) -> "FolderTutor":
        """The causal language model of a folder, in the type it was saved in (float32 on a CPU).

        Raises:
            TutorError: transformers is not installed, or cannot load it.
            ChatError, TokenizerError: its template or tokenizer cannot be used.
        """
        try:
            from transformers import AutoModelForCausalLM
        except ImportError as missing:
            raise TutorError(
                f"{folder} is a model of transformers, which is not installed", advice="pip install 'fulcrum[teachers]'"
            ) from missing
        device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            tokenizer: Tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            model, told = AutoModelForCausalLM.from_pretrained(
                folder,
                local_files_only=True,
                trust_remote_code=False,
                dtype="auto" if device == "cuda" else torch.float32,
                output_loading_info=True,
            )
        except Exception as wrong:  # both libraries raise many kinds, some of them bare
            raise TutorError(
                f"{folder} cannot be loaded by transformers: {wrong}",
                advice="give a folder that save_pretrained wrote, tokenizer.json with it; its own code is never run",
            ) from wrong
        if told["missing_keys"] or told["mismatched_keys"]:
            raise TutorError(f"{folder} lacks weights, which would be random", advice="copy the folder again")
        return cls(folder.resolve().name, model.to(device), tokenizer, template_of(folder, tokenizer), prices)

    def ask(
        self, questions: Sequence[Question], heard: Callable[[Usage], None] | None = None
    ) -> Iterator[tuple[int, list[Answer]]]:
        """See `Tutor`; in the order of the questions."""
        for index, question in enumerate(questions):
            answers = self._answers(question)
            for answer in answers:
                self.usage.count(answer)
                if heard:
                    heard(self.usage)
            yield index, answers

    @torch.inference_mode()
    def _answers(self, question: Question) -> list[Answer]:
        sampling = question.sampling
        try:
            prompt = self._template.encode(question.messages)
        except ChatError as wrong:
            return [Answer("", 0, "refused", why=wrong.message)] * question.samples
        room = sampling.max_tokens if self._context is None else self._context - len(prompt)
        limit = room if sampling.max_tokens is None else sampling.max_tokens
        if limit is None:
            raise TutorError(f"{self.name} does not say how long its context is", advice="give max_tokens")
        if room is not None and room < max(1, limit):
            why = f"{len(prompt)} tokens and {limit} of answer exceed the context of {self._context}"
            return [Answer("", 0, "refused", why=why)] * question.samples
        tokens = torch.tensor([prompt], device=self._model.device)
        with torch.random.fork_rng():  # whoever trains beside has random numbers of their own
            torch.manual_seed(sampling.seed)
            said = self._model.generate(
                tokens,
                attention_mask=torch.ones_like(tokens),
                max_new_tokens=limit,
                eos_token_id=[*self._ends, *sampling.stop_tokens],
                pad_token_id=self._ends[0],
                num_return_sequences=question.samples if sampling.temperature else 1,
                **_as_transformers(sampling),
            )
        answers = [self._answer(row, len(prompt), sampling) for row in said[:, len(prompt) :].tolist()]
        return answers if sampling.temperature else answers * question.samples

    def _answer(self, row: list[int], prompt: int, sampling: SamplingParams) -> Answer:
        ends = {*self._ends, *sampling.stop_tokens}
        length = next((place for place, token in enumerate(row) if token in ends), len(row))
        text = str(self._tokenizer.decode(row[:length], skip_special_tokens=True))
        cut = min((place for stop in sampling.stop if (place := text.find(stop)) >= 0), default=None)
        finished = length < len(row) or cut is not None
        return Answer(text[:cut], length, "stop" if finished else "length", prompt)


def _as_transformers(sampling: SamplingParams) -> dict[str, Any]:
    """The arguments of `generate` that mean the same.

    Raises:
        TutorError: some have no equal there.
    """
    if sampling.presence_penalty or sampling.frequency_penalty or sampling.logit_bias:
        raise TutorError(
            "transformers has neither presence and frequency penalties nor biases of single tokens",
            advice="use repetition_penalty or no_repeat_ngram, or an endpoint",
        )
    asked: dict[str, Any] = {
        "do_sample": bool(sampling.temperature),
        "repetition_penalty": sampling.repetition_penalty,
        "no_repeat_ngram_size": sampling.no_repeat_ngram,
    }
    if sampling.temperature:
        asked |= {"temperature": sampling.temperature, "top_k": sampling.top_k, "top_p": sampling.top_p}
        asked |= {"min_p": sampling.min_p} if sampling.min_p else {}
    return asked
