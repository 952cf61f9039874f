"""The hybrid language model: gated short convolutions and grouped-query attention, each followed by a SwiGLU.

Block definitions: LFM2 (arXiv 2511.23404, section 2.2). Parameters are named as in transformers' Lfm2ForCausalLM, so
state dicts interchange. Embedding and head share one matrix, unless the architecture says otherwise.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from trainer.architecture import Architecture, Attention, Rope, ShortConv
from trainer.cache import Cache, ConvState, KVState
from trainer.linear import Linear, linear
from trainer.long_attention import LONG, attend, spans
from trainer.norm import RMSNorm
from trainer.rope import rotate, tables

FFN_CHUNK = 4096  # positions


@dataclass
class Pass:
    """What all blocks of one forward pass share: where it starts, what it may see, the rope tables."""

    start: int
    length: int
    rope: Rope
    device: torch.device
    documents: Tensor | None
    recomputes: bool = False
    _tables: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    _mask: Tensor | None = None
    _spans: list[list[int]] | None = None

    def rotary(self, head_dim: int) -> tuple[Tensor, Tensor]:
        """The rope tables for these positions, made once per head_dim."""
        if head_dim not in self._tables:
            positions = torch.arange(self.start, self.start + self.length, device=self.device)
            self._tables[head_dim] = tables(positions, head_dim, self.rope)
        return self._tables[head_dim]

    def attention_mask(self) -> Tensor | None:
        """Who sees whom (True: sees), broadcastable to [B, heads, T, start+T]; None: plain causal or a single query."""
        if self.documents is None and (self.start == 0 or self.length == 1):
            return None
        if self._mask is None:
            ones = torch.ones(self.length, self.start + self.length, dtype=torch.bool, device=self.device)
            self._mask = ones.tril(diagonal=self.start)
            if self.documents is not None:
                same = self.documents[:, :, None] == self.documents[:, None, :]
                self._mask = (self._mask & same)[:, None]
        return self._mask

    def spans(self) -> list[list[int]] | None:
        """Lengths of each row's documents, where a mask to keep them apart would be too large."""
        if self.documents is not None and self.length >= LONG and self._spans is None:
            self._spans = spans(self.documents)
        return self._spans

    def same_document(self, lag: int) -> Tensor | None:
        """Whether position t and t-lag are of one document, [B, T, 1] bool; None without documents."""
        if self.documents is None:
            return None
        same = self.documents[:, lag:] == self.documents[:, : max(0, self.length - lag)]
        return F.pad(same, (min(lag, self.length), 0))[:, :, None]


def computed_again(function: Callable[..., Tensor], *inputs: object) -> Tensor:
    """The function's value; what is inside it is computed a second time for its gradients (arXiv 1604.06174)."""
    out: Tensor = checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)
    return out


class ShortConvOperator(nn.Module):
    """(B, C, x) = in_proj(h); out_proj(C * conv(B * x)), the convolution depthwise and causal."""

    def __init__(self, architecture: Architecture, block: ShortConv) -> None:
        super().__init__()
        width = architecture.width
        self.kernel = block.kernel
        self.in_proj = Linear(width, 3 * width)
        self.conv = nn.Conv1d(width, width, block.kernel, groups=width, bias=False)
        self.out_proj = Linear(width, width)

    def forward(self, h: Tensor, shared: Pass, state: ConvState | None) -> Tensor:
        """h [B, T, width] -> [B, T, width]; `state` is read and replaced by the last kernel-1 inputs."""
        b, c, x = self.in_proj(h).chunk(3, dim=-1)
        out: Tensor = self.out_proj(c * self._convolve(b * x, shared, state))
        return out

    def _convolve(self, y: Tensor, shared: Pass, state: ConvState | None) -> Tensor:
        # Taps unrolled: forward and backward together are about twice as fast as conv1d on CPU, and each tap can be
        # kept inside its document.
        taps = self.conv.weight[:, 0].to(y.dtype)
        length = y.shape[1]
        past = self.kernel - 1
        padded = F.pad(y, (0, 0, past, 0)) if state is None else torch.cat((state.inputs, y), dim=1)
        if state is not None:
            state.inputs = padded[:, length:].clone()
        out = y * taps[:, past]
        for lag in range(1, past + 1):
            tap = padded[:, past - lag : past - lag + length] * taps[:, past - lag]
            same = shared.same_document(lag)
            out = out + (tap if same is None else tap * same)
        return out


class AttentionOperator(nn.Module):
    """Grouped-query attention; queries and keys are normalised per head before they are rotated."""

    def __init__(self, architecture: Architecture, block: Attention) -> None:
        super().__init__()
        width, queries, keys = architecture.width, block.heads * block.head_dim, block.kv_heads * block.head_dim
        self.head_dim = block.head_dim
        self.groups = block.heads // block.kv_heads
        self.q_proj = Linear(width, queries)
        self.k_proj = Linear(width, keys)
        self.v_proj = Linear(width, keys)
        self.out_proj = Linear(queries, width)
        self.q_layernorm = RMSNorm(block.head_dim, architecture.norm_eps)
        self.k_layernorm = RMSNorm(block.head_dim, architecture.norm_eps)

    def forward(self, h: Tensor, shared: Pass, state: KVState | None) -> Tensor:
        """h [B, T, width] -> [B, T, width]; keys and values are appended to `state` in place."""
        cos, sin = shared.rotary(self.head_dim)
        q = rotate(self.q_layernorm(self._heads(self.q_proj(h))), cos, sin)
        k = rotate(self.k_layernorm(self._heads(self.k_proj(h))), cos, sin)
        v = self._heads(self.v_proj(h))
        if state is not None:
            end = shared.start + shared.length
            state.keys[:, :, shared.start : end] = k
            state.values[:, :, shared.start : end] = v
            k, v = state.keys[:, :, :end], state.values[:, :, :end]
        out: Tensor = self.out_proj(self._mixed(q, k, v, shared).transpose(1, 2).flatten(2))
        return out

    def _mixed(self, q: Tensor, k: Tensor, v: Tensor, shared: Pass) -> Tensor:
        lengths = shared.spans()
        if lengths is not None:
            return attend(q, k, v, lengths)
        mask = shared.attention_mask()
        causal = mask is None and shared.length > 1
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=self.groups > 1)

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], -1, self.head_dim).transpose(1, 2)


class SwiGLU(nn.Module):
    """w2(silu(w1 x) * w3 x) (arXiv 2002.05202)."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.w1 = Linear(width, inner)
        self.w3 = Linear(width, inner)
        self.w2 = Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, width] -> [B, T, width]."""
        out: Tensor = self.w2(F.silu(self.w1(x)) * self.w3(x))
        return out


class TiedEmbedding(nn.Embedding):
    """One matrix [vocab, width] that reads tokens and, where the head is tied to it, writes logits."""

    def factors(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """What logits are the product of: h [..., width], as the head takes it in, and its weight [vocab, width]."""
        return h, self.weight


_BASE_WIDTH = 128

# Operator kind -> (module, its name in transformers' Lfm2DecoderLayer).
_OPERATORS = {ShortConv: (ShortConvOperator, "conv"), Attention: (AttentionOperator, "self_attn")}


class Layer(nn.Module):
    """x += operator(norm(x)); x += SwiGLU(norm(x))."""

    def __init__(self, architecture: Architecture, block: ShortConv | Attention) -> None:
        super().__init__()
        operator, self.operator_name = _OPERATORS[type(block)]
        self.add_module(self.operator_name, operator(architecture, block))
        self.feed_forward = SwiGLU(architecture.width, architecture.ffn_width)
        self.operator_norm = RMSNorm(architecture.width, architecture.norm_eps)
        self.ffn_norm = RMSNorm(architecture.width, architecture.norm_eps)

    def forward(self, x: Tensor, shared: Pass, state: KVState | ConvState | None) -> Tensor:
        """[B, T, width] -> [B, T, width]."""
        x = x + self.get_submodule(self.operator_name)(self.operator_norm(x), shared, state)
        parts = x.split(FFN_CHUNK, dim=1)  # it looks at each position alone, and is the widest thing in a layer
        if len(parts) == 1:
            return self._fed(x)
        fed = [computed_again(self._fed, part) if shared.recomputes else self._fed(part) for part in parts]
        return torch.cat(fed, dim=1)

    def _fed(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.feed_forward(self.ffn_norm(x))
        return out


class Decoder(nn.Module):
    """Embedding, layers and the final norm; named as transformers' Lfm2Model."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.embed_tokens = TiedEmbedding(architecture.vocab_size, architecture.width)
        self.layers = nn.ModuleList(Layer(architecture, block) for block in architecture.blocks)
        self.embedding_norm = RMSNorm(architecture.width, architecture.norm_eps)


def output_scale(width: int) -> float:
    """muP's output multiplier (arXiv 2203.03466, table 8), one at width 128.

    Once trained, a logit is a sum over width of numbers that agree in sign, so it would grow with width. The final
    norm's weight starts at this number and is trained at this share of its rate: the same as a fixed factor of the
    logits, and a model that transformers computes.
    """
    return _BASE_WIDTH / width


class HybridLM(nn.Module):
    """A decoder-only hybrid model of an Architecture, its weights drawn from `seed`.

    `compute` is the type of activations and products, whatever the weights are kept in; with `recomputes` a layer's
    activations are not kept for the backward pass but computed again.
    """

    compute: torch.dtype = torch.float32
    recomputes: bool = False

    def __init__(self, architecture: Architecture, *, seed: int = 0) -> None:
        super().__init__()
        self.architecture = architecture
        self.model = Decoder(architecture)
        if not architecture.tied:
            self.lm_head = Linear(architecture.width, architecture.vocab_size)
        self._initialise(seed)

    def forward(
        self, tokens: Tensor, *, documents: Tensor | None = None, cache: Cache | None = None, last_only: bool = False
    ) -> Tensor:
        """Logits of the next token.

        Args:
            tokens: [B, T] int64.
            documents: [B, T] ids; positions see only positions of their own document. Documents lie in runs.
            cache: what was read before; it is advanced by T. Not together with `documents`.
            last_only: logits of the last position only.

        Returns:
            [B, T, vocab], or [B, 1, vocab] with `last_only`.

        Raises:
            ContextOverflow: the cache is too small.
            ValueError: documents and cache together.
        """
        h = self.hidden(tokens, documents=documents, cache=cache)
        return self.logits(h[:, -1:] if last_only else h)

    def logits(self, h: Tensor) -> Tensor:
        """What `hidden` gives, [..., width] -> [..., vocab]."""
        return linear(*self.head_factors(h))

    def head_factors(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """What `logits` are the product of: (h [..., width], weight [vocab, width]); so a loss need not store them."""
        head: TiedEmbedding | Linear = self.model.embed_tokens if self.architecture.tied else self.lm_head
        return head.factors(h)

    def hidden(self, tokens: Tensor, *, documents: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        """What `forward` projects to logits: [B, T, width] after the final norm."""
        length = tokens.shape[1]
        if cache is not None:
            if documents is not None:
                raise ValueError("packed documents and a cache cannot be used together")
            cache.reserve(length)
        start = 0 if cache is None else cache.length
        recomputes = self.recomputes and torch.is_grad_enabled()
        shared = Pass(start, length, self.architecture.rope, tokens.device, documents, recomputes)
        x = self.model.embed_tokens(tokens).to(self.compute)
        for index, layer in enumerate(self.model.layers):
            state = None if cache is None else cache.states[index]
            x = computed_again(layer, x, shared, state) if recomputes else layer(x, shared, state)
        if cache is not None:
            cache.length += length
        out: Tensor = self.model.embedding_norm(x)
        return out

    def _initialise(self, seed: int) -> None:
        # Variance-preserving per linear; what writes into the residual stream is scaled down by its 2 * depth writers
        # (GPT-2's rule). A tied embedding is also the head, so its scale sets that of the first logits.
        if self.model.embed_tokens.weight.is_meta:
            return
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self.model.embedding_norm.weight.fill_(output_scale(self.architecture.width))
            for name, parameter in self.named_parameters():
                if parameter.dim() == 1:
                    continue
                if name.endswith(("embed_tokens.weight", "lm_head.weight")):
                    scale = 0.02
                elif name.endswith(("out_proj.weight", "w2.weight")):
                    scale = 1 / math.sqrt(parameter.shape[1] * 2 * self.architecture.depth)
                else:
                    scale = 1 / math.sqrt(math.prod(parameter.shape[1:]))
                drawn = torch.randn(parameter.shape, generator=generator) * scale
                parameter.copy_(drawn)
