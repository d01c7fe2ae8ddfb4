"""A campaign that remembers earlier ones: what it takes for known, and what its report and the ledger say of that."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from rich.console import Console

from actuators.fault import Fault, Target
from agent.findings.ledger import Ledger
from agent.findings.report import rendered
from agent.findings.weakness import Weakness
from agent.interruption import Interruption
from agent.learning.replay import ReplayPolicy
from agent.progress import Display
from agent.run import Run, Surroundings
from agent.settings import Settings, load
from envs.chaos import Experience
from envs.clusters.base import Component, Topology
from envs.clusters.simulated.hidden import Hidden
from envs.outcome import Outcome
from tests.conftest import config_file
from tests.simulation import simulation

WEAK = Hidden({"gateway": 1, "model-server": 1, "feature-store": 1, "trainer": 2})
KILL = Fault("pod.kill", Target("model-server"), 0.25, 9.0)
LOST = "pod.kill|model-server|unavailable"


class Memory:
    """Remembers what experiments have shown, as the service does."""

    def __init__(self) -> None:
        self.experiences: list[Experience] = []

    def outcome(self, outcome: Outcome) -> None:
        if outcome.fault is not None:
            self.experiences.append(Experience(outcome.fault, outcome.evidence, outcome.mechanism))

    def weakness(self, weakness: Weakness) -> None:
        """Not of interest."""


@pytest.fixture
def ran(settings, tmp_path, monkeypatch):
    """Runs a campaign on one and the same cluster, which repeats one experiment and may know earlier ones."""

    def run(name: str, times: int, experiences: Sequence[Experience] = ()) -> tuple[Run, Memory]:
        folder = tmp_path / f"{name} world"
        folder.mkdir()
        world = simulation(settings.model_copy(update={"state_dir": folder}), folder, hidden=WEAK)
        world.planted = dict
        monkeypatch.setattr("agent.run.brought_up", lambda *args, **kwargs: world)
        memory = Memory()
        display = Display(Console(quiet=True), 10.0)
        campaign = Run(
            settings,
            tmp_path / name,
            Console(quiet=True),
            policy=lambda env: ReplayPolicy(env.code.encode(KILL), times),
            surroundings=Surroundings(Interruption(), display, (memory,), experiences),
        )
        campaign.execute()
        return campaign, memory

    return run


def in_ledger(settings: Settings) -> dict:
    ledger = Ledger(settings.cluster_state_dir / "ledger.db")
    (known,) = ledger.all()
    ledger.close()
    return known


def test_a_report_names_what_is_known_and_the_ledger_hears_that_it_was_shown_again(settings, ran):
    friday, memory = ran("friday", 2)
    (found,) = friday.result.weaknesses
    assert (found.fingerprint, in_ledger(settings)["runs"]) == (LOST, 1)
    assert "known" not in rendered(friday.folder.path, "md")

    sunday, _ = ran("sunday", 2, memory.experiences)
    assert sunday.result.weaknesses == []
    run = json.loads((sunday.folder.path / "run.json").read_text())
    assert run["known"] == [{"id": found.id, "fingerprint": LOST, "title": found.title}]
    assert in_ledger(settings)["runs"] == 2, "once in a run, however often"
    markdown, html = (rendered(sunday.folder.path, form) for form in ("md", "html"))
    assert markdown.startswith("# 0 confirmed weaknesses and 1 known before on cluster")
    assert (
        f"Known from earlier campaigns, and not confirmed anew:\n\n- {found.id}: {found.title}; shown again by 2"
        in markdown
    )
    assert f"<li>{found.id} {found.title}; shown again by 2 experiment(s) of this run</li>" in html
    assert "Nothing new was confirmed." in html
    assert "Seen, not confirmed" not in html


def test_what_is_known_and_was_not_tried_again_is_named_and_was_seen_by_no_other_run(settings, ran):
    _, memory = ran("friday", 2)
    sunday, _ = ran("sunday", 0, memory.experiences)
    seen = in_ledger(settings)
    assert seen["runs"] == 1
    assert f"- {seen['id']}: {seen['title']}\n" in rendered(sunday.folder.path, "md")


def test_what_the_ledger_does_not_know_is_confirmed_anew_whatever_is_remembered(settings, ran):
    """Such as where only forgetting has confirmed it: nobody has ever been told."""
    _, memory = ran("friday", 2)
    (settings.cluster_state_dir / "ledger.db").unlink()
    sunday, _ = ran("sunday", 1, memory.experiences)
    assert [found.fingerprint for found in sunday.result.weaknesses] == [LOST]
    assert json.loads((sunday.folder.path / "run.json").read_text())["known"] == []


def test_what_earlier_campaigns_have_confirmed_is_not_missed_on_the_embedded_cluster(tmp_path):
    switches = {"serving.replicas": "weak", "training.restart": "weak"}
    settings = load(config_file(tmp_path, "local.yaml", cluster={"switches": switches}))
    run = Run(settings, tmp_path / "run", Console(quiet=True))
    topology = Topology([Component("model-server", "model-server", 1)])
    run.folder.note(topology=topology.to_json())
    known = {"id": "W-1", "fingerprint": LOST, "title": "it dies", "reproducer": {"intensity": 0.25}}
    run._notebook.knows([known], topology)
    run._conclude("done")
    assert (run.truth["found"], run.truth["known"]) == ([], ["serving.replicas"])
    assert "serving.replicas" not in run.truth["missed"]
    for form in ("md", "html"):
        assert "; known from earlier campaigns serving.replicas; missed" in rendered(run.folder.path, form)


def test_an_experiment_that_breaks_another_promise_is_seen_and_not_confirmed(ran):
    """What is known explains nothing else."""
    _, memory = ran("friday", 2)
    sunday, _ = ran("sunday", 1, memory.experiences)
    outcomes = sunday.folder.path / "outcomes.jsonl"
    assert "Seen, not confirmed" not in rendered(sunday.folder.path, "html")
    outcomes.write_text(outcomes.read_text().replace('"mechanism": "unavailable"', '"mechanism": "slow"'))
    assert "Seen, not confirmed" in rendered(sunday.folder.path, "html")
