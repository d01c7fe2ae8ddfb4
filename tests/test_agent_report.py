"""Reports of runs that have no end, killed or still going on; of what holds something else; of what nobody knows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from actuators.errors import BadInput
from agent.findings.record import RunFolder
from agent.findings.report import load_run, rendered
from agent.findings.weakness import Weakness
from envs.hypothesis import Mechanism, Phases
from envs.outcome import Outcome
from envs.scoring import Verdict
from safety.supervisor import Stop
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


# ---- what nobody knows ----------------------------------------------------------------------------------------------


def reported(settings, path: Path, outcomes: Sequence[Outcome], *weaknesses: dict[str, Any], form: str = "md") -> str:
    """Returns the report of a run that has shown something."""
    folder = RunFolder(path)
    folder.settings(settings.model_dump(mode="json"))
    components = [{"name": name, "capabilities": []} for name in ("model-server", "stream")]
    folder.note(state="running", topology={"components": components, "observers": {"client": ["model-server"]}})
    for each in outcomes:
        folder.outcome(each, "choice" if each.fault else "sham")
    folder.json("weaknesses.json", weaknesses)
    return rendered(path, form)


@pytest.mark.parametrize("form", ["html", "md"])
def test_only_who_was_looked_at_is_said_not_to_have_moved(settings, tmp_path, form):
    def said(name: str, **known: Any) -> str:
        return reported(settings, tmp_path / name, [outcome()], weakness().to_json() | known, form=form)

    before, after = ("did not move</dt><dd>", "</dd>") if form == "html" else ("- did not move: ", "\n")
    assert f"{before}model-server{after}" in said("seen", tested=["client", "model-server"])
    assert f"{before}nobody that was looked at{after}" in said("all hit", tested=["client"])
    assert "did not move" not in said("older", tested=None)
    older = weakness().to_json()
    del older["tested"], older["not_recovered"]
    assert "did not move" not in reported(settings, tmp_path / "oldest", [outcome()], older, form=form)


@pytest.mark.parametrize("form", ["html", "md"])
@pytest.mark.parametrize(
    ("known", "words"),
    [
        ({"recovery_s": 4.0}, "4 s after the injection"),
        ({"recovery_s": None, "not_recovered": True}, "not within its deadline"),
        ({"recovery_s": None, "not_recovered": False}, "not seen"),
        ({"recovery_s": None, "not_recovered": None}, "not seen"),
        ({"recovery_s": None, "not_recovered": None, "mechanism": "not_recovered"}, "not within its deadline"),
    ],
)
def test_a_recovery_that_nobody_saw_is_not_said_to_be_late(settings, tmp_path, form, known, words):
    said = reported(settings, tmp_path / "run", [outcome()], weakness().to_json() | known, form=form)
    everything = {"4 s after the injection", "not within its deadline", "not seen"}
    assert {each for each in everything if each in said} == {words}


@pytest.mark.parametrize("known", [True, False])
def test_how_an_experiment_ended_is_told_of_the_one_that_shows_it(settings, tmp_path, known):
    """Of older records, which do not say which that was, it is told of the last one."""
    seen = replace(outcome(), phases=Phases(100.0, 104.2, 105.0, 115.0))
    cut_short = replace(seen, injection_id="bb-1", stop=Stop("limit", "too many errors", clean=True))
    whole = replace(seen, injection_id="bb-2")
    record = weakness().to_json() | {"shown_by": "bb-1" if known else None}
    first = reported(settings, tmp_path / "first", [cut_short, whole], record, form="html")
    last = reported(settings, tmp_path / "last", [whole, cut_short], record, form="html")
    assert ("taken out after 4.2 s by limit" in first) == known
    assert "taken out after 4.2 s by limit" in last


@pytest.mark.parametrize("form", ["html", "md"])
def test_shams_that_could_not_be_judged_are_not_among_the_quiet_ones(settings, tmp_path, form):
    judged = [outcome(verdict, fault=None) for verdict in (Verdict.RESILIENT, Verdict.INVALID, Verdict.INVALID)]
    assert "2 could not be judged" in reported(settings, tmp_path / "two", judged, form=form)
    assert "could not be judged" not in reported(settings, tmp_path / "none", judged[:1], form=form)
    assert load_run(tmp_path / "two")["run"]["shams"] == {"run": 3, "alarms": 0, "unjudged": 2}


def test_what_was_seen_beside_a_confirmed_weakness_is_not_hidden_by_it(settings, tmp_path):
    def said(mechanism: Mechanism, verdict: Verdict, reason: str) -> Outcome:
        shown = outcome(mechanism=mechanism)
        evidence = replace(shown.evidence, verdict=verdict)
        return replace(shown, score=replace(shown.score, evidence=evidence, reason=reason))

    seen = [
        said(Mechanism.UNAVAILABLE, Verdict.TOOL_ERROR, "it leaked"),
        said(Mechanism.UNAVAILABLE, Verdict.WEAKNESS, "it failed"),
        said(Mechanism.SLOW, Verdict.INCONCLUSIVE, "it was slow"),
    ]

    def unconfirmed(name: str, *found: Weakness) -> set[str]:
        documents = [each.to_json() for each in found]
        text = reported(settings, tmp_path / name, seen, *documents, form="html")
        section = text.partition("<h2>Seen, not confirmed</h2>")[2].partition("</table>")[0]
        return {one.score.reason for one in seen if one.score.reason in section}

    assert unconfirmed("nothing") == {"it leaked", "it failed", "it was slow"}
    assert unconfirmed("one", weakness()) == {"it leaked", "it was slow"}
    assert unconfirmed("both", weakness(), weakness(Mechanism.SLOW)) == {"it leaked"}
