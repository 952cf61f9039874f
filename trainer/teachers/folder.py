"""Opening a teacher by its folder: ours, transformers', or a cache of either's predictions."""

import hashlib
import json
from pathlib import Path

from tokenizers import Tokenizer

from trainer.checkpoint import Checkpoint
from trainer.data import Corpus
from trainer.errors import TeacherError, UnsupportedArchitecture
from trainer.interop import load_folder
from trainer.teachers.cache import TeacherCache, is_cache
from trainer.teachers.hugging_face import load_transformers
from trainer.teachers.teacher import LiveTeacher, OurTeacher
from trainer.teachers.tokenizers import require_same

_MODEL_FILES = ("architecture.json", "config.json", "tokenizer.json", "model*.safetensors*", "pytorch_model*.bin*")


def open_teacher(folder: Path, corpus: Corpus) -> LiveTeacher | TeacherCache:
    """The teacher in `folder`, fit to read `corpus`.

    An Lfm2 model of transformers becomes one of ours, which keeps packed documents apart at full speed.

    Raises:
        TeacherError: nothing is there, its tokenizer is not the corpus's, its vocabulary is too small, or transformers,
            where it is needed, is missing or refuses.
        CheckpointError: a checkpoint or an Lfm2 folder is damaged.
    """
    if is_cache(folder):
        return TeacherCache.open(folder)
    ours = (folder / "architecture.json").exists()
    if not ours and not (folder / "config.json").exists():
        raise TeacherError(
            f"{folder} holds no teacher: neither architecture.json nor config.json is there",
            advice="give a checkpoint of ours, a folder of transformers, or what `fulcrum teach` made",
        )
    require_same(_tokenizer(folder), corpus.tokenizer, str(folder))
    vocabulary = corpus.vocab_size
    teacher = OurTeacher(Checkpoint(folder).model(), str(folder), vocabulary) if ours else _foreign(folder, vocabulary)
    if teacher.vocab_size < corpus.tokenizer.get_vocab_size():
        raise TeacherError(
            f"{teacher.name} predicts {teacher.vocab_size} tokens, and the tokenizer has "
            f"{corpus.tokenizer.get_vocab_size()}",
            advice="the folder's tokenizer.json is not that of its weights; copy both again",
        )
    return teacher


def identity(folder: Path) -> str:
    """sha256 of what determines a teacher's predictions: its configuration, tokenizer and weights. Names do not count.

    Raises:
        TeacherError: there are no files of a model.
    """
    if is_cache(folder):
        return TeacherCache.open(folder).manifest.plan.teacher
    files = sorted({path for pattern in _MODEL_FILES for path in folder.glob(pattern)})
    if not files:
        raise TeacherError(f"{folder} holds no model", advice="check the path")
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(f"{path.name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\0".encode())
    return digest.hexdigest()


def _foreign(folder: Path, vocab_size: int) -> LiveTeacher:
    if _kind(folder) == "lfm2":
        try:
            return OurTeacher(load_folder(folder), str(folder), vocab_size)
        except UnsupportedArchitecture:
            pass  # biases, scaled rope: transformers reads it, one document at a time
    return load_transformers(folder, str(folder), vocab_size)


def _kind(folder: Path) -> str:
    try:
        return str(json.loads((folder / "config.json").read_text()).get("model_type"))
    except (OSError, ValueError, AttributeError) as wrong:
        raise TeacherError(f"{folder}: config.json cannot be read: {wrong}", advice="copy it again") from wrong


def _tokenizer(folder: Path) -> Tokenizer:
    path = folder / "tokenizer.json"
    if not path.exists():
        raise TeacherError(
            f"{folder} has no tokenizer.json, so nothing tells whether it reads the corpus's tokens",
            advice="put the teacher's tokenizer.json there: AutoTokenizer.from_pretrained(...).save_pretrained(...)",
        )
    try:
        return Tokenizer.from_file(str(path))
    except Exception as wrong:  # the library raises bare Exception for every fault of a file
        raise TeacherError(f"{path} cannot be read: {wrong}", advice="copy it again; it may be cut short") from wrong
