"""What may be asked, as OpenAI's clients ask it; what we do not do is refused by name, not overlooked."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StringConstraints, field_validator

from trainer.chat import Message, Role
from trainer.generation import SamplingParams

_SEEDS = 2**63
Stop = Annotated[str, StringConstraints(min_length=1, max_length=1000)]


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class TextPart(_Asked):
    """A part of a message's content."""

    type: Literal["text"]
    text: str


class ChatMessage(_Asked):
    """One message."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]

    @property
    def plain(self) -> Message:
        """As a template takes it."""
        role: Role = "system" if self.role == "developer" else self.role
        said = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return Message(role=role, content=said)


class StreamOptions(_Asked):
    """Of `stream`."""

    include_usage: bool = False
    include_obfuscation: bool = Field(default=False, description="Accepted, and not done")


class TextFormat(_Asked):
    """The one format of answers that there is."""

    type: Literal["text"]


class Sampled(_Asked):
    """What chats and completions have in common. `top_k`, `min_p` and `repetition_penalty` are not OpenAI's."""

    model: str
    n: int = Field(default=1, ge=1, le=128)
    stream: bool = False
    stream_options: StreamOptions | None = None
    seed: int | None = Field(default=None, ge=-_SEEDS, lt=_SEEDS)
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int = Field(default=0, ge=0)
    min_p: float = Field(default=0.0, ge=0, le=1)
    repetition_penalty: float = Field(default=1.0, gt=0, le=100)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    logit_bias: dict[int, Annotated[float, Field(ge=-100, le=100)]] | None = None
    # For OpenAI's own bookkeeping; nothing here depends on them.
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None

    def sampling(self, *, seed: int, ends: tuple[int, ...], max_tokens: int | None, logprobs: int) -> SamplingParams:
        """As the engine takes it; `seed` is for requests that name none."""
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        return SamplingParams(
            max_tokens=max_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            logit_bias=tuple((self.logit_bias or {}).items()),
            stop=stop,
            stop_tokens=ends,
            seed=(seed if self.seed is None else self.seed) % _SEEDS,
            logprobs=logprobs,
        )

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with what it used."""
        return self.stream_options is not None and self.stream_options.include_usage


class ChatRequest(Sampled):
    """The body of POST /v1/chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    response_format: TextFormat | None = None

    @property
    def limit(self) -> int | None:
        """Tokens of an answer at most."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


class CompletionRequest(Sampled):
    """The body of POST /v1/completions."""

    prompt: str | list[StrictInt] | list[str] | list[list[StrictInt]]
    max_tokens: int | None = Field(default=16, ge=0)
    logprobs: int | None = Field(default=None, ge=0, le=5)
    echo: bool = False
    best_of: Literal[1] | None = None

    @field_validator("prompt")
    @classmethod
    def _something(cls, prompt: object) -> object:
        if isinstance(prompt, list) and not prompt:
            raise ValueError("there is no prompt")
        return prompt

    @property
    def prompts(self) -> list[str | list[int]]:
        """One or more, each a text or tokens."""
        given = self.prompt
        if isinstance(given, str):
            return [given]
        whole = [token for token in given if isinstance(token, int)]
        return [whole] if whole else [each for each in given if not isinstance(each, int)]
