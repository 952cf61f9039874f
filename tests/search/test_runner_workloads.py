"""What the native runner does beside the main workload, on real Programs: workloads, small KV caches, prefixes."""

import json
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from test_export import ARCHITECTURE, CHUNK, CONTEXT, FLOAT, Disk, _continue
from torch import Tensor

from device_agent.adb import Link, ensure_key
from device_agent.bench import Bench
from device_agent.contracts import (
    GenerateJob,
    Generation,
    KvCache,
    MeasureJob,
    Measurement,
    PrefixUse,
    Profile,
    Program,
    Protocol,
)
from device_agent.runner.bundle import RunnerBundle
from device_agent.runner.output import (
    parse_cold_load,
    parse_generate,
    parse_golden,
    parse_measure,
    parse_prefix,
    parse_stages,
)
from device_agent.runner.plan import (
    SNAPSHOTS,
    cold_load_plan,
    generate_plan,
    golden_plan,
    measure_plan,
    memory_plan,
    stages_plan,
    sustained_plan,
)
from device_agent.virtual import running
from search.bytes import file_rows
from search.export import export_candidates, link_program
from search.export.contents import account, contents
from search.export.lowering import Kept
from search.export.modules import Chain
from search.export.pieces import Piece, pieces_of
from search.spec import SearchSpec
from trainer.precision import FULL, Scheme

PROTOCOL = Protocol(
    prefill_tokens=16, decode_tokens=6, prefill_lengths=(48,), decode_depths=(40, "full"), warmup=2, repetitions=3
)


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Disk:
    return Disk(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def runner(host_runner: RunnerBundle) -> Path:
    return host_runner.directory / "fulcrum-runner"


def _run(runner: Path, plan: str, tmp_path: Path) -> list[str]:
    """The runner is started where snapshots may lie."""
    (tmp_path / "plan").write_text(plan)
    done = subprocess.run([runner, "plan"], capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path)
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def program(disk: Disk) -> Program:
    return _export(disk)[1]


def _spec(kv_cache: KvCache, context: int) -> SearchSpec:
    return SearchSpec(
        corpus="any",
        phones=("any",),
        vocab_size=260,
        context_length=context,
        prefill_chunk=CHUNK,
        protocol=PROTOCOL.model_copy(update={"kv_cache": kv_cache}),
        quantisation=FLOAT,  # exported in a fraction of the time; what is measured here does not depend on it
    )


def _export(disk: Disk, kv_cache: KvCache = "float32", context: int = CONTEXT) -> tuple[SearchSpec, Program]:
    spec = _spec(kv_cache, context)
    pieces = pieces_of(ARCHITECTURE, context=context, chunk=CHUNK, quantisation=FLOAT, kv_cache=kv_cache)
    for _, piece, _ in pieces:
        disk.kept[piece.template_key] = Kept(why="of each kind there is one piece: no template pays").model_dump_json()
    with ThreadPoolExecutor(1) as pool:
        exported = export_candidates([ARCHITECTURE], spec, disk, disk, pool)[0]
    assert not isinstance(exported, Exception)
    return spec, exported.program


def synthetic_prompt(length: int, vocab: int) -> list[int]:
    """The runner's own prompt: Knuth's MMIX generator, its upper bits."""
    tokens, x = [], 1
    for _ in range(length):
        x = (x * 6364136223846793005 + 1442695040888963407) % 2**64
        tokens.append((x >> 33) % vocab)
    return tokens


def test_every_workload_brings_its_samples(runner: Path, disk: Disk, program: Program, tmp_path: Path) -> None:
    job = MeasureJob(program=program, protocol=PROTOCOL)
    further = PROTOCOL.further(CONTEXT)
    block = parse_measure(_run(runner, measure_plan(job, disk.paths(program)), tmp_path), further)
    assert (len(block.prefill_ns), [len(times) for times in block.decode_ns]) == (3, [6, 6, 6])
    assert block.first_prefill_ns
    assert block.cpu_ns
    prompt, depth, full = block.further
    assert (len(prompt.prefill_ns), prompt.decode_ns) == (3, ())
    assert [len(times) for times in depth.decode_ns] == [6, 6, 6]
    assert depth.fill_ns
    assert full.workload.prefill_tokens == CONTEXT - 6


def test_after_going_back_the_tokens_are_those_of_a_plain_continuation(
    runner: Path, disk: Disk, program: Program, tmp_path: Path
) -> None:
    job = MeasureJob(program=program, protocol=PROTOCOL)
    said = [json.loads(line) for line in _run(runner, measure_plan(job, disk.paths(program)), tmp_path)]
    at_depth = [event["token"] for event in said if event["event"] == "repetition" and event.get("workload") == 2]
    prompt = synthetic_prompt(40, program.vocab_size)
    plain = _continue(runner, program, disk, prompt, PROTOCOL.decode_tokens + 1, tmp_path)
    assert at_depth == [plain[-1].token] * 3


def test_seconds_and_their_cap_decide_how_often(runner: Path, disk: Disk, program: Program, tmp_path: Path) -> None:
    long = Protocol(prefill_tokens=16, decode_tokens=6, warmup=0, repetitions=1, repetition_seconds=0.2)
    job = MeasureJob(program=program, protocol=long)
    block = parse_measure(_run(runner, measure_plan(job, disk.paths(program)), tmp_path))
    spent = sum(block.prefill_ns) + sum(map(sum, block.decode_ns))
    assert len(block.prefill_ns) > 1
    assert spent > 0.1e9
    short = long.model_copy(update={"repetitions": 1000, "repetition_seconds": 0.0, "max_seconds": 1e-6})
    capped = MeasureJob(program=program, protocol=short)
    assert len(parse_measure(_run(runner, measure_plan(capped, disk.paths(program)), tmp_path)).prefill_ns) == 1
    minute = _run(runner, sustained_plan(job, disk.paths(program), seconds=0.2), tmp_path)
    assert len(parse_measure(minute).prefill_ns) > 1


def test_the_memory_pass_reads_the_kernel(runner: Path, disk: Disk, program: Program, tmp_path: Path) -> None:
    protocol = PROTOCOL.model_copy(update={"memory_sample_ms": 1})
    job = MeasureJob(program=program, protocol=protocol)
    plan = memory_plan(job, disk.paths(program))
    for _ in range(20):  # of a run of milliseconds, which on a busy host ends before it is looked at
        block = parse_measure(_run(runner, plan, tmp_path), PROTOCOL.further(CONTEXT))
        if block.memory_samples >= 2:
            break
    assert block.memory_samples >= 2
    assert block.sampled_peak_bytes
    assert block.baseline_bytes < block.peak_bytes
    for moment in (block.loaded, block.steady):
        assert moment is not None
        assert moment.rss_bytes
        assert moment.pss_bytes
        assert moment.private_dirty_bytes
        assert moment.swap_bytes is not None
        assert moment.file_bytes is not None
        assert moment.pss_bytes <= moment.rss_bytes * 1.1  # two readings of a process that lives
    assert len(block.prefill_ns) == 1


def test_a_cold_load_says_how_cold_it_was(runner: Path, disk: Disk, program: Program, tmp_path: Path) -> None:
    job = MeasureJob(program=program, protocol=PROTOCOL)
    load = parse_cold_load(_run(runner, cold_load_plan(job, disk.paths(program)), tmp_path))
    assert load.load_ns > 0
    assert 0 <= load.resident <= 1  # a file system in memory keeps all of it: then the load is called warm
    assert load.cold == (load.resident <= 0.01)


def test_stages_are_timed_each(runner: Path, disk: Disk, program: Program, tmp_path: Path) -> None:
    job = MeasureJob(program=program, protocol=PROTOCOL)
    names = [stage.name for stage in program.stages]
    stages = parse_stages(_run(runner, stages_plan(job, disk.paths(program)), tmp_path), names)
    assert [stage.stage for stage in stages] == names
    assert all((len(stage.prefill_ns), len(stage.decode_ns)) == (3, 18) for stage in stages)
    assert all(ns > 0 for stage in stages for ns in stage.decode_ns)


def test_a_workload_that_nobody_knows_is_refused(runner: Path, disk: Disk, program: Program, tmp_path: Path) -> None:
    plan = measure_plan(MeasureJob(program=program, protocol=PROTOCOL), disk.paths(program))
    for wrong in (plan.replace("workload prefill", "workload sing"), plan.replace("warmup 2", "warm_up 2")):
        said = json.loads(_run(runner, wrong, tmp_path)[-1])
        assert said["event"] == "error"
        assert "the plan has a" in said["message"]


# --- KV caches of other types -------------------------------------------------------------------------------------

LONG = 1 << 16


@pytest.fixture(scope="module", params=["float16", "int8"])
def small_cache(request: pytest.FixtureRequest, disk: Disk, program: Program) -> tuple[SearchSpec, Program]:
    """The same weights with another cache, of a context that makes its bytes stand out."""
    return _export(disk, kv_cache=request.param, context=LONG)


def _eager(spec: SearchSpec, tokens: list[int], prefill: int) -> Tensor:
    """Logits of the composed pieces in eager PyTorch: the first `prefill` tokens at once, the others one by one."""
    parts = list(_pieces(spec))
    chain = Chain(
        [piece.module(piece.random_weights()).eval() for piece in parts],
        [(piece.takes_position, len(piece.states())) for piece in parts],
    )
    specs = [state for piece in parts for state in piece.states()]
    states = [torch.zeros(state.shape, dtype=getattr(torch, state.dtype)) for state in specs]
    rows = []
    with torch.no_grad():
        for start, end in pairwise([0, prefill, *range(prefill + 1, len(tokens) + 1)]):
            logits, *returned = chain(torch.tensor([tokens[start:end]]), torch.tensor([start]), *states)
            fresh = iter(returned)
            states = [next(fresh) if s.update == "returned" else t for s, t in zip(specs, states, strict=True)]
            rows.append(logits[0, 0])
    return torch.stack(rows)


def _pieces(spec: SearchSpec) -> Iterator[Piece]:
    chunk, quantisation, kv = spec.prefill_chunk, spec.quantisation, spec.protocol.kv_cache
    context = spec.context_length
    for _, piece, _ in pieces_of(ARCHITECTURE, context=context, chunk=chunk, quantisation=quantisation, kv_cache=kv):
        yield piece


def test_a_small_cache_is_its_eager_rounding_and_nothing_else(
    runner: Path, disk: Disk, small_cache: tuple[SearchSpec, Program], tmp_path: Path
) -> None:
    """With W the eager float32 cache and Q the eager rounded one, the Program rounds as Q does: it may differ from Q by
    no more than two roundings of the same step, 2 max|Q - W|, and nearly everywhere by the order of sums alone.
    """
    spec, program = small_cache
    tokens = synthetic_prompt(70, program.vocab_size)
    plan = golden_plan(program, tokens, 40, 1, disk.paths(program))
    found = torch.tensor(parse_golden(_run(runner, plan, tmp_path)).logits)
    exact = _eager(_spec("float32", CONTEXT), tokens, 40)
    rounded = _eager(spec, tokens, 40)
    step = (rounded - exact).abs().max().item()
    assert 0 < step < 0.05 * exact.std().item()
    assert (found - rounded).abs().max().item() <= 2 * step
    assert (found - rounded).abs().median().item() <= 0.05 * step
    best = exact.topk(2).values
    clear = best[:, 0] - best[:, 1] > 2 * (2 * step)
    assert clear.sum() > len(clear) / 2
    assert torch.equal(found.argmax(1)[clear], exact.argmax(1)[clear])


def test_a_small_cache_takes_the_bytes_that_its_spec_says(
    runner: Path, disk: Disk, small_cache: tuple[SearchSpec, Program], tmp_path: Path
) -> None:
    spec, program = small_cache
    rows, head_dim = 2 * 2 * LONG, 16
    expected = {"float16": rows * head_dim * 2, "int8": rows * (head_dim + 4)}[spec.protocol.kv_cache]
    convolution = 3 * ARCHITECTURE.width * 4
    assert (program.kv_cache, program.state_bytes) == (spec.protocol.kv_cache, expected + convolution)
    short = spec.protocol.model_copy(update={"prefill_lengths": (), "decode_depths": ()})
    job = MeasureJob(program=program, protocol=short)
    block = parse_measure(_run(runner, memory_plan(job, disk.paths(program)), tmp_path))
    assert block.loaded
    assert block.loaded.rss_bytes
    assert block.loaded.file_bytes is not None
    anonymous = block.loaded.rss_bytes - block.loaded.file_bytes
    assert expected <= anonymous < expected + (2 << 20)  # the runner, its threads and the packed weights
    assert expected <= block.peak_bytes - block.baseline_bytes


def test_every_byte_with_a_small_cache_belongs_to_a_part(disk: Disk, small_cache: tuple[SearchSpec, Program]) -> None:
    _, program = small_cache
    assert program.kv_cache
    (file,) = link_program(program, disk.store).program.files
    rows, unexplained = account(contents(disk.directory / file), ARCHITECTURE, Scheme(weights=FULL), LONG)
    assert unexplained == 0
    predicted = file_rows(ARCHITECTURE, Scheme(weights=FULL), LONG, program.kv_cache)
    (expected,) = (row for row in predicted if row.part == "rope tables")
    assert [row.bytes for row in rows if row.part == "rope tables"] == [expected.bytes] == [4 * 16 // 2]


# --- prefixes -----------------------------------------------------------------------------------------------------


def _generate(
    runner: Path, disk: Disk, program: Program, prompt: list[int], prefix: int, directory: Path
) -> tuple[list[float], PrefixUse]:
    job = GenerateJob(program=program, prompt=tuple(prompt), new_tokens=4, prefix_tokens=prefix)
    lines = _run(runner, generate_plan(job, disk.paths(program)), directory)
    use = parse_prefix(lines)
    assert use
    return [value for step in parse_generate(lines)[1] for value in (step.token, step.logit)], use


def _plain(runner: Path, disk: Disk, program: Program, prompt: list[int], directory: Path) -> list[int]:
    return [step.token for step in _continue(runner, program, disk, prompt, 4, directory)]


def test_a_prefix_is_computed_once_and_bit_for_bit_the_same_after(
    runner: Path, disk: Disk, program: Program, tmp_path: Path
) -> None:
    prompt, other = synthetic_prompt(60, 260), [*synthetic_prompt(40, 260), 7, 8, 9]
    first, made = _generate(runner, disk, program, prompt, 40, tmp_path)
    again, used = _generate(runner, disk, program, prompt, 40, tmp_path)
    assert (made.restored, used.restored, used.kept_bytes) == (0, 40, 0)
    assert again == first
    assert [int(token) for token in first[::2]] == _plain(runner, disk, program, prompt, tmp_path)
    # The state of 40 positions, the tokens, the logits, a header; nothing of the context that is not filled.
    kv, conv, header = 2 * 40 * 2 * 16 * 4, 3 * ARCHITECTURE.width * 4, 112
    assert made.kept_bytes == header + 40 * 8 + kv + conv + 260 * 4
    # Another prompt, whose longer prefix begins with what is there; then the whole of it: nothing is computed.
    longer, grown = _generate(runner, disk, program, other, 43, tmp_path)
    whole, all_of_it = _generate(runner, disk, program, other, 43, tmp_path)
    assert (grown.restored, all_of_it.restored) == (40, 43)
    assert longer == whole
    assert [int(token) for token in whole[::2]] == _plain(runner, disk, program, other, tmp_path)


def test_a_snapshot_that_does_not_match_is_refused_and_made_anew(
    runner: Path, disk: Disk, program: Program, tmp_path: Path
) -> None:
    prompt = synthetic_prompt(60, 260)
    good, _ = _generate(runner, disk, program, prompt, 40, tmp_path)
    (path,) = (tmp_path / SNAPSHOTS).iterdir()
    data = path.read_bytes()
    flips = [(at, bytes([data[at] ^ 16])) for at in (112, 112 + 40 * 8 + 5, len(data) // 2, len(data) - 1)]
    spoilt = {
        b"": "cut short: 0 bytes",
        data[:100]: "cut short: 100 bytes",
        data[:-1]: f"cut short: {len(data) - 1} of {len(data)}",
        b"x" + data[1:]: "no snapshot",
        data[:16] + b"0" * 64 + data[80:]: "made by another Program",
        **{data[:at] + byte + data[at + 1 :]: "altered" for at, byte in flips},
    }
    for bad, why in spoilt.items():
        path.write_bytes(bad)
        same, use = _generate(runner, disk, program, prompt, 40, tmp_path)
        assert same == good
        assert (use.restored, why in use.note) == (0, True), (use, why)
        assert path.read_bytes() == data
    changed = program.model_copy(update={"planned_memory": program.planned_memory + 1})  # as other weights would
    path.rename(path.with_name(path.name.replace(program.hash[:16], changed.hash[:16])))
    same, use = _generate(runner, disk, changed, prompt, 40, tmp_path)
    assert (same, "made by another Program" in use.note) == (good, True)
    mine = next((tmp_path / SNAPSHOTS).glob(f"{changed.hash[:16]}*"))
    assert _generate(runner, disk, changed, [*prompt[:39], 1, 2], 40, tmp_path)[1].restored == 0  # other tokens
    (tmp_path / SNAPSHOTS / ".partial-of-a-killed-process").write_bytes(data)
    assert _generate(runner, disk, changed, prompt, 40, tmp_path)[1].restored == 40
    assert mine in (left := list((tmp_path / SNAPSHOTS).iterdir()))
    assert len(left) == 2


def test_snapshots_keep_to_their_bytes_and_the_least_used_goes(
    runner: Path, disk: Disk, program: Program, tmp_path: Path
) -> None:
    prompts = [[i, *synthetic_prompt(40, 260)] for i in range(4)]
    job = GenerateJob(program=program, prompt=tuple(prompts[0]), new_tokens=1, prefix_tokens=30)
    plan = generate_plan(job, disk.paths(program))
    size = (use := parse_prefix(_run(runner, plan, tmp_path))) and use.kept_bytes
    assert size
    tight = f"snapshots {SNAPSHOTS} {size * 2 + 1}"

    def restored(number: int) -> int:
        own = job.model_copy(update={"prompt": tuple(prompts[number])})
        text = re.sub(r"snapshots .*", tight, generate_plan(own, disk.paths(program)))
        found = parse_prefix(_run(runner, text, tmp_path))
        assert found
        assert len(list((tmp_path / SNAPSHOTS).iterdir())) <= 2
        return found.restored

    assert [restored(number) for number in (0, 1, 0, 2, 0, 1)] == [30, 0, 30, 0, 30, 0]  # 2 came in place of 1
    tight = f"snapshots {SNAPSHOTS} {size - 1}"
    own = job.model_copy(update={"prompt": tuple(prompts[3])})
    found = parse_prefix(
        _run(runner, re.sub(r"snapshots .*", tight, generate_plan(own, disk.paths(program))), tmp_path)
    )
    assert found
    assert "not kept: it takes" in found.note


def test_a_prefix_is_measured_with_and_without(runner: Path, disk: Disk, program: Program, tmp_path: Path) -> None:
    protocol = Protocol(
        prefill_tokens=16, decode_tokens=2, prefix_lengths=(30, 64), suffix_tokens=4, warmup=1, repetitions=3
    )
    job, further = MeasureJob(program=program, protocol=protocol), protocol.further(CONTEXT)
    assert [w.label for w in further] == ["prefix 30 of 34", "prefix 64 of 68"]
    block = parse_measure(_run(runner, measure_plan(job, disk.paths(program)), tmp_path), further)
    for samples, length in zip(block.further, (30, 64), strict=True):
        assert len(samples.prefill_ns) == len(samples.restored_ns) == len(samples.restore_ns) == 3
        assert all(0 < part < whole for part, whole in zip(samples.restore_ns, samples.restored_ns, strict=True))
        fixed = 112 + 3 * ARCHITECTURE.width * 4 + 260 * 4
        assert samples.snapshot_bytes == fixed + length * (8 + 2 * 2 * 16 * 4)
    assert not list((tmp_path / SNAPSHOTS).iterdir())  # what was measured is not left behind
    assert Protocol(prefix_lengths=(4096,)).left_out(CONTEXT)[0].kind == "prefix"


def test_a_phone_keeps_a_prefix_from_job_to_job(runner: Path, disk: Disk, program: Program, tmp_path: Path) -> None:
    files = {name: Path(path) for name, path in disk.paths(program).items()}
    prompt = tuple(synthetic_prompt(60, 260))
    talk = GenerateJob(program=program, prompt=prompt, new_tokens=3, prefix_tokens=50)
    protocol = Protocol(prefill_tokens=16, decode_tokens=2, prefix_lengths=(32,), blocks=1, repetitions=2)
    key = ensure_key(tmp_path / "adbkey")
    with running(tmp_path / "phone", accept_first_key=True) as phone, Link.connect(phone.address, key) as link:
        bench = Bench(link, RunnerBundle(runner.parent), serial="phone:1")
        first, second = (bench.run(talk, files) for _ in range(2))
        assert isinstance(first, Generation)
        assert isinstance(second, Generation)
        assert first.prefix
        assert second.prefix
        assert (first.prefix.restored, second.prefix.restored) == (0, 50)
        assert [(s.token, s.logit) for s in first.steps] == [(s.token, s.logit) for s in second.steps]
        measured = bench.run(MeasureJob(program=program, protocol=protocol), files)
        assert isinstance(measured, Measurement)
        (workload,) = Profile.of(measured).further
        assert workload.restored_share
        assert workload.snapshot_bytes_per_token
        kept = tmp_path / "phone/data/local/tmp/fulcrum" / SNAPSHOTS
        assert [path.stat().st_size for path in kept.iterdir()] == [first.prefix.kept_bytes]
        sweeping = Bench(link, RunnerBundle(runner.parent), serial="phone:1", keep_free_bytes=1 << 60)
        assert isinstance(sweeping.run(talk.model_copy(update={"prefix_tokens": 0}), files), Generation)
        assert not list(kept.iterdir())


def test_two_threads_say_what_one_says(runner: Path, disk: Disk, program: Program, tmp_path: Path) -> None:
    job = GenerateJob(program=program, prompt=tuple(synthetic_prompt(50, 260)), new_tokens=20)
    said = []
    for threads in (1, 2, 3):
        lines = _run(runner, generate_plan(job, disk.paths(program), threads), tmp_path)
        said.append(parse_generate(lines)[1])
    for steps in said[1:]:
        assert [step.token for step in steps] == [step.token for step in said[0]]
        assert [step.logit for step in steps] == pytest.approx([step.logit for step in said[0]], abs=1e-4)


def test_an_empty_runner_is_small(runner: Path, disk: Disk, program: Program, tmp_path: Path) -> None:
    """Without torch and without an interpreter; everything that it maps counts."""
    block = parse_measure(
        _run(runner, memory_plan(MeasureJob(program=program, protocol=PROTOCOL), disk.paths(program)), tmp_path),
        PROTOCOL.further(CONTEXT),
    )
    assert block.baseline_bytes < 40e6
    done = subprocess.run(["readelf", "-d", runner], capture_output=True, text=True, check=True)
    assert "libpython" not in done.stdout
