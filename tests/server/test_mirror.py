"""The trials of a search are copied into the Optuna storage that the settings name, and only then."""

from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
from service_examples import candidate, spec

from search.errors import MirrorUnreachable
from search.mirror import Mirror
from search.ports import World
from search.space import KNOBS
from search.spec import SearchSpec
from server.claims import ClaimedSearch
from server.services import Services
from server.settings import Settings
from server.worker import searching


def settings_with(home: Path, storage: str) -> Settings:
    return Settings(home=home, database_url=f"sqlite:///{home}/fulcrum.db", optuna_storage=storage)


def search_on(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search whose driver does nothing but tell its mirror of one finished candidate."""

    def drive(spec: SearchSpec, _world: World, mirror: Mirror | None) -> None:
        if mirror is not None:
            done = candidate(0, 2.0, 1.0, 3.0)
            mirror.update(spec, [done.model_copy(update={"params": dict.fromkeys(KNOBS, 0)})])

    monkeypatch.setattr(searching, "run", drive)
    monkeypatch.setattr(searching, "prepared", lambda *_: SimpleNamespace(directory=settings.home))
    services = Services.of(settings)
    searching.run_search(ClaimedSearch(id="abc", spec=spec("corpus")), services, "worker")
    services.database.close()


def test_trials_are_copied_into_the_storage_that_the_settings_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path}/trials.db"
    search_on(settings_with(tmp_path, url), monkeypatch)
    study = optuna.load_study(study_name="fulcrum-abc", storage=url)
    assert [trial.values for trial in study.trials] == [[2.0, 1.0, 3.0]]


def test_without_a_storage_nothing_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    search_on(settings_with(tmp_path, ""), monkeypatch)
    assert searching.mirror_of(settings_with(tmp_path, ""), "abc") is None


@pytest.mark.parametrize("url", ["nonsense", "sqlite:////nowhere/at/all/trials.db", "redis://127.0.0.1"])
def test_a_storage_that_cannot_be_opened_says_which_setting_to_check(tmp_path: Path, url: str) -> None:
    with pytest.raises(MirrorUnreachable) as raised:
        searching.mirror_of(settings_with(tmp_path, url), "abc")
    assert "FULCRUM_OPTUNA_STORAGE" in raised.value.advice


def test_the_environment_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FULCRUM_OPTUNA_STORAGE", "sqlite:///trials.db")
    assert Settings().optuna_storage == "sqlite:///trials.db"
