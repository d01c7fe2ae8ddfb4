"""Fault-free time: recorded over several starts, and judged."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from actuators.errors import BadInput
from agent.settings import load
from agent.shams.counting import Rate, counted
from agent.shams.judging import Sham
from agent.shams.measuring import measure
from agent.shams.recording import record_starts
from envs.clusters.recorded import Recording
from envs.scoring import Verdict
from tests.conftest import config_file
from tests.test_agent_cli import backburn, refused


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two starts, recorded one after the other by two commands."""
    at = tmp_path_factory.mktemp("shams")
    settings = load(config_file(at, scoring={"units": 24}))
    for _ in range(2):
        record_starts(settings, at / "out", 1, 2.5, Console(quiet=True))
    return at / "out"


def test_recordings_gather_beside_those_that_are_there(folder):
    for start in (1, 2):
        recording = Recording.load(folder / f"start-{start}" / "quiet.npz")
        seen_s = recording.snapshots[-1].at_s - recording.snapshots[0].at_s
        assert seen_s == pytest.approx(150.0, abs=1.0)


@pytest.fixture(scope="module")
def measured(folder) -> tuple[str, dict]:
    """What was said of them, and what was written down."""
    said = io.StringIO()
    measure(folder, Console(file=said, width=200))
    return said.getvalue(), json.loads((folder / "shams.json").read_text())


def test_fault_free_time_breaks_no_promise(measured):
    said, found = measured
    assert "2 start(s)" in said
    assert "shams, 0 of which could not be judged" in said
    rows = {row["what"]: row for row in found["judged_by"]["that and all other starts"]}
    weakness = rows["verdict weakness"]
    assert weakness["every"]["alarms"] == 0
    assert weakness["every"]["of"] > 35
    assert weakness["kept"] is True
    assert "verdict weakness            ≤ 0.05   0/" in said
    assert any(name.startswith("p of ") for name in rows)


def test_a_larger_shift_is_seen_more_often_and_a_large_one_nearly_always(measured):
    said, found = measured
    assert "worse by" in said
    power = found["power"]["that and all other starts"]
    assert {"client/error_share", "client/p50_ms", "client/accuracy"} <= set(power)
    for shares in power.values():
        assert list(shares) == sorted(shares)
    mean = [sum(shift) / len(power) for shift in zip(*power.values(), strict=True)]
    assert mean[0] < 0.3, mean
    assert mean[2] > 0.7, mean  # all but a step counter, which has to lose what it has gained since, and what jumps


def test_a_rate_keeps_its_promise_only_if_enough_was_seen():
    assert Rate(0, 200).interval[1] == pytest.approx(0.0188, abs=1e-4)
    assert Rate(0, 200).keeps(0.05)
    assert not Rate(0, 20).keeps(0.05)
    assert Rate(10, 200).keeps(0.05)
    assert not Rate(16, 200).keeps(0.05)


def test_shams_that_could_not_be_judged_have_not_kept_silent(settings):
    verdicts = [Verdict.WEAKNESS, Verdict.RESILIENT, Verdict.INVALID, Verdict.INVALID]
    shams = [Sham(1, 1000.0 * number, verdict, {}, {}) for number, verdict in enumerate(verdicts)]
    rows = {row.what: (row.every.alarms, row.every.of) for row in counted(shams, settings)}
    assert rows == {
        "verdict weakness": (1, 2),
        "verdict inconclusive": (0, 2),
        "verdict invalid": (2, 4),
        "a move shown anywhere": (0, 2),
    }


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("scoring", lambda said: said["scoring"].update(alpha=0.1)),
        ("telemetry.period_s", lambda said: said["telemetry"].update(period_s=0.25)),
        ("telemetry.timeout_s", lambda said: said["telemetry"].update(timeout_s=0.2)),
        ("cluster.switches", lambda said: said["cluster"].update(switches={"serving.replicas": "weak"})),
        ("cluster.requests_per_s", lambda said: said["cluster"].update(platform={"requests_per_s": 10.0})),
        ("cluster.cluster_id", lambda said: [said["cluster"].update(id="x"), said["limits"].update(cluster_id="x")]),
        ("hypothesis", lambda said: said["hypothesis"]["clauses"].pop()),
    ],
)
def test_starts_that_were_not_measured_in_the_same_way_are_not_judged_together(folder, tmp_path, name, change):
    out = Path(shutil.copytree(folder, tmp_path / "out"))
    path = out / "start-2" / "settings.yaml"
    said = yaml.safe_load(path.read_text())
    change(said)
    path.write_text(yaml.safe_dump(said))
    with pytest.raises(BadInput, match=f"start-2 was recorded with another {name} than start-1"):
        measure(out, Console(quiet=True))


@pytest.mark.parametrize(
    "change",
    [
        lambda said: said["campaign"].update(seed=7),
        lambda said: said.update(state_dir="elsewhere", runs_dir="elsewhere"),
        lambda said: said["cluster"].update(platform={"gateway_port": 8123, "seed": 5, "startup_deadline_s": 300.0}),
        lambda said: said["cluster"].update(switches={"serving.replicas": "hardened"}),  # as it is anyway
        lambda said: said["telemetry"]["prometheus"].update(url="http://127.0.0.1:9091"),  # and nobody asks it
    ],
)
def test_what_is_another_at_every_start_keeps_none_apart(folder, tmp_path, monkeypatch, change):
    out = Path(shutil.copytree(folder, tmp_path / "out"))
    path = out / "start-2" / "settings.yaml"
    said = yaml.safe_load(path.read_text())
    change(said)
    path.write_text(yaml.safe_dump(said))
    monkeypatch.setattr("agent.shams.measuring.judged", lambda settings, recordings: {})
    measure(out, Console(quiet=True))
    assert (out / "shams.json").exists()


def test_only_where_a_prometheus_is_asked_does_it_matter_how(folder, tmp_path):
    out = Path(shutil.copytree(folder, tmp_path / "out"))
    for start, max_age_s in ((1, 2.0), (2, 1.5)):
        path = out / f"start-{start}" / "settings.yaml"
        said = yaml.safe_load(path.read_text())
        said["cluster"]["kind"] = "local"
        prometheus = {"url": f"http://127.0.0.1:909{start}", "max_age_s": max_age_s}
        said["telemetry"].update(source="prometheus", prometheus=prometheus)
        path.write_text(yaml.safe_dump(said))
    with pytest.raises(BadInput, match=r"start-2 was recorded with another telemetry.prometheus.max_age_s"):
        measure(out, Console(quiet=True))


def test_no_variable_of_today_changes_how_a_recording_is_judged(folder, tmp_path, monkeypatch):
    out = Path(shutil.copytree(folder, tmp_path / "out"))
    monkeypatch.setenv("BACKBURN_SCORING__ALPHA", "0.1")
    monkeypatch.setattr("agent.shams.measuring.judged", lambda settings, recordings: {})
    measure(out, Console(quiet=True))
    assert json.loads((out / "shams.json").read_text())["alpha"] == 0.05


def test_a_damaged_recording_is_refused_in_one_line(folder, tmp_path):
    whole, path = (folder / "start-1" / "quiet.npz").read_bytes(), tmp_path / "quiet.npz"
    for at in range(len(whole) // 2, 3 * len(whole) // 4, len(whole) // 200):  # compressed values, the largest part
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        with pytest.raises(BadInput, match="is not a recording"):
            Recording.load(path)


def test_what_holds_no_recording_is_refused_in_one_line(tmp_path):
    config = config_file(tmp_path)
    refused(backburn("shams", "--config", config, "--score", tmp_path / "nothing"), 2, "holds no recording")
    (tmp_path / "start-1").mkdir()
    (tmp_path / "start-1" / "quiet.npz").write_text("no recording")
    with pytest.raises(BadInput, match="is not a recording"):
        measure(tmp_path, Console(quiet=True))
