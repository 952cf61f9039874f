"""`fulcrum bench`: candidates of a search compared on a virtual phone by a stub runner, and protocols by name."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from bench_examples import program, sha256, stub_bundle
from pydantic import ValidationError
from small_server import Book, serving
from typer.testing import CliRunner, Result

from device_agent.contracts import Comparison, FulcrumError, Measurement, Protocol, canonical_json, content_hash
from device_agent.virtual import VirtualPhone
from search.spec import SearchSpec
from server.cli.bench import read_protocol
from server.cli.main import application
from server.client import Client

PROTOCOL = {"repetitions": 2, "blocks": 2, "warmup": 0}
CONTENTS = (b"fine 0", b"fine 1")


@pytest.fixture
def bench(phone: VirtualPhone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs the command against a server that has two exported candidates and one that is not."""
    programs = [program(content) for content in CONTENTS]
    book = Book(artifacts={sha256(content): content for content in CONTENTS})
    book.artifacts |= {content_hash(one): canonical_json(one) for one in programs}
    views = [SimpleNamespace(number=i, program=content_hash(one)) for i, one in enumerate(programs)]
    monkeypatch.setattr(Client, "candidates", lambda *_: [*views, SimpleNamespace(number=2, program=None)])
    stub_bundle(tmp_path / "runner")
    (tmp_path / "protocol.json").write_text(json.dumps(PROTOCOL))

    def run(*arguments: str) -> Result:
        options = ["--phone", phone.address, "--runner", str(tmp_path / "runner"), "--home", str(tmp_path / "home")]
        protocol = ["--protocol", str(tmp_path / "protocol.json"), "--out", str(tmp_path / "out.json")]
        with serving(book) as url:
            return CliRunner().invoke(application(), ["bench", *arguments, *options, *protocol, "--server", url])

    return run


def test_a_candidate_is_measured_by_hand(bench: Callable[..., Result], tmp_path: Path) -> None:
    done = bench("measure", "a-search", "1")
    assert done.exit_code == 0, done
    result = Measurement.model_validate_json((tmp_path / "out.json").read_text())
    assert result.program == program(CONTENTS[1]).hash
    assert result.protocol == Protocol.model_validate(PROTOCOL)


def test_two_candidates_are_compared_by_hand(bench: Callable[..., Result], tmp_path: Path) -> None:
    done = bench("compare", "a-search", "0", "1")
    assert done.exit_code == 0, done
    found = Comparison.model_validate_json((tmp_path / "out.json").read_text())
    assert found.order == "ABBA"
    assert (found.first.program, found.second.program) == tuple(program(content).hash for content in CONTENTS)
    assert not found.decode.claimed  # the stub answers both alike
    assert "no difference may be claimed" in found.verdict


@pytest.mark.parametrize("number", ["2", "9"])
def test_what_was_not_exported_cannot_be_measured(bench: Callable[..., Result], number: str) -> None:
    failed = bench("measure", "a-search", number)
    assert isinstance(failed.exception, FulcrumError)
    assert f"no exported candidate {number}" in failed.exception.message


def test_a_search_takes_a_preset_or_a_protocol_of_old() -> None:
    def protocol(given: dict[str, object]) -> Protocol:
        body = {"corpus": "c", "phones": ["p"], "protocol": given}
        return SearchSpec.model_validate_json(json.dumps(body)).protocol

    assert protocol({"preset": "standard"}) == Protocol.preset("standard")
    assert protocol({"preset": "standard", "blocks": 9}).blocks == 9
    assert protocol({"prefill_tokens": 64, "threads": 2}) == Protocol(prefill_tokens=64, threads=2)
    with pytest.raises(ValidationError, match="there is no preset"):
        protocol({"preset": "best"})


def test_a_protocol_is_a_name_or_a_file(tmp_path: Path) -> None:
    assert read_protocol("publication") == Protocol.preset("publication")
    file = tmp_path / "p.json"
    file.write_text('{"preset": "quick", "blocks": 9}')
    assert read_protocol(str(file)).blocks == 9
    for wrong in ("best", '{"blocks": 0}', "[1]", "{"):
        file.write_text(wrong)
        with pytest.raises(FulcrumError, match="malformed"):
            read_protocol(wrong if wrong == "best" else str(file))
