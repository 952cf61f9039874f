import pytest
import torch

from trainer import linear_cross_entropy
from trainer.architecture import Architecture
from trainer.linear_cross_entropy import IGNORED
from trainer.model import HybridLM
from trainer.preference import logprobs
from trainer.preference.logprobs import answer_nats


def test_answers_in_chunks_have_the_values_and_gradients_of_whole_logits(
    tiny: Architecture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (linear_cross_entropy, logprobs):
        monkeypatch.setattr(module, "most_rows", lambda vocab_size: 5)
    model = HybridLM(tiny, seed=3)
    generator = torch.Generator().manual_seed(1)
    inputs, targets = torch.randint(0, 300, (2, 2, 23), generator=generator)
    documents = (torch.arange(23) > 9).long().expand(2, -1)
    targets[:, ::3] = IGNORED
    slopes = torch.randn(2, 23, generator=generator)  # each token has its own: a loss of sums is not a mean
    asked = targets != IGNORED
    right = targets.clamp(min=0)[..., None]
    whole = -model(inputs, documents=documents).log_softmax(-1).gather(-1, right)[..., 0] * asked
    found = answer_nats(model, inputs, targets, documents)
    assert torch.allclose(found, whole, atol=1e-5)
    ours, expected = (torch.autograd.grad((n * slopes).sum().tanh(), list(model.parameters())) for n in (found, whole))
    for one, other in zip(ours, expected, strict=True):
        assert (one - other).abs().max() <= 1e-5 * (1 + other.abs().max())
