"""TRL's own utilities judge how we read its data sets: prompts that pairs imply, and ShareGPT's messages."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from trl.data_utils import maybe_convert_to_chatml, maybe_extract_prompt

from trainer.readers.chats import chat, compared

_SAID = st.sampled_from(("Hi", "Hi there", "5", " 5", "Human", "é\u2028", "\n\nAssistant"))


def _plain(messages: Any) -> list[dict[str, str]]:
    return [message.model_dump(include={"role", "content"}) for message in messages]


@settings(max_examples=60, deadline=None)
@given(
    begin=st.lists(_SAID, min_size=1, max_size=5).filter(lambda said: len(said) % 2 == 1),
    answers=st.lists(_SAID, min_size=2, max_size=2, unique=True),
    system=st.booleans(),
    prompt=st.sampled_from(["none", "text", "messages"]),
)
def test_the_prompt_of_a_pair_is_trls(begin: list[str], answers: list[str], system: bool, prompt: str) -> None:
    asked = [{"role": ("user", "assistant")[n % 2], "content": said} for n, said in enumerate(begin)]
    asked = [{"role": "system", "content": "Be brief"}, *asked] if system else asked
    sides = [[{"role": "assistant", "content": said}] for said in answers]
    whole: dict[str, Any] = {"chosen": [*asked, *sides[0]], "rejected": [*asked, *sides[1]]}
    row = {
        "none": whole,
        "text": {"prompt": begin[-1], **whole},
        "messages": {"prompt": asked, "chosen": sides[0], "rejected": sides[1]},
    }[prompt]
    theirs = maybe_extract_prompt(row)
    found, chosen, rejected = compared(row)
    assert (_plain(found), [chosen, rejected]) == (theirs["prompt"], answers)
    assert [theirs[name][0]["content"] for name in ("chosen", "rejected")] == answers


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(("user", "assistant")), _SAID), min_size=1, max_size=6))
def test_sharegpt_is_read_as_trl_reads_it(turns: list[tuple[str, str]]) -> None:
    row = {"conversations": [{"from": role, "value": said} for role, said in [*turns, ("assistant", "Yes")]]}
    assert _plain(chat(row).messages) == maybe_convert_to_chatml(row)["messages"]
