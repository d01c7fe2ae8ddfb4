"""Fixtures that many tests share; and the check that the rooms under test are ours."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

# Two threads of one test wait for each other's core as soon as anything else runs: ten seconds became eighty.
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that tests start

import hypothesis
import pytest
import torch
import yaml

from agent.ownership import require_own_packages

require_own_packages()

from actuators.clock import ManualClock  # noqa: E402
from agent.settings import PACKAGED, Settings, load  # noqa: E402
from safety.journal import Journal  # noqa: E402
from safety.lease import Lease  # noqa: E402
from safety.lever import Lever  # noqa: E402

if TYPE_CHECKING:
    from .services import Watched

torch.set_num_threads(1)

# How long an example takes says what else the machine does. Set before any test is imported: each takes what is set.
hypothesis.settings.register_profile("backburn", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("backburn")

_ALONE = (
    "test_actuators",
    "test_crash.py",
    "test_embedded",
    "test_envs_alerts",
    "test_envs_prometheus",
    "test_staging",
)
"""Modules whose tests start real processes and look at when they do what: nothing else may run beside them."""

_TOGETHER = (
    "test_staging_alerts.py",
    "test_staging_cards.py",
    "test_staging_data.py",
    "test_staging_handle.py",
    "test_staging_rollout.py",
    "test_staging_settings.py",
    "test_staging_storage.py",
    "test_staging_trainer.py",
    "test_staging_world_model.py",
)
"""Of these, the ones that only compute, or wait for what they have started however long it takes."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds what only some tests ask for."""
    parser.addoption("--replicates", type=int, default=1, help="experiments per row of the table of switches")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what needs the machine for itself, before anything is chosen by its mark."""
    for item in items:
        parameters = getattr(item, "callspec", None)
        is_simulated = parameters is not None and "simulated" in parameters.params.values()
        if item.path.name.startswith(_ALONE) and item.path.name not in _TOGETHER and not is_simulated:
            item.add_marker(pytest.mark.alone)


@pytest.fixture(scope="session", autouse=True)
def _logs_of_learning(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Stable-Baselines3 makes a folder for every model that learns; it goes where all that tests leave goes."""
    os.environ["SB3_LOGDIR"] = str(tmp_path_factory.mktemp("sb3"))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def journal(tmp_path: Path, clock: ManualClock) -> Iterator[Journal]:
    journal = Journal(tmp_path / "journal.db", clock, "test")
    yield journal
    journal.close()


@pytest.fixture
def lever(tmp_path: Path) -> Lever:
    lever = Lever(tmp_path / "lever.json")
    lever.release("a test", "test")
    return lever


@pytest.fixture
def lease(tmp_path: Path, clock: ManualClock) -> Iterator[Lease]:
    lease = Lease(tmp_path / "lease", 5.0, clock)
    lease.acquire("test")
    yield lease
    lease.close()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings of a simulated cluster whose state and runs stay inside of the test's folder."""
    return load(config_file(tmp_path))


@pytest.fixture
def watched(tmp_path: Path, journal: Journal) -> Iterator[Callable[..., Watched]]:
    """Makes services on a simulated cluster that can be looked at."""
    from .services import Watched  # which imports from here; and no other test pays for it

    made: list[Watched] = []

    def make(**service: object) -> Watched:
        made.append(Watched(tmp_path, journal, **service))
        return made[-1]

    yield make
    for each in made:
        each.store.close()


def config_file(folder: Path, base: str = "simulated.yaml", **sections: object) -> Path:
    """Writes a settings file: a packaged one with some sections updated, state and runs inside of `folder`."""
    data = yaml.safe_load((PACKAGED / base).read_text(encoding="utf-8"))
    data |= {"state_dir": str(folder / "state"), "runs_dir": str(folder / "runs")}
    for name, values in sections.items():
        data[name] = data[name] | values if isinstance(values, dict) and isinstance(data.get(name), dict) else values
    path = folder / "settings.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    return path


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Two ends of a pipe, as between an agent and what must not outlive it."""
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)
