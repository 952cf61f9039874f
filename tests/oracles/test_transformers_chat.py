"""A folder's own chat template goes through every stage, and marks the tokens that transformers marks."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
from typer.testing import CliRunner

from server.cli.main import application
from trainer.architecture import Architecture, Attention, ShortConv
from trainer.chat import Message, ToolCall, template_of
from trainer.checkpoint import Checkpoint, gathered
from trainer.data import prepare
from trainer.hugging_face import save_hugging_face
from trainer.model import HybridLM
from trainer.pipeline import run, stages_of
from trainer.sources import Source
from trainer.tokenizer import load_tokenizer, train_tokenizer

# ChatML with tools, as Hermes and Qwen write them, what the assistant says between marks; one end is left out of them.
_TEMPLATE = """{%- if tools is not none %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{% endif %}
    {{- 'Tools: ' }}{%- for tool in tools %}{{- '\\n' + (tool | tojson) }}{% endfor %}
    {{- '<|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {{- '<|im_start|>assistant\\n' }}
        {%- generation %}
            {{- message.content | trim }}
            {%- for call in message.tool_calls %}
                {{- '\\n<tool_call>' + call.function.name + ' ' + (call.function.arguments | tojson) + '</tool_call>' }}
            {%- endfor %}
            {{- '<|im_end|>' }}
        {%- endgeneration %}
        {{- '\\n' }}
    {%- elif message.role == 'tool' %}
        {{- '<|im_start|>user\\n<tool_response>' + message.content + '</tool_response><|im_end|>\\n' }}
    {%- elif message.role != 'system' %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}"""

_TEXT = "Hello there, user. I am the assistant, who adds numbers: 1 + 2 = 3, 40 + 2 = 42.\n"
_TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}, "description": "Adds <&>"}}
_CALL = (ToolCall(name="add", arguments={"a": 1, "b": [2, "ü"]}),)
_CHATS: list[tuple[list[Message], list[dict[str, Any]]]] = [
    ([Message(role="user", content="1 + 2?"), Message(role="assistant", content="3")], []),
    (
        [
            Message(role="system", content="Be kind."),
            Message(role="user", content="Hello?"),
            Message(role="assistant", content="  Hello, user.\nAll well?  "),
            Message(role="user", content="And 40 + 2?"),
            Message(role="assistant", content="42 "),
        ],
        [],
    ),
    (
        [
            Message(role="system", content="Use tools."),
            Message(role="user", content="1 + 2?"),
            Message(role="assistant", content="", tool_calls=_CALL),
            Message(role="tool", content="3"),
            Message(role="assistant", content="It is 3.", tool_calls=_CALL * 2),
            Message(role="user", content="Thanks"),
        ],
        [_TOOL, _TOOL],
    ),
]


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as transformers saves it: an Lfm2 with a chat template, whose answers end by a token of its own."""
    folder = tmp_path_factory.mktemp("theirs") / "hf"
    tokenizer = train_tokenizer([_TEXT * 9], 300)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in ("<|im_start|>", "<|im_end|>")])
    blocks = (ShortConv(), Attention(heads=2, kv_heads=1, head_dim=16))
    model = HybridLM(Architecture(vocab_size=320, width=32, ffn_width=64, blocks=blocks), seed=3)
    save_hugging_face(model, folder, tokenizer=tokenizer)
    fast = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(tokenizer.to_str()), eos_token="<|im_end|>")
    fast.chat_template = _TEMPLATE
    fast.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("messages", "tools"), _CHATS)
def test_the_assistants_tokens_are_those_that_transformers_marks(
    theirs: Path, messages: list[Message], tools: list[dict[str, Any]]
) -> None:
    fast, ours = AutoTokenizer.from_pretrained(theirs), template_of(theirs, load_tokenizer(theirs / "tokenizer.json"))
    said = [message.model_dump(exclude_defaults=True) for message in messages]
    for message in said:
        message["tool_calls"] = [{"type": "function", "function": call} for call in message.get("tool_calls", ())]
    given = {"tools": tools or None, "return_dict": True}
    marked = fast.apply_chat_template(said, return_assistant_tokens_mask=True, **given)
    spoken = ours.spoken(messages, tools=tools)
    assert spoken.tokens == marked["input_ids"]
    assert [int(mine) for mine in spoken.said] == marked["assistant_masks"]
    assert any(spoken.said)
    asked = fast.apply_chat_template(said[:1], add_generation_prompt=True, **given)
    assert ours.encode(messages[:1], tools=tools) == asked["input_ids"]


def test_it_goes_through_training_and_export_to_transformers(theirs: Path, tmp_path: Path) -> None:
    text, chats = tmp_path / "text.jsonl", tmp_path / "chats.jsonl"
    text.write_text("\n".join(json.dumps({"text": f"{n} times. " + _TEXT * 9}) for n in range(20)))
    said = ([{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": "3"}] for n in range(9))
    chats.write_text("\n".join(json.dumps({"messages": messages}) for messages in said))
    start = gathered(theirs, tmp_path / "sealed")
    corpus = prepare(
        [Source(path=text, format="jsonl")], tmp_path / "corpus", tokenizer=theirs / "tokenizer.json", vocab_size=320
    )
    short = {"tokens": 256, "batch": 2, "sequence": 64}
    stages = stages_of(
        [{"kind": "pretrain", **short}, {"kind": "sft", "data": str(chats), **short}, {"kind": "ptq", "sequence": 64}]
    )
    trained, outcomes = run(stages, start.architecture, corpus.directory, tmp_path / "out", start=start)
    sealed = [start, *(Checkpoint(tmp_path / "out" / each.checkpoint) for each in outcomes)]
    chat, tools = _CHATS[-1]
    wanted = template_of(theirs, start.tokenizer).spoken(chat, tools=tools)
    assert len(sealed) == 4
    for each in sealed:
        found = template_of(each.directory, each.tokenizer)
        assert found.spoken(chat, tools=tools) == wanted
        assert found.ends == template_of(theirs, start.tokenizer).ends

    plain = gathered(_without_template(theirs, tmp_path / "plain"), tmp_path / "sealed")
    assert plain.directory != start.directory  # equal weights that speak otherwise are another checkpoint

    command = ["model", "export", str(trained.directory), "--hf", str(tmp_path / "hf")]
    exported = CliRunner().invoke(application(), command)
    assert exported.exit_code == 0, exported.output
    fast, model = (kind.from_pretrained(tmp_path / "hf") for kind in (AutoTokenizer, AutoModelForCausalLM))
    assert fast.chat_template == _TEMPLATE
    assert fast.eos_token == "<|im_end|>"
    marked = fast.apply_chat_template(
        [{"role": "user", "content": "1 + 2?"}, {"role": "assistant", "content": "3"}],
        return_assistant_tokens_mask=True,
        return_dict=True,
    )
    assert np.sum(marked["assistant_masks"]) == 2
    assert fast.eos_token_id in model.generation_config.eos_token_id
    with torch.no_grad():
        here = trained.model()(torch.tensor([marked["input_ids"]]))
        assert torch.allclose(model(torch.tensor([marked["input_ids"]])).logits, here, atol=1e-4)


def _without_template(folder: Path, target: Path) -> Path:
    target.mkdir()
    for path in folder.iterdir():
        if path.name != "chat_template.jinja":
            (target / path.name).write_bytes(path.read_bytes())
    return target
