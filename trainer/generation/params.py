"""How a request's tokens are chosen and when it ends."""

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, NonNegativeInt, model_validator


class SamplingParams(BaseModel):
    """How the tokens of one request are chosen; the defaults are greedy.

    The steps are applied in the order of vLLM's sampler: penalties, bans, temperature, min-p, top-k, top-p.

    Raises:
        ValueError: a value outside its range.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_tokens: int | None = Field(default=None, ge=0, description="None: as many as the context takes")
    temperature: float = Field(default=0.0, ge=0, le=100, description="0: greedy, ties to the lowest id")
    top_k: int = Field(default=0, ge=0, description="Keep the k likeliest; 0: all")
    top_p: float = Field(default=1.0, gt=0, le=1, description="Keep the likeliest whose probabilities reach p")
    min_p: float = Field(default=0.0, ge=0, le=1, description="Keep those at least min_p times as likely as the best")
    repetition_penalty: float = Field(default=1.0, gt=0, le=1e4, description="Of tokens in prompt and answer; 1: none")
    presence_penalty: float = Field(default=0.0, ge=-2, le=2, description="Of tokens in the answer")
    frequency_penalty: float = Field(default=0.0, ge=-2, le=2, description="Per occurrence in the answer")
    no_repeat_ngram: int = Field(default=0, ge=0, description="No n-gram occurs twice; 0: any may")
    logit_bias: tuple[tuple[NonNegativeInt, FiniteFloat], ...] = Field(
        default=(), description="(token, what is added to its logit)"
    )
    stop: tuple[str, ...] = Field(default=(), description="Texts that end the answer and are left out of it")
    stop_tokens: tuple[int, ...] = Field(default=(), description="Tokens that end the answer and are left out of it")
    seed: int = Field(default=0, ge=0, description="Equal seeds give equal answers, whoever shares the batch")
    logprobs: int = Field(default=0, ge=0, le=64, description="Likeliest tokens reported beside the chosen one")

    @model_validator(mode="after")
    def _stops_are_texts(self) -> "SamplingParams":
        if "" in self.stop:
            raise ValueError("a stop text is empty: it would end every answer before its first token")
        return self
