"""How well the simulator agrees with recorded runs: said by ranks, and only where enough was tried."""

from __future__ import annotations

import json

import pytest

from agent.learning import realism as module
from agent.learning.realism import lines_of, realism
from envs.simulator.pool import pool_of
from envs.simulator.structure import Generator
from tests.conftest import config_file
from tests.test_agent_cli import backburn, refused

ROLES = {"gateway": "gateway", "server": "model-server", "store": "feature-store", "job": "trainer", "db": "database"}


def run_folder(folder, experiments):
    """Writes as much of a run as a comparison reads."""
    folder.mkdir()
    topology = {"components": [{"name": name, "role": role} for name, role in ROLES.items()], "observers": {}}
    (folder / "run.json").write_text(
        json.dumps({"schema_version": 1, "state": "done", "ended_at": "2026-01-01", "topology": topology})
    )
    (folder / "settings.yaml").write_text(config_file(folder).read_text())
    (folder / "weaknesses.json").write_text("[]")
    lines = [
        {
            "fault": fault and {"kind": fault[0], "target": {"name": fault[1]}, "intensity": (*fault, 1.0)[2]},
            "verdict": verdict,
        }
        for fault, verdict in experiments
    ]
    (folder / "outcomes.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


@pytest.fixture
def believed(monkeypatch):
    monkeypatch.setattr(module, "_CLUSTERS", 128)
    return module._simulated(pool_of(Generator((6, 16)), 128, seed=0))


CELLS = [
    ("pod.kill", "server", "model-server"),
    ("pod.memory_stress", "gateway", "gateway"),
    ("pod.kill", "job", "trainer"),
    ("network.delay", "store", "feature-store"),
    ("model.bad_canary", "server", "model-server"),
    ("pod.pause", "db", "other"),
]


@pytest.mark.parametrize("sign", [1, -1])
def test_agreement_and_its_opposite_are_told_apart(tmp_path, believed, sign):
    """Real shares that rise, or fall, with what the simulator believes."""
    ordered = sorted(CELLS, key=lambda cell: sign * believed[cell[0], cell[2]])
    experiments = []
    for rank, (kind, target, _) in enumerate(ordered):
        experiments += [((kind, target), "weakness" if n < rank else "resilient") for n in range(len(CELLS))]
    told = realism([run_folder(tmp_path / "run", experiments)])
    assert told.rank_correlation == pytest.approx(sign, abs=0.1)
    assert sum(cell.tried for cell in told.cells) == len(experiments)
    assert f"rank correlation {told.rank_correlation:.2f}" in lines_of(told)[0]


def test_only_what_told_something_counts(tmp_path, believed):
    told_nothing = [(("pod.kill", "server"), verdict) for verdict in ("invalid", "inconclusive", "tool_error")]
    experiments = [((kind, target), "resilient") for kind, target, _ in CELLS]
    told = realism([run_folder(tmp_path / "run", [*experiments, *told_nothing, (None, "resilient")])])
    assert [cell.tried for cell in told.cells] == [1] * len(CELLS)
    assert told.rank_correlation != told.rank_correlation, "all alike: nothing to rank, and that is said"


def test_what_was_repeated_counts_no_more_than_what_was_not(tmp_path, believed):
    once = [((kind, target), "resilient") for kind, target, _ in CELLS[1:]]
    kind, target, role = CELLS[0]
    again = [((kind, target, 1.0), "weakness")] * 3 + [((kind, target, 0.5), "resilient")]
    told = realism([run_folder(tmp_path / "run", [*once, *again])])
    (cell,) = [cell for cell in told.cells if (cell.kind, cell.role) == (kind, role)]
    assert (cell.tried, cell.real) == (4, 0.5)


def test_what_the_simulator_does_not_offer_is_said(tmp_path, believed):
    experiments = [((kind, target), "resilient") for kind, target, _ in CELLS]
    told = realism([run_folder(tmp_path / "run", [*experiments, (("data.drift", "gateway"), "weakness")])])
    assert told.cells[0].simulated is None
    assert "not offered" in lines_of(told)[2]


def test_bad_input_is_one_line(tmp_path):
    refused(backburn("calibrate", tmp_path), 2, "is not the folder of a run")
    little = run_folder(tmp_path / "run", [(("pod.kill", "server"), "weakness")])
    refused(backburn("calibrate", little), 2, "tried 1 kind(s) of fault", "a comparison takes 5")
    refused(backburn("calibrate"), 2, "Missing argument 'runs'")
