"""ExecuTorch's own export of an LFM2 shape, from the wheel: its model, its quantiser, its recipe (8da4w, XNNPACK).

It makes one method of a dynamic length whose state lies in the Program; our runner runs it as a single stage without
state. It takes minutes for a small shape and ten for 350M, in a process of its own, so the bench asks for it by a flag.
The wheel lacks the shapes' parameter files, so they are written here, and weights stay as they are initialised.
"""

import json
import subprocess
import sys
from pathlib import Path

from device_ours import Disk
from device_shapes import CONTEXT

from device_agent.contracts import Program, StageSpec, content_hash
from trainer.architecture import Architecture, Attention
from trainer.interop import to_config

# Run in the exporting process: without the repository's name no checkpoint is fetched.
_EXPORT = """
import sys
from executorch.examples.models.llama import export_llama_lib
export_llama_lib.HUGGING_FACE_REPO_IDS.clear()
from executorch.extension.llm.export.export_llm import main
sys.argv = ["export_llm", *sys.argv[1:]]
main()
"""


def export(architecture: Architecture, like: Program, disk: Disk) -> Program:
    """The Program, exported if it is not there; `like` is ours of the same shape."""
    key = content_hash({"executorch's own": architecture.hash, "context": CONTEXT, "version": like.executorch})
    if not isinstance(file := disk.get(key), str):
        file = disk.put(_exported(architecture, disk.path("")))
        disk.put(key, file)
    stage = StageSpec(name="model", file=file, takes_position=True)
    size = disk.path(file).stat().st_size
    return like.model_copy(update={"layout": "monolithic", "files": {file: size}, "stages": (stage,)})


def _exported(architecture: Architecture, directory: Path) -> bytes:
    shape, recipe, target = (directory / name for name in ("shape.json", "recipe.yaml", "executorch.pte"))
    shape.write_text(json.dumps(_shape(architecture)))
    recipe.write_text(json.dumps(_recipe(shape, target)))  # which is YAML too
    log = directory / "executorch.log"
    with log.open("w") as out:
        command = [sys.executable, "-c", _EXPORT, "--config", str(recipe)]
        done = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, cwd=directory, check=False)
    if done.returncode or not target.exists():
        raise SystemExit(f"ExecuTorch's own export failed; its last words are in {log}")
    return target.read_bytes()


def _shape(architecture: Architecture) -> dict[str, object]:
    config = to_config(architecture)
    kinds = ["full_attention" if isinstance(block, Attention) else "conv" for block in architecture.blocks]
    return {
        "dim": architecture.width,
        "hidden_dim": architecture.ffn_width,
        "n_heads": config["num_attention_heads"],
        "n_kv_heads": config["num_key_value_heads"],
        "head_dim": config["head_dim"],
        "n_layers": architecture.depth,
        "norm_eps": architecture.norm_eps,
        "rope_theta": architecture.rope_theta,
        "vocab_size": architecture.vocab_size,
        "use_scaled_rope": False,
        "use_hf_rope": True,
        "use_qk_norm": True,
        "qk_norm_before_rope": True,
        "layer_types": kinds,
    }


def _recipe(shape: Path, target: Path) -> dict[str, object]:
    return {
        "base": {"model_class": "lfm2_350m", "params": str(shape)},
        "model": {"use_kv_cache": True, "use_sdpa_with_kv_cache": True, "dtype_override": "fp32"},
        "export": {
            "max_seq_length": CONTEXT,
            "max_context_length": CONTEXT,
            "output_name": target.name,
            "output_dir": str(target.parent),
        },
        "quantization": {"qmode": "8da4w", "group_size": 32, "embedding_quantize": "4,32"},
        "backend": {"xnnpack": {"enabled": True, "extended_ops": True}},
    }
