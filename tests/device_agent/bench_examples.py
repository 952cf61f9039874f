"""What the bench's tests share: a stub runner that keeps the runner's contract, Programs for it, and jobs."""

import hashlib
import time
from collections.abc import Callable
from pathlib import Path

from device_agent.contracts import GenerateJob, MeasureJob, Program, Protocol, Quantisation, StageSpec
from device_agent.runner.build import HOST_ABI
from device_agent.runner.bundle import MANIFEST, RunnerBundle, RunnerFile, RunnerManifest

EXECUTORCH = "1.4.1"

# The word in the Program's only file says how the run ends.
STUB = """#!/bin/sh
while read -r key value rest; do
  case "$key" in
    mode) mode=$value ;;
    repetitions) repetitions=$value ;;
    decode) decode=$value ;;
    stage) file=$value ;;
  esac
done < "$1"
case "$(cat "$file")" in
  segv*) echo "about to fall" >&2; kill -SEGV $$ ;;
  killed*) kill -KILL $$ ;;
  refused*) echo '{"event":"error","slug":"program-refused","message":"no such operator"}'; exit 1 ;;
  silent*) exit 0 ;;
  slow*) echo $$ > slow.pid; sleep 60 ;;
esac
echo "a library's log line"
echo '{"event":"loaded","load_ns":1000,"baseline_bytes":100}'
if [ "$mode" = generate ]; then
  echo '{"event":"prefilled","ns":5}'
  i=0; while [ $i -lt "$decode" ]; do
    echo '{"event":"token","token":'$i',"logit":1.5,"runner_up":9,"runner_up_logit":1.0,"ns":7}'; i=$((i + 1))
  done
else
  i=0; while [ $i -lt "$repetitions" ]; do
    echo '{"event":"repetition","prefill_ns":10,"decode_ns":[1,2,3]}'; i=$((i + 1))
  done
fi
echo '{"event":"done","peak_bytes":300}'
"""


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def stub_bundle(directory: Path, *, abi: str = HOST_ABI, executorch: str = EXECUTORCH) -> RunnerBundle:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "stub").write_text(STUB)
    manifest = RunnerManifest(
        id="stub",
        abi=abi,
        executorch=executorch,
        files=(RunnerFile(name="stub", sha256=sha256(STUB.encode()), executable=True),),
        entry="stub",
    )
    (directory / MANIFEST).write_text(manifest.model_dump_json())
    return RunnerBundle(directory)


def program(content: bytes) -> Program:
    name = sha256(content)
    return Program(
        layout="monolithic",
        architecture=sha256(b"architecture"),
        executorch=EXECUTORCH,
        quantisation=Quantisation(),
        vocab_size=64,
        context_length=256,
        prefill_chunk=16,
        planned_memory=1,
        files={name: len(content)},
        stages=(StageSpec(name="all", file=name),),
    )


def measure_job(content: bytes = b"fine") -> MeasureJob:
    protocol = Protocol(prefill_tokens=4, decode_tokens=3, warmup=0, repetitions=2, blocks=2)
    return MeasureJob(program=program(content), protocol=protocol)


def generate_job(content: bytes = b"fine") -> GenerateJob:
    return GenerateJob(program=program(content), prompt=(1, 2), new_tokens=3)


def eventually(condition: Callable[[], bool], seconds: float = 15.0) -> None:
    """Poll until it holds; AssertionError after `seconds`."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it never came to hold"
        time.sleep(0.02)
