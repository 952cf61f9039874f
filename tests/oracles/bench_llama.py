"""`make oracle-llama`: llama.cpp loads what we export, cuts text into the same tokens, and says the same.

A small model is trained on the standard library, so that its logits tell tokens apart. In f32, and with the weights
that 4 bits hold written as f32, every greedy token must be ours. In Q4_0 the weights are the same integers on both
sides; activations are rounded by other rules (llama.cpp: 8 bits per 32 values; 8da4w: 8 bits per token), so agreement
is told, not asked for. Other shapes than the trained one are compared with random weights.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from llama import Llama, LlamaError, python
from tokenizers import Tokenizer

from trainer.architecture import Architecture, Attention, ShortConv
from trainer.checkpoint import Checkpoint
from trainer.data import prepare
from trainer.errors import UnsupportedArchitecture
from trainer.generate import teacher_forced
from trainer.generation import Engine, SamplingParams
from trainer.gguf import save_gguf
from trainer.gguf.model import refuse_unknown
from trainer.hugging_face import as_deployed
from trainer.model import HybridLM
from trainer.pipeline import run
from trainer.pretrain import Pretrain
from trainer.qat import Qat
from trainer.quantise import pack, quantised
from trainer.sources import Source

NEW = 96
TIE = 1e-3  # of the logits' spread
VOCABULARY = 512
SHAPES = [  # kernel, heads, kv_heads, head_dim, blocks
    (3, 4, 2, 32, "cacca"),
    (5, 4, 4, 32, "ac"),
    (2, 4, 1, 32, "ca"),
    (4, 2, 1, 64, "cacc"),
    (3, 16, 2, 8, "ca"),
    (16, 8, 8, 16, "caac"),
]
TEXTS = [
    "naïve words",
    " two  spaces\n\n",
    "don't , ! 😀 日本語 I'M we'LL 12345 x3",
    "",
    "a\t\tb\r\n c ",
    "<|endoftext|>x",
    "½ ² ٣٤ Ⅷ\u00a0 \u3000x\u2028y_z__\u200b e\u0301",
    Path(argparse.__file__).read_text()[:20_000],
]


def architecture(kernel: int, heads: int, kv_heads: int, head_dim: int, blocks: str) -> Architecture:
    kinds = {"c": ShortConv(kernel=kernel), "a": Attention(heads=heads, kv_heads=kv_heads, head_dim=head_dim)}
    chosen = tuple(kinds[kind] for kind in blocks)
    return Architecture(vocab_size=VOCABULARY, width=heads * head_dim, ffn_width=192, blocks=chosen)


def trained(scratch: Path) -> Checkpoint:
    """A few seconds of pretraining and QAT."""
    corpus = prepare([Source(path=Path(argparse.__file__))], scratch / "corpus", vocab_size=VOCABULARY, seed=1)
    small = {"batch": 8, "sequence": 128}
    stages = [Pretrain(tokens=120_000, **small), Qat(tokens=20_000, **small)]
    checkpoint, _ = run(stages, architecture(*SHAPES[0]), corpus.directory, scratch / "run")
    return checkpoint


def louder(model: HybridLM) -> HybridLM:
    """Random weights whose answers are no single word."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.copy_(0.5 + torch.rand(parameter.shape, generator=generator))
            elif name.endswith(("out_proj.weight", "w2.weight")):
                parameter.mul_(8)
        model.model.embed_tokens.weight.mul_(10)
    return model.eval()


def prompts(tokenizer: Tokenizer) -> list[list[int]]:
    return [tokenizer.encode(text, add_special_tokens=False).ids for text in ("def ", "import ", "    return self.")]


def agreement(interpreter: Path, model: HybridLM, file: Path, asked: list[list[int]]) -> Iterator[tuple[int, int]]:
    """(equal leading tokens, all tokens) of every prompt."""
    with Llama(interpreter, file, context=512, threads=1, kv="f32") as theirs:
        for prompt in asked:
            said = theirs.turn(prompt, NEW)[0]
            ours = Engine(model).submit(prompt, SamplingParams(max_tokens=NEW)).result().tokens
            yield next((i for i, pair in enumerate(zip(ours, said, strict=True)) if pair[0] != pair[1]), NEW), NEW


def check_trained(interpreter: Path, scratch: Path) -> bool:
    checkpoint = trained(scratch)
    model, tokenizer = checkpoint.model(), checkpoint.tokenizer
    deployed, file, fine = as_deployed(model, pack(model)), scratch / "model.gguf", True
    for label, exported, expected in (("f32", model, model), ("f32, rounded to 4 bits", deployed, deployed)):
        save_gguf(exported, file, tokenizer=tokenizer)
        counts = list(agreement(interpreter, expected, file, prompts(tokenizer)))
        same = all(equal == total for equal, total in counts)
        fine &= same
        print(f"trained, {label}: {counts} leading greedy tokens agree{'' if same else '  <- NOT ALL'}")
    with Llama(interpreter, file, context=512, threads=1, kv="f32") as theirs:
        cut = [theirs.tokenise(text) == tokenizer.encode(text, add_special_tokens=False).ids for text in TEXTS]
    fine &= all(cut)
    print(f"texts cut into the same tokens: {sum(cut)} of {len(cut)}")
    written = save_gguf(model, file, tokenizer=tokenizer, kind="q4_0")
    counts = list(agreement(interpreter, quantised(model), file, prompts(tokenizer)))
    print(f"trained, Q4_0 ({written.size} bytes, {written.rounded} scales rounded): {counts} agree (not asked for)")
    return fine


def check_shapes(interpreter: Path, scratch: Path) -> bool:
    """Along llama.cpp's tokens, each must be ours or nearly tie with it: random weights tie often."""
    fine, file, prompt = True, scratch / "shape.gguf", [5, 17, 200, 33, 4]
    for shape in SHAPES:
        model = louder(HybridLM(architecture(*shape), seed=3))
        save_gguf(model, file, tokenizer=None)
        with Llama(interpreter, file, context=512, threads=1, kv="f32") as theirs:
            said = torch.tensor(theirs.turn(prompt, NEW)[0])
        logits = teacher_forced(model, prompt, said.tolist())
        behind = (logits.amax(-1) - logits.gather(1, said[:, None])[:, 0]) / (logits.max() - logits.min())
        fine &= bool((behind <= TIE).all())
        print(
            f"kernel {shape[0]}, {shape[1]} heads of {shape[3]}, {shape[2]} KV, {shape[4]}: {int((behind == 0).sum())} "
            f"of {NEW} tokens are ours, another is at most {behind.max():.0e} of the logits' spread behind"
        )
    return fine


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--llama", type=Path, default=Path(".cache/llama"), help="where llama.cpp lies or is built")
    interpreter = python(parser.parse_args().llama)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="fulcrum-llama-") as place:
        fine = check_trained(interpreter, Path(place))
        fine &= check_shapes(interpreter, Path(place))
        fine &= check_refused(interpreter, Path(place))
    print("llama.cpp agrees." if fine else "llama.cpp does NOT agree.")
    return 0 if fine else 1


def check_refused(interpreter: Path, scratch: Path) -> bool:
    """What we refuse, llama.cpp cannot run: the refusals are facts of llama.cpp, not fears of ours."""
    import trainer.gguf.model as writer

    fine, known = True, refuse_unknown
    for shape in ((3, 4, 2, 32, "cc"), (3, 4, 2, 32, "aa")):
        model, file = HybridLM(architecture(*shape)), scratch / "refused.gguf"
        try:
            save_gguf(model, file, tokenizer=None)
            fine = False
        except UnsupportedArchitecture as refused:
            print(f"{shape[4]}: {refused.message}", end="; ")
        writer.refuse_unknown = lambda _: None  # type: ignore[assignment]
        try:
            save_gguf(model, file, tokenizer=None)
        finally:
            writer.refuse_unknown = known
        try:
            with Llama(interpreter, file, context=512, threads=1, kv="f32") as theirs:
                theirs.turn([1, 2, 3], 4)
            fine = False
            print("but llama.cpp runs it")
        except LlamaError:
            print("and llama.cpp ends")
    return fine


if __name__ == "__main__":
    sys.exit(main())
