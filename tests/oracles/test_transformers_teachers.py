"""Models of transformers as teachers: what they predict of a packed window is what they predict of each document."""

from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    Lfm2Config,
    LlamaConfig,
    MambaConfig,
    PretrainedConfig,
)

from trainer.data import Batch
from trainer.distil import TopK
from trainer.errors import TeacherError
from trainer.teachers.folder import identity, open_teacher
from trainer.teachers.hugging_face import TransformersTeacher
from trainer.teachers.teacher import OurTeacher
from trainer.tokenizer import train_tokenizer

_VOCABULARY = 300
_TEXT = "Some words of a text; naïve ones too.\n\tif x == 3:\n"
_SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 320}
_HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}
_CONFIGS = {
    "gpt2": GPT2Config(vocab_size=320, n_embd=32, n_layer=2, n_head=2, n_positions=32),
    "llama": LlamaConfig(**_SMALL, **_HEADS, max_position_embeddings=64),
    "gemma2": Gemma2Config(**_SMALL, **_HEADS, final_logit_softcapping=2.0, sliding_window=4),
    "mamba": MambaConfig(vocab_size=320, hidden_size=32, num_hidden_layers=2),
    "lfm2": Lfm2Config(
        **_SMALL,
        num_attention_heads=2,
        num_key_value_heads=1,
        layer_types=["conv", "full_attention"],
        block_auto_adjust_ff_dim=False,
    ),
}


class _Corpus:
    """As much of a corpus as a teacher looks at."""

    vocab_size = _VOCABULARY

    def __init__(self) -> None:
        self.tokenizer = train_tokenizer([_TEXT] * 3, _VOCABULARY)


def _saved(kind: str, folder: Path, corpus: _Corpus, change: dict[str, object] | None = None) -> Path:
    torch.manual_seed(3)
    config: PretrainedConfig = _CONFIGS[kind]
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(5)
    model.save_pretrained(folder)
    corpus.tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def _packed() -> Batch:
    lengths = torch.tensor([[7, 1, 12], [12, 5, 3]])
    tokens = torch.randint(0, 280, (2, 20), generator=torch.Generator().manual_seed(5))
    documents = torch.stack([torch.repeat_interleave(torch.arange(3), row) for row in lengths])
    return Batch(tokens, tokens, documents, torch.arange(2))


@pytest.mark.parametrize("kind", _CONFIGS)
@torch.no_grad()
def test_each_document_is_read_on_its_own(kind: str, tmp_path: Path) -> None:
    corpus, batch = _Corpus(), _packed()
    folder = _saved(kind, tmp_path, corpus)
    teacher = open_teacher(folder, corpus)
    assert isinstance(teacher, OurTeacher if kind == "lfm2" else TransformersTeacher)
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    found, whole = teacher.top_k(batch, 9), teacher.logits(teacher.hidden(batch))
    for row in range(2):
        for document in range(3):
            here = batch.documents[row] == document
            alone = theirs(batch.inputs[row][here][None], use_cache=False).logits[0]
            assert (whole[row][here] - alone[:, :_VOCABULARY]).abs().max() < 1e-4
            expected = TopK.of(alone[:, :_VOCABULARY], 9)
            assert (found.logits[row][here] - expected.logits).abs().max() < 1e-4
            assert (found.logsumexp[row][here] - expected.logsumexp).abs().max() < 1e-4
    leaky = theirs(batch.inputs, use_cache=False).logits[..., :_VOCABULARY]
    assert (leaky - whole).abs().max() > 1e-2  # so the test can fail


def test_folders_that_cannot_teach_say_why(tmp_path: Path) -> None:
    corpus = _Corpus()
    folder = _saved("gpt2", tmp_path / "gpt2", corpus)
    known = identity(folder)
    teacher = open_teacher(folder, corpus)
    long = torch.zeros(1, 33, dtype=torch.int64)
    with pytest.raises(TeacherError, match="at most 32 tokens"):
        teacher.top_k(Batch(long, long, long, torch.arange(1)), 4)

    (folder / "tokenizer.json").rename(folder / "elsewhere.json")
    with pytest.raises(TeacherError, match=r"no tokenizer\.json"):
        open_teacher(folder, corpus)
    train_tokenizer(["quite another text"], 280).save(str(folder / "tokenizer.json"))
    with pytest.raises(TeacherError, match="another vocabulary"):
        open_teacher(folder, corpus)
    assert identity(folder) != known

    (folder / "elsewhere.json").replace(folder / "tokenizer.json")
    assert identity(folder) == known
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(TeacherError, match="cannot be loaded by transformers"):
        open_teacher(folder, corpus)
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace('"gpt2"', '"of-another-time"'))
    with pytest.raises(TeacherError, match="cannot be loaded by transformers"):
        open_teacher(folder, corpus)


def test_weights_that_are_not_there_are_never_made_up(tmp_path: Path) -> None:
    corpus = _Corpus()
    folder = _saved("llama", tmp_path, corpus)
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace('"num_hidden_layers": 2', '"num_hidden_layers": 3'))
    with pytest.raises(TeacherError, match="lack or misshape"):
        open_teacher(folder, corpus)


def test_without_transformers_its_teachers_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = _Corpus()
    folder = _saved("llama", tmp_path, corpus)
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(TeacherError, match="not installed") as refused:
        open_teacher(folder, corpus)
    assert "teachers" in refused.value.advice


def test_code_that_a_folder_brings_is_never_run(tmp_path: Path) -> None:
    corpus = _Corpus()
    folder = _saved("llama", tmp_path, corpus)
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Model: ...\nclass Config: ...\n")
    config = (folder / "config.json").read_text().replace('"llama"', '"evil"')
    mapped = '{"auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"},'
    (folder / "config.json").write_text(config.replace("{", mapped, 1))
    with pytest.raises(TeacherError):
        open_teacher(folder, corpus)
    assert not (tmp_path / "ran").exists()
