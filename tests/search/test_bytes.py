"""The accounting before anything is built: it agrees with the parameter counts, and the free check stays below it."""

import json

import pytest
from synthetic import spec_of
from typer.testing import CliRunner

from search.bytes import KvType, file_rows, packed_by_part, total, weights
from search.estimate import floor_bytes
from search.memory import EMPTY_RUNNER, PROMISE, Deployment, kv_bytes, predicted_peak
from search.space import architecture_of, walk
from server.cli.main import application
from trainer.architecture import LFM2_1_2B, LFM2_350M, LFM2_700M, Architecture, ShortConv
from trainer.precision import EIGHT, FULL, Precision, Scheme

SHAPES = pytest.mark.parametrize("architecture", [LFM2_350M, LFM2_700M, LFM2_1_2B], ids=["350M", "700M", "1.2B"])
SCHEMES = (Scheme(), Scheme(weights=Precision(group_size=128), head=EIGHT), Scheme(weights=FULL))


@SHAPES
def test_the_weights_are_the_parameters_with_the_tied_matrix_twice(architecture: Architecture) -> None:
    counted = sum(weight.values for weight in weights(architecture) if weight.role)
    assert counted == architecture.parameters + architecture.vocab_size * architecture.width


@SHAPES
@pytest.mark.parametrize("scheme", SCHEMES, ids=["4g32", "4g128+8", "32"])
def test_the_matrices_take_what_the_scheme_says(architecture: Architecture, scheme: Scheme) -> None:
    matrices = {"embedding", "head", "conv projections", "attention projections", "FFN"}
    rows = file_rows(architecture, scheme, 4096)
    assert total(row for row in rows if row.part in matrices) == scheme.bytes(architecture)
    assert len({row.part for row in rows}) == len(rows)


def test_packing_adds_two_numbers_a_row_and_rounds_rows_up() -> None:
    """Checked against the allocations of a running Program of these widths (search/bytes.py names XNNPACK's source)."""
    small = Architecture(vocab_size=260, width=64, ffn_width=96, blocks=(ShortConv(kernel=4),))
    packed = packed_by_part(small, Scheme())
    assert packed["conv projections"] == 4 * 2816
    assert packed["FFN"] == 2 * 4224 + 3968
    assert packed["head"] == 11_648
    assert packed["norms"] == 3 * 2112
    assert packed["conv kernels"] == 1280


def test_the_free_check_is_below_the_predicted_peak() -> None:
    for group in (32, 64):
        spec = spec_of(quantisation={"group_size": group}, space={"width": (64, 128)})
        scheme = Scheme(weights=Precision(group_size=group))
        for params in walk(spec.space, 0):
            architecture = architecture_of(params, spec)
            deployment = Deployment(scheme, spec.context_length, spec.prefill_chunk)
            assert floor_bytes(architecture, spec) < predicted_peak(architecture, deployment)


def test_the_promise_at_both_shapes_and_contexts() -> None:
    """A regression guard of the documented table (docs/generation.md); the runner itself is measured by the bench."""

    def peaks(architecture: Architecture) -> list[float]:
        kinds: tuple[tuple[int, KvType], ...] = (
            (4096, "float32"),
            (4096, "int8"),
            (32_768, "float32"),
            (32_768, "int8"),
        )
        found = (predicted_peak(architecture, Deployment(context=context, kv=kv)) for context, kv in kinds)
        return [round((peak + EMPTY_RUNNER) / PROMISE, 3) for peak in found]

    assert peaks(LFM2_350M) == [0.368, 0.293, 1.08, 0.48]
    assert peaks(LFM2_1_2B) == [0.883, 0.808, 1.595, 0.995]


def test_half_precision_halves_the_cache() -> None:
    assert kv_bytes(LFM2_350M, 4096) == 2 * kv_bytes(LFM2_350M, 4096, "float16") == 12_288 * 2 * 4096


def test_the_command_adds_up() -> None:
    said = CliRunner().invoke(application(), ["model", "bytes", "LFM2-350M", "--kv", "float16", "--json"])
    answer = json.loads(said.stdout)
    parts = answer["file"]["parts"]
    assert sum(part["weights"] + part["scales"] for part in parts) == answer["file"]["bytes"]
    assert answer["parameters"] == 354_483_968
    assert [memory["context"] for memory in answer["memory"]] == [4096, 32_768]
    for memory in answer["memory"]:
        assert memory["running"] == sum(term["bytes"] for term in memory["terms"])
        assert memory["left"] + memory["peak"] + answer["empty_runner"] == answer["promise"] == PROMISE


def test_the_command_shows_both_tables() -> None:
    said = CliRunner().invoke(application(), ["model", "bytes", "lfm2-1.2b", "--context", "4096"])
    assert said.exit_code == 0
    for words in ("rope tables", "4K int8", "above the empty runner", "left of the promised 1000"):
        assert words in said.stdout


@pytest.mark.parametrize(
    ("arguments", "slug"),
    [
        (["nothing-there"], "unknown-shape"),
        (["pyproject.toml"], "unknown-shape"),
        (["lfm2-350m", "--weights", "4g48"], "bad-quantisation"),
        (["lfm2-350m", "--weights", "4g768"], "bad-quantisation"),
    ],
)
def test_what_cannot_be_accounted_for_is_refused(arguments: list[str], slug: str) -> None:
    said = CliRunner().invoke(application(), ["model", "bytes", *arguments])
    assert getattr(said.exception, "slug", None) == slug
