"""Groups of answers to prompts, as reinforcement learning takes them."""

from collections.abc import Callable, Sequence

from trainer.generation.engine import Engine
from trainer.generation.params import SamplingParams
from trainer.generation.requests import Completion


def rollouts(
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    params: SamplingParams,
    samples: int,
    *,
    heard: Callable[[int, int], None] | None = None,
) -> list[list[Completion]]:
    """`samples` answers to each prompt, in the order of the prompts; a group reads its prompt once.

    The i-th prompt's answers are drawn with seeds derived from params.seed and i, so they do not depend on the other
    prompts. `Completion.sampler_logprobs` holds the log-probability of every token under what was sampled, after
    temperature and cuts: the policy of the importance ratio. `heard` is told (answered, submitted).

    Raises:
        see `Engine.submit`; no prompt is answered then.
    """
    groups = []
    try:
        for index, prompt in enumerate(prompts):
            seeded = params.model_copy(update={"seed": params.seed * 1_000_003 + index})
            groups.append(engine.submit_group(prompt, seeded, samples))
    except BaseException:
        for group in groups:
            for handle in group:
                handle.cancel()
        raise
    engine.run(heard)
    return [[handle.result() for handle in group] for group in groups]
