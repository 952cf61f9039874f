"""The token check lets right phones pass, and catches those whose error is above the rounding of activations.

Smaller ones it cannot tell from rounding. With these untrained weights: two KV heads swapped (a fifth to a third
of the bound), half of the KV cache lost (0.6) and a scrambled matrix of an FFN (0.8). In a small model after 300 steps
of training, swapped KV heads and a scrambled layer move logits by four to eleven times the bound; a q-norm without its
weights, and positions off by one, by a third of it.
"""

import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from device_agent.contracts import Condition, Generation, KvCache, Quantisation, TokenStep, Transfer
from search.numerics import quantisation_of, scheme_of
from server.clock import utc_now
from server.runs import StageRequest
from server.worker.check import check_tokens
from server.worker.stages import stage_of
from trainer.architecture import Architecture, Attention, ShortConv
from trainer.cache import Cache, ConvState
from trainer.model import AttentionOperator, HybridLM
from trainer.precision import EIGHT, FULL, Precision, Scheme
from trainer.pretrain import Pretrain
from trainer.ptq import Ptq
from trainer.qat import Qat
from trainer.quantise import quantised

PROMPT = tuple(range(40, 60))
STEPS = 12
USUAL = Quantisation()
Answer = Callable[[Tensor], Tensor]  # tokens [1, T] -> logits [1, ..., V], the last row of which counts


@pytest.fixture(scope="module")
def model() -> HybridLM:
    blocks = (ShortConv(kernel=4), Attention(heads=4, kv_heads=2, head_dim=16)) * 2
    model = HybridLM(Architecture(vocab_size=260, width=64, ffn_width=128, blocks=blocks), seed=1).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.0)  # an untrained model's logits are too flat to tell tokens apart
    return model


@torch.no_grad()
def talk(answer: Answer, steps: int = STEPS) -> Generation:
    """What a phone reports that thinks as `answer` does."""
    tokens, taken = list(PROMPT), list[TokenStep]()
    for _ in range(steps):
        (best, second), (token, runner_up) = answer(torch.tensor([tokens]))[0, -1].topk(2)
        taken.append(
            TokenStep(
                token=int(token), logit=float(best), runner_up=int(runner_up), runner_up_logit=float(second), ns=1
            )
        )
        tokens.append(int(token))
    condition = Condition(taken_at=utc_now())
    return Generation(
        program="0" * 64,
        serial="one",
        virtual=True,
        prompt=PROMPT,
        steps=tuple(taken),
        prefill_ns=1,
        before=condition,
        after=condition,
        transfer=Transfer(pushed_bytes=0, pushed_files=0, kept_files=1, seconds=0),
    )


def deployed(model: HybridLM, quantisation: Quantisation = USUAL) -> HybridLM:
    return quantised(model, scheme_of(quantisation))


def other_sums(model: HybridLM) -> HybridLM:
    """The same model with every product off by float32's rounding, so that some activations round the other way."""
    other, generator = copy.deepcopy(model), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1 + 1e-7 * torch.randn(parameter.shape, generator=generator))
    return other


@pytest.mark.parametrize("steps", [1, STEPS])
@pytest.mark.parametrize(
    "bits",
    [
        {},
        {"group_size": 64},
        {"embedding_bits": 32},
        {"embedding_bits": 8, "head_bits": 8},
        {"weight_bits": 8, "head_bits": 4},
        {"activation_bits": 32},
        {"weight_bits": 32},
        {"weight_bits": 32, "activation_bits": 32, "embedding_bits": 32},
    ],
    ids=str,
)
def test_the_same_model_with_other_sums_passes(model: HybridLM, bits: dict[str, int], steps: int) -> None:
    quantisation = Quantisation.model_validate(bits)
    check = check_tokens(model, quantisation, talk(other_sums(deployed(model, quantisation)), steps))
    assert check.passed
    assert check.tokens == steps == check.agreed + len(check.near_ties)


@pytest.mark.parametrize("kv_cache", ["float16", "int8"])
def test_a_rounded_cache_is_expected_where_the_program_has_one(model: HybridLM, kv_cache: KvCache) -> None:
    model = copy.deepcopy(model)
    for name, parameter in model.named_parameters():
        if name.endswith(("v_proj.weight", "self_attn.out_proj.weight")):
            parameter.data *= 4.0  # an untrained model's attention is too quiet to show what its cache rounds
    phone = other_sums(model)
    for part in phone.modules():
        if isinstance(part, AttentionOperator):  # the phone's own way: values as they are written, one scale per head
            part.v_proj.register_forward_hook(partial(_kept, kv_cache, part.head_dim))
    exact = Quantisation(weight_bits=32, activation_bits=32, embedding_bits=32)
    said = talk(phone)
    assert check_tokens(model, exact, said, kv_cache).passed
    assert check_tokens(model, exact, said).passed == (kv_cache == "float16")  # whose rounding hides in that of sums


def _kept(kv_cache: KvCache, head_dim: int, _: object, __: object, out: Tensor) -> Tensor:
    if kv_cache == "float16":
        return out.half().float()
    heads = out.unflatten(-1, (-1, head_dim))
    step = heads.abs().amax(-1, keepdim=True) / 127
    return ((heads / step).round() * step).flatten(-2)


@torch.no_grad()
def _changed(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[HybridLM], Answer]:
    def phone(model: HybridLM) -> Answer:
        wrong = deployed(model)
        weight = wrong.get_parameter(name)
        weight.copy_(change(weight))
        return wrong

    return phone


def _stale_convolutions(model: HybridLM) -> Answer:
    """The first token after the prompt does not reach the convolutions' state."""
    right = deployed(model)

    def answer(tokens: Tensor) -> Tensor:
        cache = Cache(right.architecture, capacity=tokens.shape[1])
        logits = right(tokens[:, : len(PROMPT)], cache=cache)
        for position in range(len(PROMPT), tokens.shape[1]):
            before = copy.deepcopy(cache.states)
            logits = right(tokens[:, position : position + 1], cache=cache)
            if position == len(PROMPT):
                cache.states = [
                    old if isinstance(old, ConvState) else new for old, new in zip(before, cache.states, strict=True)
                ]
        return logits

    return answer


def _behind(right: HybridLM) -> Answer:
    return lambda tokens: right(tokens[:, :-1])


WRONG: dict[str, Callable[[HybridLM], Answer]] = {
    "weights not quantised": lambda model: model,
    "groups of 64": lambda model: deployed(model, Quantisation(group_size=64)),
    "embedding not quantised": lambda model: deployed(model, Quantisation(embedding_bits=32)),
    "a convolution scrambled": _changed("model.layers.0.conv.in_proj.weight", lambda w: w.flip(0)),
    "a convolution without its oldest tap": _changed(
        "model.layers.0.conv.conv.weight", lambda w: torch.cat([torch.zeros_like(w[..., :1]), w[..., 1:]], dim=-1)
    ),
    "a stale state of the convolutions": _stale_convolutions,
    "one token behind": lambda model: _behind(deployed(model)),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_another_model_is_caught(model: HybridLM, wrong: str) -> None:
    assert not check_tokens(model, USUAL, talk(WRONG[wrong](model))).passed


@torch.no_grad()
def test_a_choice_that_no_tie_explains_is_caught(model: HybridLM) -> None:
    """Its logits are right, but the phone took the least likely token."""
    row = deployed(model)(torch.tensor([PROMPT]))[0, -1]
    worst, best, token, choice = float(row.min()), float(row.max()), int(row.argmin()), int(row.argmax())
    step = TokenStep(token=token, logit=worst, runner_up=choice, runner_up_logit=best, ns=1)
    check = check_tokens(model, USUAL, talk(deployed(model), 1).model_copy(update={"steps": (step,)}))
    assert check.agreed == 0
    assert check.max_logit_difference < 1e-4
    assert check.near_ties[0].logit_gap == pytest.approx(best - worst, rel=1e-4)
    assert not check.passed


def test_qat_rounds_as_the_searchs_programs_do() -> None:
    quantisation = Quantisation(group_size=64, activation_bits=32, embedding_bits=32, head_bits=8)
    qat = stage_of(StageRequest(name="qat", tokens=7, options={"scales": "learned"}), quantisation)
    groups = Precision(bits=4, group_size=64)
    assert isinstance(qat, Qat)
    assert (qat.tokens, qat.scales) == (7, "learned")
    assert qat.scheme == Scheme(weights=groups, embedding=FULL, head=EIGHT, activations=False)
    assert quantisation_of(qat.scheme) == quantisation
    ptq = stage_of(StageRequest(name="ptq", options={"scheme": {"weights": {"bits": 8}}, "byte_budget": 9}), USUAL)
    assert ptq == Ptq(scheme=Scheme(weights=EIGHT), byte_budget=9)
    assert stage_of(StageRequest(name="qat"), USUAL) == Qat(evaluate_every=64)
    assert stage_of(StageRequest(name="pretrain"), quantisation) == Pretrain(evaluate_every=64)
