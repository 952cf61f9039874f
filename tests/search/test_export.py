"""Export judged by the eager model, in the runner that virtual phones run.

The bound for 4-bit Programs. Weights are the same integers and bfloat16 scales on both sides, so the two differ only
in how 8-bit activations are rounded. With W the model of the same weights and unrounded activations, the eager
quantised model Q and the exported one P are two roundings of W of the same step; by the triangle inequality
|P - Q| <= |P - W| + |Q - W|, and as |P - W| is distributed like |Q - W|, we ask max|P - Q| <= 2 max|Q - W|.
In float32 nothing is rounded: only the order of sums differs, and we ask 1e-5 of the logits' spread.
"""

import hashlib
import json
import subprocess
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

from device_agent.contracts import GenerateJob, MeasureJob, Program, Protocol, Quantisation, StageSpec
from device_agent.runner.bundle import RunnerBundle
from device_agent.runner.output import parse_generate, parse_measure
from device_agent.runner.plan import generate_plan, measure_plan
from search.blocks import blocks_of
from search.bytes import file_rows
from search.errors import NotAProgram
from search.export import export_candidates, export_model, link_program
from search.export.contents import account, contents
from search.export.lower import lower
from search.export.lowering import Templates
from search.export.modules import Chain
from search.export.pieces import pieces_of
from search.memory import Deployment, predicted_peak
from search.spec import SearchSpec
from trainer.architecture import Architecture, Attention, ShortConv
from trainer.model import HybridLM
from trainer.precision import FULL, Scheme
from trainer.quantise import quantised

CONTEXT, CHUNK = 96, 32
FLOAT = Quantisation(weight_bits=32, activation_bits=32, embedding_bits=32)
SCHEMES = {4: Scheme(), 32: Scheme(weights=FULL)}
ARCHITECTURE = Architecture(
    vocab_size=260,
    width=64,
    ffn_width=96,
    blocks=(ShortConv(kernel=4), Attention(heads=4, kv_heads=2, head_dim=16)),
)


class Disk:
    """A store and a cache in a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.kept: dict[str, str] = {}

    def put(self, *arguments: bytes | str) -> str:
        if len(arguments) == 2:
            self.kept[str(arguments[0])] = str(arguments[1])
            return ""
        data = arguments[0]
        assert isinstance(data, bytes)
        name = hashlib.sha256(data).hexdigest()
        (self.directory / name).write_bytes(data)
        return name

    def get(self, key: str) -> str | None:
        return self.kept.get(key)

    @property
    def store(self) -> "DiskStore":
        return DiskStore(self.directory)

    def paths(self, program: Program) -> dict[str, str]:
        return {file: str(self.directory / file) for file in program.files}


class DiskStore:
    """The store's side of it: what was kept under a name is bytes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def put(self, data: bytes) -> str:
        name = hashlib.sha256(data).hexdigest()
        (self.directory / name).write_bytes(data)
        return name

    def get(self, name: str) -> bytes:
        return (self.directory / name).read_bytes()


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Disk:
    return Disk(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def runner(host_runner: RunnerBundle) -> Path:
    return host_runner.directory / "fulcrum-runner"


@pytest.fixture(scope="module")
def model() -> HybridLM:
    torch.manual_seed(1)
    model = HybridLM(ARCHITECTURE).eval()
    for parameter in model.parameters():
        parameter.data *= 2.0  # an untrained model's logits are too flat to tell tokens apart
    return model


@pytest.fixture(scope="module")
def executor() -> Iterator[Executor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


@pytest.fixture(scope="module")
def composed(model: HybridLM, disk: Disk) -> Program:
    """The model's own weights in a Program of many files."""
    weights = model.state_dict()
    stages, files = [], {}
    pieces = pieces_of(ARCHITECTURE, context=CONTEXT, chunk=CHUNK, quantisation=Quantisation())
    for name, piece, names in pieces:
        data = Templates(disk).lower(piece, {short: weights[long].float() for short, long in names.items()}).data
        file = disk.put(data)
        files[file] = len(data)
        stages.append(StageSpec(name=name, file=file, takes_position=piece.takes_position, state=piece.states()))
    return Program(
        layout="composed",
        architecture=ARCHITECTURE.hash,
        executorch="1.4.1",
        quantisation=Quantisation(),
        vocab_size=ARCHITECTURE.vocab_size,
        context_length=CONTEXT,
        prefill_chunk=CHUNK,
        planned_memory=10**9,
        files=files,
        stages=tuple(stages),
    )


@pytest.fixture(scope="module")
def four_bit(composed: Program, disk: Disk) -> Program:
    return link_program(composed, disk.store).program


def _run(runner: Path, plan: str, tmp_path: Path) -> list[str]:
    (tmp_path / "plan").write_text(plan)
    done = subprocess.run([runner, tmp_path / "plan"], capture_output=True, text=True, timeout=60, check=False)
    return done.stdout.splitlines()


def _continue(runner: Path, program: Program, disk: Disk, prompt: list[int], new: int, tmp_path: Path):
    job = GenerateJob(program=program, prompt=tuple(prompt), new_tokens=new)
    return parse_generate(_run(runner, generate_plan(job, disk.paths(program)), tmp_path))[1]


def _teacher_forced(model: HybridLM, prompt: list[int], taken: list[int]) -> Tensor:
    with torch.no_grad():
        return model(torch.tensor([prompt + taken]))[0, len(prompt) - 1 : -1]


def _prompt(length: int) -> list[int]:
    return torch.randint(0, 260, (length,), generator=torch.Generator().manual_seed(length)).tolist()


def _worst(steps, logits: Tensor) -> float:
    """The largest difference over both reported logits of every step."""
    pairs = [(s.token, s.logit) for s in steps], [(s.runner_up, s.runner_up_logit) for s in steps]
    return max(abs(logits[i, token].item() - logit) for side in pairs for i, (token, logit) in enumerate(side))


@pytest.mark.parametrize("kind", ["embedding", "conv", "attention", "ffn", "head"])
def test_every_kind_of_piece_has_a_template(kind: str, disk: Disk) -> None:
    pieces = pieces_of(ARCHITECTURE, context=CONTEXT, chunk=CHUNK, quantisation=Quantisation())
    piece = next(piece for _, piece, _ in pieces if piece.kind == kind)
    lowered = Templates(disk).lower(piece, piece.random_weights())
    assert lowered.plain == ""
    assert len(lowered.data) > 1000


@pytest.mark.parametrize("length", [1, 5, CHUNK, 2 * CHUNK + 7])
def test_float_program_is_the_eager_model(
    runner: Path, model: HybridLM, disk: Disk, length: int, tmp_path: Path, float_program: Program
) -> None:
    prompt = _prompt(length)
    steps = _continue(runner, float_program, disk, prompt, 12, tmp_path)
    logits = _teacher_forced(model, prompt, [s.token for s in steps])
    assert [s.token for s in steps] == logits.argmax(-1).tolist()
    assert _worst(steps, logits) <= 1e-5 * (logits.max() - logits.min()).item()


@pytest.fixture(scope="module")
def float_program(model: HybridLM, disk: Disk) -> Program:
    return export_model(model, context_length=CONTEXT, prefill_chunk=CHUNK, quantisation=FLOAT, store=disk)


@pytest.mark.parametrize("length", [3, 50])
def test_four_bit_program_is_within_activation_rounding(
    runner: Path, model: HybridLM, disk: Disk, four_bit: Program, length: int, tmp_path: Path
) -> None:
    prompt = _prompt(length)
    steps = _continue(runner, four_bit, disk, prompt, 24, tmp_path)
    taken = [s.token for s in steps]
    rounded = _teacher_forced(quantised(model), prompt, taken)
    weights_only = _teacher_forced(quantised(model, Scheme(activations=False)), prompt, taken)
    bound = 2 * (rounded - weights_only).abs().max().item()
    assert 0 < _worst(steps, rounded) <= bound
    # The bound tells models apart: the same network with unrounded weights is outside it.
    assert _worst(steps, _teacher_forced(model, prompt, taken)) > bound


def test_linked_program_gives_what_the_composed_one_gives_bit_for_bit(
    runner: Path, disk: Disk, four_bit: Program, composed: Program, tmp_path: Path
) -> None:
    assert composed.hash != four_bit.hash
    for length in (1, 70):
        ours, theirs = (
            _continue(runner, program, disk, _prompt(length), 20, tmp_path) for program in (four_bit, composed)
        )
        assert [s.model_copy(update={"ns": 0}) for s in ours] == [s.model_copy(update={"ns": 0}) for s in theirs]


def test_linked_program_is_the_whole_model_lowered_at_once(
    runner: Path, model: HybridLM, disk: Disk, four_bit: Program, tmp_path: Path
) -> None:
    weights = model.state_dict()
    parts, arity = [], []
    for _, piece, names in pieces_of(ARCHITECTURE, context=CONTEXT, chunk=CHUNK, quantisation=Quantisation()):
        parts.append(piece.module({short: weights[long].float() for short, long in names.items()}))
        arity.append((piece.takes_position, len(piece.states())))
    (stage,) = four_bit.stages
    example = torch.zeros(1, CHUNK // 2, dtype=torch.int64)
    data, planned = lower(Chain(parts, arity), example, CHUNK, True, stage.state)
    file = disk.put(data)
    plain = four_bit.model_copy(
        update={"files": {file: len(data)}, "stages": (stage.model_copy(update={"file": file}),)}
    )
    ours, theirs = (_continue(runner, program, disk, _prompt(70), 20, tmp_path) for program in (four_bit, plain))
    assert [s.token for s in ours] == [s.token for s in theirs]
    assert [s.logit for s in ours] == pytest.approx([s.logit for s in theirs], rel=1e-5)
    assert four_bit.planned_memory <= planned * 1.05
    assert sum(four_bit.files.values()) <= len(data) * 1.05


def test_candidates_share_what_they_have_in_common(
    runner: Path, disk: Disk, executor: Executor, tmp_path: Path
) -> None:
    spec = SearchSpec(
        corpus="any",
        phones=("any",),
        vocab_size=260,
        context_length=CONTEXT,
        prefill_chunk=CHUNK,
        protocol=Protocol(prefill_tokens=40, decode_tokens=8, repetitions=2),
    )
    deeper = ARCHITECTURE.model_copy(update={"blocks": ARCHITECTURE.blocks * 2})
    first, second = export_candidates([ARCHITECTURE, deeper], spec, disk, disk, executor)
    assert not isinstance(first, Exception)
    assert not isinstance(second, Exception)
    assert first.program.files == second.program.files
    assert len(second.program.stages) == 2 + 2 * deeper.depth
    assert first.export_seconds > 0
    assert second.export_seconds == 0
    assert first.program.planned_memory < second.program.planned_memory
    again = export_candidates([ARCHITECTURE], spec, disk, disk, executor)[0]
    assert not isinstance(again, Exception)
    assert again.program.hash == first.program.hash

    job = MeasureJob(program=second.program, protocol=spec.protocol)
    block = parse_measure(_run(runner, measure_plan(job, disk.paths(second.program)), tmp_path))
    assert len(block.prefill_ns) == 2
    assert [len(samples) for samples in block.decode_ns] == [8, 8]
    assert 0 < block.baseline_bytes < block.peak_bytes


def test_runner_says_what_is_wrong(runner: Path, disk: Disk, four_bit: Program, tmp_path: Path) -> None:
    def complaint(plan: str) -> dict[str, str]:
        return json.loads(_run(runner, plan, tmp_path)[-1])

    fitting = GenerateJob(program=four_bit, prompt=(1,), new_tokens=CONTEXT + 2)
    paths = disk.paths(four_bit)
    assert "context length" in complaint(generate_plan(fitting, paths))["message"]
    (tmp_path / "broken.pte").write_bytes(b"not a program")
    broken = dict.fromkeys(paths, str(tmp_path / "broken.pte"))
    assert complaint(generate_plan(fitting, broken))["slug"] == "program-refused"
    assert "unknown mode" in complaint(generate_plan(fitting, paths).replace("mode generate", "mode sing"))["message"]


def test_search_knows_the_blocks_that_export_makes() -> None:
    spec = SearchSpec(corpus="any", phones=("any",))
    deeper = ARCHITECTURE.model_copy(update={"blocks": (*ARCHITECTURE.blocks * 2, ShortConv(kernel=3))})
    pieces = list(pieces_of(deeper, context=CONTEXT, chunk=CHUNK, quantisation=spec.quantisation))
    blocks = blocks_of(deeper, spec)
    assert [block.name for block in blocks] == [name for name, _, _ in pieces]
    assert [block.kind for block in blocks] == [piece.kind for _, piece, _ in pieces]
    same = {(b.kind, *b.dimensions): piece.key for b, (_, piece, _) in zip(blocks, pieces, strict=True)}
    assert len(same) == len(set(same.values())) == len({piece.key for _, piece, _ in pieces})


@pytest.mark.parametrize("bits", [4, 32])
def test_every_byte_of_a_file_belongs_to_a_part(request: pytest.FixtureRequest, disk: Disk, bits: int) -> None:
    """The file is read by ExecuTorch's own deserialiser; what was predicted is what it holds."""
    program: Program = request.getfixturevalue("four_bit" if bits == 4 else "float_program")
    scheme = SCHEMES[bits]
    (file,) = program.files
    items = contents(disk.directory / file)
    assert sum(item.size for item in items) == program.files[file]
    rows, unexplained = account(items, ARCHITECTURE, scheme, CONTEXT)
    assert unexplained == 0
    found = {row.part: row for row in rows}
    for row in file_rows(ARCHITECTURE, scheme, CONTEXT):
        if row.exact and row.part != "norms":  # an untrained model's norms are equal, and stored once
            assert (found[row.part].values, found[row.part].scales) == (row.values, row.scales), row.part
    assert found["padding"].bytes < 128 * len(items)
    assert 0 < found["norms"].bytes <= file_rows(ARCHITECTURE, scheme, CONTEXT)[6].bytes
    deeper = ARCHITECTURE.model_copy(update={"ffn_width": 2 * ARCHITECTURE.ffn_width})
    assert account(items, deeper, scheme, CONTEXT)[1] > 0


def test_a_file_cut_short_is_refused(disk: Disk, four_bit: Program, tmp_path: Path) -> None:
    (file,) = four_bit.files
    (tmp_path / "short.pte").write_bytes((disk.directory / file).read_bytes()[:-1])
    with pytest.raises(NotAProgram):
        contents(tmp_path / "short.pte")


def test_the_predicted_peak_is_what_the_runner_takes(runner: Path, disk: Disk, tmp_path: Path) -> None:
    """Within 5 %, or what differs between processes and builds of the runner, with the context filled."""
    architecture = Architecture(
        vocab_size=4096, width=256, ffn_width=512, blocks=(Attention(heads=4, kv_heads=4, head_dim=64),)
    )
    context, chunk = 4096, 64
    program = export_model(
        HybridLM(architecture), context_length=context, prefill_chunk=chunk, quantisation=FLOAT, store=disk
    )
    protocol = Protocol(prefill_tokens=context - 1, decode_tokens=1, warmup=0, repetitions=1)
    job = MeasureJob(program=program, protocol=protocol)
    block = parse_measure(_run(runner, measure_plan(job, disk.paths(program)), tmp_path))
    deployment = Deployment(SCHEMES[32], context, chunk)
    predicted = predicted_peak(architecture, deployment, planned=program.planned_memory)
    assert predicted > 20e6  # of which no part is within the tolerance alone
    assert block.peak_bytes - block.baseline_bytes == pytest.approx(predicted, rel=0.05, abs=2e6)
    assert predicted_peak(architecture, deployment) == pytest.approx(predicted, rel=0.02)
