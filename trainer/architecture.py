"""An Architecture: the genome of a hybrid language model.

Block definitions follow LFM2 (arXiv 2511.23404, section 2.2): per layer a pre-norm operator and a pre-norm SwiGLU.
"""

import hashlib
import json
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

_GROUP = 32  # the deployment's quantisation group: every linear's inputs divide into groups of it


class ShortConv(BaseModel):
    """A gated short convolution: depthwise, causal, over the last `kernel` positions."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    operator: Literal["conv"] = "conv"
    kernel: int = Field(default=3, ge=2, le=16)


class Attention(BaseModel):
    """Grouped-query attention (arXiv 2305.13245) with per-head QK-norm and RoPE."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    operator: Literal["attention"] = "attention"
    heads: int = Field(ge=1)
    kv_heads: int = Field(ge=1)
    head_dim: int = Field(ge=8, multiple_of=2)

    @model_validator(mode="after")
    def _groups_are_whole(self) -> "Attention":
        if self.heads % self.kv_heads:
            raise ValueError(f"heads ({self.heads}) must be a multiple of kv_heads ({self.kv_heads})")
        return self


Operator = Annotated[ShortConv | Attention, Field(discriminator="operator")]


class Yarn(BaseModel):
    """A context stretched by YaRN (arXiv 2309.00071), always relative to the original one, never chained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    factor: float = Field(ge=1, description="The longest context over the original one")
    original: int = Field(ge=2, description="Positions that the model was first trained on")
    fast: float = Field(default=32.0, gt=0, description="Pairs that turn this often within it are left alone")
    slow: float = Field(default=1.0, gt=0, description="Pairs that turn less often than this are interpolated")

    @model_validator(mode="after")
    def _fast_is_faster(self) -> "Yarn":
        if self.fast <= self.slow:
            raise ValueError(f"fast ({self.fast}) must be more than slow ({self.slow})")
        return self


class Rope(BaseModel):
    """What determines every rotary table of a model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    theta: float = Field(default=1e6, gt=0)
    yarn: Yarn | None = None


class Architecture(BaseModel):
    """Width, depth, FFN width and the operator of every block.

    Raises:
        ValueError: a width that the 4-bit groups do not divide, or an attention that does not fit.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    vocab_size: int = Field(ge=2)
    width: int = Field(ge=_GROUP, multiple_of=_GROUP)
    ffn_width: int = Field(ge=_GROUP, multiple_of=_GROUP)
    blocks: tuple[Operator, ...] = Field(min_length=1)
    rope_theta: float = Field(default=1e6, gt=0)
    yarn: Yarn | None = Field(default=None, exclude_if=lambda yarn: yarn is None, description="A stretched context")
    norm_eps: float = Field(default=1e-5, gt=0)
    tied: bool = Field(
        default=True,
        exclude_if=lambda tied: tied,  # so that tied architectures keep the names they had before there were others
        description="Whether one matrix reads tokens and writes logits",
    )

    @model_validator(mode="after")
    def _groups_divide_attention(self) -> "Architecture":
        for block in self.blocks:
            if isinstance(block, Attention) and (block.heads * block.head_dim) % _GROUP:
                raise ValueError(f"heads x head_dim ({block.heads * block.head_dim}) must be a multiple of {_GROUP}")
        return self

    @property
    def rope(self) -> Rope:
        """Its rotary position embeddings."""
        return Rope(theta=self.rope_theta, yarn=self.yarn)

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    @property
    def hash(self) -> str:
        """sha256 of the canonical JSON: equal architectures have equal names."""
        plain = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(plain.encode()).hexdigest()

    def block_parameters(self, block: ShortConv | Attention) -> int:
        """Parameters of one layer: operator, SwiGLU and both norms."""
        d = self.width
        if isinstance(block, ShortConv):
            operator = 4 * d * d + block.kernel * d
        else:
            q, kv = block.heads * block.head_dim, block.kv_heads * block.head_dim
            operator = 2 * d * q + 2 * d * kv + 2 * block.head_dim
        return operator + 3 * d * self.ffn_width + 2 * d

    @property
    def parameters(self) -> int:
        """Number of parameters, a tied embedding counted once."""
        return self.vocabulary_parameters + self.width + sum(self.block_parameters(b) for b in self.blocks)

    @property
    def vocabulary_parameters(self) -> int:
        """Parameters of embedding and head."""
        return self.vocab_size * self.width * (1 if self.tied else 2)


def lfm2(width: int, ffn_width: int, heads: int, attention_at: tuple[int, ...], depth: int) -> Architecture:
    """An LFM2 shape: 8 KV heads, head_dim 64, kernel 3, vocabulary 65,536."""
    attention = Attention(heads=heads, kv_heads=8, head_dim=64)
    blocks = tuple(attention if i in attention_at else ShortConv() for i in range(depth))
    return Architecture(vocab_size=65_536, width=width, ffn_width=ffn_width, blocks=blocks)


_SIXTEEN = (2, 5, 8, 10, 12, 14)
LFM2_350M = lfm2(1024, 4608, 16, _SIXTEEN, 16)
LFM2_700M = lfm2(1536, 6912, 24, _SIXTEEN, 16)
LFM2_1_2B = lfm2(2048, 8192, 32, _SIXTEEN, 16)
LFM2_2_6B = lfm2(2048, 10_752, 32, (2, 5, 9, 13, 17, 21, 24, 27), 30)
