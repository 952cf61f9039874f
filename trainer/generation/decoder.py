"""The model's forward pass over rows of many sequences at once.

Weights are laid out for it once, so an engine holds a copy of them, in float32. It gives what HybridLM gives within
rounding; and each row's bits depend on its own sequence alone (see `rows` and `attention`).
"""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.architecture import Rope
from trainer.generation.attention import TiledAttention
from trainer.generation.plan import Plan
from trainer.generation.rows import Rows, attention_tile, head, side_by_side, tile_of
from trainer.generation.state import ConvSlots, KVSlots, slot_states
from trainer.model import AttentionOperator, HybridLM, Layer, ShortConvOperator, SwiGLU
from trainer.norm import RMSNorm
from trainer.rope import tables

State = ConvSlots | KVSlots


class _Norm:
    def __init__(self, norm: RMSNorm) -> None:
        self.weight, self.eps = norm.weight.detach().float(), norm.eps

    def __call__(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


class _Operator(Protocol):
    @property
    def maps(self) -> tuple[Rows, ...]: ...

    def __call__(self, h: Tensor, state: State, plan: Plan) -> Tensor:
        """[rows, width] -> [rows, width]; the state is advanced."""


class _Conv:
    def __init__(self, operator: ShortConvOperator) -> None:
        self._in, self._out = side_by_side([operator.in_proj]), side_by_side([operator.out_proj])
        self.maps = (self._in, self._out)
        self._taps = operator.conv.weight.detach().float()[:, 0].T.contiguous()  # [kernel, width]

    def __call__(self, h: Tensor, state: State, plan: Plan) -> Tensor:
        assert isinstance(state, ConvSlots)
        b, c, x = self._in(h).chunk(3, dim=-1)
        kernel, width = self._taps.shape
        index, kept = plan.layout.inputs(kernel)
        inputs = torch.cat((state.inputs.view(-1, width), (b * x)[: plan.count]))
        taps = inputs.index_select(0, index).view(-1, kernel, width).mul_(self._taps)
        out = taps[:, 0] + taps[:, 1]
        for lag in range(2, kernel):
            out += taps[:, lag]
        states = inputs.index_select(0, kept).view(-1, kernel - 1, width)
        state.inputs.index_copy_(0, plan.layout.segment_slots, states[: plan.layout.last])
        state.marked = states[plan.layout.last :]
        return self._out(out.mul_(c))


class _Attention:
    def __init__(self, operator: AttentionOperator, rope: Rope, context: int) -> None:
        self._in = side_by_side([operator.q_proj, operator.k_proj, operator.v_proj])
        self._out = side_by_side([operator.out_proj])
        self.maps = (self._in, self._out)
        self._head_dim, self._groups = operator.head_dim, operator.groups
        self._kv_heads = operator.k_proj.out_features // operator.head_dim
        q, k = operator.q_layernorm.weight.detach().float(), operator.k_layernorm.weight.detach().float()
        heads = self._kv_heads * self._groups
        # Queries and keys are normalised and rotated together; the softmax's scale goes into the queries' norm.
        scaled = (q * self._head_dim**-0.5).expand(heads, -1)
        self._norm = torch.cat((scaled, k.expand(self._kv_heads, -1)))
        self._eps = operator.q_layernorm.eps
        self._cos, sin = tables(torch.arange(context, device=q.device), self._head_dim, rope)
        half = self._head_dim // 2
        self._sin = torch.cat((-sin[:, :half], sin[:, half:]), dim=-1)
        self._attention = TiledAttention()

    def find_tile(self) -> None:
        """Where the number of threads is another than before."""
        self._attention.tile = attention_tile(self._head_dim, str(self._norm.device), torch.get_num_threads())

    def __call__(self, h: Tensor, state: State, plan: Plan) -> Tensor:
        assert isinstance(state, KVSlots)
        rows = h.shape[0]
        heads = self._groups * self._kv_heads
        projected = self._in(h).view(rows, -1, self._head_dim)[: plan.count]
        positions = plan.positions[: plan.count]
        x = F.rms_norm(projected[:, : heads + self._kv_heads], (self._head_dim,), None, self._eps) * self._norm
        turned = x.roll(self._head_dim // 2, dims=-1).mul_(self._sin[positions, None])
        x = x.mul_(self._cos[positions, None]).add_(turned)
        where = plan.writes(self._kv_heads, state.keys.shape[2])
        state.keys.view(-1, self._head_dim).index_copy_(0, where, x[:, heads:].reshape(-1, self._head_dim))
        values = projected[:, heads + self._kv_heads :]
        state.values.view(-1, self._head_dim).index_copy_(0, where, values.reshape(-1, self._head_dim))
        q = x[:, :heads].unflatten(1, (self._kv_heads, self._groups))
        return self._out(self._attention(q, state, plan, rows))


class _FeedForward:
    def __init__(self, feed_forward: SwiGLU) -> None:
        self._in = side_by_side([feed_forward.w1, feed_forward.w3])
        self._out = side_by_side([feed_forward.w2])
        self.maps = (self._in, self._out)

    def __call__(self, h: Tensor) -> Tensor:
        gate, up = self._in(h).chunk(2, dim=-1)
        # Not F.silu: where threads share an array, its bits depend on where their parts end.
        return self._out(gate * up / gate.neg().exp_().add_(1))


class _Layer:
    def __init__(self, layer: Layer, rope: Rope, context: int) -> None:
        operator = layer.get_submodule(layer.operator_name)
        self.operator: _Operator
        if isinstance(operator, ShortConvOperator):
            self.operator = _Conv(operator)
        else:
            assert isinstance(operator, AttentionOperator)
            self.operator = _Attention(operator, rope, context)
        self.feed_forward = _FeedForward(layer.feed_forward)
        self._operator_norm, self._ffn_norm = _Norm(layer.operator_norm), _Norm(layer.ffn_norm)

    def __call__(self, x: Tensor, state: State, plan: Plan) -> Tensor:
        x = self.operator(self._operator_norm(x), state, plan).add_(x)
        return self.feed_forward(self._ffn_norm(x)).add_(x)


class Decoder:
    """A HybridLM laid out for generation, and the states of its slots."""

    def __init__(self, model: HybridLM, context: int) -> None:
        architecture = model.architecture
        self._embedding = model.model.embed_tokens
        self.device = self._embedding.weight.device
        self._layers: list[_Layer] = []
        for layer in model.model.layers:
            assert isinstance(layer, Layer)
            self._layers.append(_Layer(layer, architecture.rope, context))
        self._norm = _Norm(model.model.embedding_norm)
        self._head = head(model)
        self.states: list[State] = slot_states(architecture, self.device)
        self.find_tiles()

    def find_tiles(self) -> None:
        """Find what rows are padded to, with the number of threads that there is now.

        Raises:
            NotReproducible: see there.
        """
        self.tile = tile_of([self._head, *(m for layer in self._layers for m in self._maps(layer))])
        for layer in self._layers:
            if isinstance(layer.operator, _Attention):
                layer.operator.find_tile()

    def forward(self, plan: Plan) -> Tensor:
        """Hidden states [rows, width] after the final norm; every state is advanced."""
        x = self._embedding(plan.tokens).float()
        for layer, state in zip(self._layers, self.states, strict=True):
            x = layer(x, state, plan)
        return self._norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """[rows, width] -> [rows, vocab]; rows as `rows.padded` counts them."""
        return self._head(hidden)

    @staticmethod
    def _maps(layer: _Layer) -> tuple[Rows, ...]:
        return *layer.operator.maps, *layer.feed_forward.maps
