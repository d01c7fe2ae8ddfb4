"""Reports of runs that have no end: killed, or still going on; and of folders that hold something else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from actuators.errors import BadInput
from agent.findings.record import RunFolder
from agent.findings.report import rendered
from tests.test_agent_findings import outcome, weakness


@pytest.fixture
def killed(tmp_path, settings) -> Path:
    """What a run leaves that is killed while it writes an experiment down."""
    folder = RunFolder(tmp_path / "run")
    folder.settings(settings.model_dump(mode="json"))
    folder.note(state="running", topology={"components": [], "observers": {}})
    for _ in range(2):
        folder.outcome(outcome(), "choice")
    folder.json("weaknesses.json", [weakness().to_json()])
    with (folder.path / "outcomes.jsonl").open("a") as file:
        file.write('{"fault": nul')
    return folder.path


@pytest.mark.parametrize("form", ["html", "md"])
def test_a_run_that_was_killed_is_reported_with_what_is_there(killed, form):
    said = rendered(killed, form)
    assert weakness().title in said
    assert "2 experiments in 1 of" in said
    assert "State: running" in said
    assert "was cut off, or still goes on" in said
    (killed / "weaknesses.json").unlink()
    assert "0 confirmed weaknesses" in rendered(killed, form)


def test_what_nobody_knows_of_a_killed_run_is_null(killed):
    run = json.loads(rendered(killed, "json"))["run"]
    assert (run["ended_at"], run["ended_by"], run["spent_min"], run["shams"]["run"]) == (None, None, 1.0, 0)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("run.json", "[]"),
        ("run.json", "3"),
        ("settings.yaml", "a: [unclosed"),
        ("settings.yaml", ""),
        ("outcomes.jsonl", "3\n"),
        ("outcomes.jsonl", "{}\n"),
        ("weaknesses.json", "[3]"),
        ("weaknesses.json", "3"),
    ],
)
@pytest.mark.parametrize("state", ["running", "done"])
def test_a_malformed_file_is_one_line(killed, name, content, state):
    RunFolder.reopened(killed).note(state=state)
    (killed / "outcomes.jsonl").write_text("")
    (killed / name).write_text(content)
    for form in ("html", "md"):
        with pytest.raises(BadInput, match="is not the folder of a finished run"):
            rendered(killed, form)
