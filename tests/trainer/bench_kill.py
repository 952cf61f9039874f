"""Kill -9 at random moments, twenty times in one training, alone and over ranks: the same weights to the bit."""

import argparse
import json
import sysconfig
import tempfile
import time
from pathlib import Path

import torch
from test_killed_training import killed_over_and_over

from trainer.architecture import Architecture, Attention, ShortConv
from trainer.data import prepare
from trainer.sources import Source


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20, help="in each training")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2], help="a training with so many processes each")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--json", type=Path, help="write what was found here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    blocks = (ShortConv(), Attention(heads=2, kv_heads=1, head_dim=16))
    architecture = Architecture(vocab_size=300, width=32, ffn_width=64, blocks=blocks)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        text = Path(sysconfig.get_path("stdlib")) / "argparse.py"
        corpus = prepare([Source(path=text)], Path(folder) / "corpus", vocab_size=300).directory
        for ranks in arguments.ranks:
            begun, rolling = time.monotonic(), Path(folder) / f"over {ranks}"
            halves, seen = killed_over_and_over(
                ranks, arguments.kills, corpus, architecture, rolling, arguments.seed + ranks
            )
            found.append({"ranks": ranks, "kills": arguments.kills, "in_a_checkpoint": halves, "checkpoints": seen})
            print(
                f"{ranks} rank(s): killed {arguments.kills} times, {halves} of them in the middle of a checkpoint; "
                f"final weights equal to the bit ({time.monotonic() - begun:.0f} s)",
                flush=True,
            )
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
