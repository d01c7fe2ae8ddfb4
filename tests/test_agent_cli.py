"""Bad input, as a person would give it: one line, the right exit code, nothing started, nothing lost."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import yaml

from agent.findings.ledger import Ledger
from agent.settings import load
from safety.lever import Lever
from tests.conftest import config_file
from tests.test_agent_findings import weakness


def backburn(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "agent", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


def refused(said: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    assert said.returncode == code, said
    assert said.stderr.startswith("backburn: ")
    assert said.stderr.count("\n") == 1, said.stderr
    for word in words:
        assert word in said.stderr


@pytest.fixture
def config(tmp_path) -> Path:
    return config_file(tmp_path, campaign={"budget_min": 1.0})


@pytest.fixture
def local(tmp_path) -> Path:
    return config_file(tmp_path, "local.yaml", campaign={"budget_min": 1.0})


def nothing_happened(tmp_path: Path) -> bool:
    return not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir())


def test_no_command_and_a_wrong_command_and_a_wrong_option(config):
    refused(backburn("rnu"), 2, "No such command 'rnu'", "run")
    refused(backburn("run", "--polcy", "x"), 2, "No such option: --polcy")
    refused(backburn("run", "--seed", "one"), 2, "Invalid value for '--seed'")
    assert backburn("--help").returncode == 0


def test_an_unknown_policy(config, tmp_path):
    refused(backburn("run", "--config", config, "--policy", "magic"), 2, "unknown policy 'magic'", "thompson")
    assert nothing_happened(tmp_path)


def test_a_missing_settings_file():
    refused(backburn("run", "--config", "/nothing/here.yaml"), 2, "/nothing/here.yaml", "No such file")


def test_a_misspelt_key_and_a_wrong_type_and_a_missing_key(tmp_path):
    for section, message in (({"polcy": "x"}, "did you mean 'policy'"), ({"seed": "x"}, "campaign.seed")):
        path = config_file(tmp_path, campaign=section)
        refused(backburn("run", "--config", path), 2, str(path), message)
    data = yaml.safe_load(config_file(tmp_path).read_text())
    del data["hypothesis"]
    path.write_text(yaml.safe_dump(data))
    refused(backburn("run", "--config", path), 2, "'hypothesis' is missing")


def test_limits_inside_of_the_hypothesis(tmp_path):
    path = config_file(tmp_path, limits={"service_levels": {"client/p50_ms": {"at_most": 10.0}}})
    refused(backburn("run", "--config", path), 2, "lies inside of the hypothesis")
    assert nothing_happened(tmp_path)


def test_an_existing_run_folder_is_not_touched(config, tmp_path):
    out = tmp_path / "mine"
    out.mkdir()
    (out / "precious.txt").write_text("keep me")
    refused(backburn("run", "--config", config, "--out", out), 2, "exists already", "nothing was overwritten")
    assert [path.name for path in out.iterdir()] == ["precious.txt"]


def test_a_run_folder_that_cannot_be_made(config):
    refused(backburn("run", "--config", config, "--out", "/proc/nothing/run"), 2, "cannot make the run folder")


def test_a_state_folder_that_cannot_be_written(tmp_path):
    path = config_file(tmp_path, "local.yaml")
    data = yaml.safe_load(path.read_text()) | {"state_dir": "/proc/nothing"}
    path.write_text(yaml.safe_dump(data))
    refused(backburn("run", "--config", path), 2, "cannot write to the state folder")
    assert nothing_happened(tmp_path)


def test_a_journal_from_another_version(local, tmp_path):
    journal = tmp_path / "state" / "local" / "journal.db"
    journal.parent.mkdir(parents=True)
    with sqlite3.connect(journal) as db:
        db.execute("CREATE TABLE entries (x)")
        db.execute("PRAGMA user_version=7")
    for command in (("run",), ("recover", "--json")):
        refused(backburn(*command, "--config", local), 3, "has version 7; this Backburn reads versions up to 2")
    assert nothing_happened(tmp_path)
    with sqlite3.connect(journal) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (7,)


def test_an_engaged_lever(local, tmp_path):
    assert backburn("halt", "--config", local, "--reason", "fire drill").returncode == 0
    refused(backburn("run", "--config", local), 3, "the lever is engaged (fire drill)")
    assert nothing_happened(tmp_path)
    refused(backburn("resume", "--config", local, "--reason", " "), 2, "needs a reason")
    refused(backburn("resume", "--config", local), 2, "--reason")
    assert backburn("resume", "--config", local, "--reason", "over").returncode == 0
    assert not Lever(tmp_path / "state" / "local" / "lever.json").read().engaged


def test_a_busy_port(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        path = config_file(tmp_path, "local.yaml", cluster={"platform": {"gateway_port": port}})
        refused(backburn("run", "--config", path), 2, str(port))
    assert nothing_happened(tmp_path)
    assert not (tmp_path / "state" / "local" / "platform.json").exists()


def test_a_prometheus_without_an_address(tmp_path):
    path = config_file(tmp_path, "local.yaml", telemetry={"source": "prometheus"})
    refused(backburn("run", "--config", path), 2, str(path), "prometheus.url must say where it is")
    assert nothing_happened(tmp_path)


def test_a_prometheus_that_is_not_there(tmp_path):
    telemetry = {"source": "prometheus", "prometheus": {"url": "http://127.0.0.1:1"}}
    path = config_file(tmp_path, "local.yaml", telemetry=telemetry)
    refused(backburn("run", "--config", path), 4, "Prometheus at http://127.0.0.1:1 does not answer")
    assert not (tmp_path / "state" / "local" / "platform.json").exists()
    assert not [process for process in psutil.process_iter(["cmdline"]) if str(path.parent) in str(process.info)]


def test_a_report_of_what_is_no_run(tmp_path, config):
    refused(backburn("report", tmp_path), 2, "is not the folder of a run")
    refused(backburn("report", tmp_path / "nothing"), 2, "is not the folder of a run")


def test_an_unknown_report_format(tmp_path, config):
    out = tmp_path / "run"
    assert backburn("run", "--config", config, "--out", out).returncode == 0
    refused(backburn("report", out, "--format", "docx"), 2, "unknown report format 'docx'; allowed are html, md, json")
    assert backburn("report", out, "--format", "md").stdout.startswith("# ")
    (out / "run.json").write_text("{")
    refused(backburn("report", out), 2, "is not the folder of a finished run")


def test_an_unknown_weakness(config):
    refused(backburn("weaknesses", "show", "W-none", "--config", config), 2, "no weakness 'W-none'", "none yet")
    refused(backburn("replay", "W-none", "--config", config), 2, "no weakness 'W-none'")


def test_bad_environment_variables_are_one_line_too(config):
    refused(backburn("run", "--config", config, BACKBURN_CAMPAIGN__SEED="x"), 2, "campaign.seed")
    refused(backburn("run", "--config", config, BACKBURN_CAMPAIGN="x"), 2, "campaign")


# ---- good input -----------------------------------------------------------------------------------------------------


def test_nothing_in_force_is_said_in_one_line_of_json(local):
    said = backburn("recover", "--json", "--config", local)
    assert (said.returncode, said.stdout) == (0, '{"open": [], "leaked": []}\n')


def test_weaknesses_are_listed_and_shown(config):
    settings = load(config)
    ledger = Ledger(settings.cluster_state_dir / "ledger.db")
    ledger.record([weakness()])
    ledger.close()
    listed = backburn("weaknesses", "list", "--config", config)
    assert weakness().id in listed.stdout
    assert json.loads(backburn("weaknesses", "list", "--json", "--config", config).stdout)[0]["id"] == weakness().id
    shown = backburn("weaknesses", "show", weakness().id, "--config", config).stdout
    for word in ("promised", "observed", "reproduced 2 of 2", "remedy", "https://"):
        assert word in shown


def test_fail_on_turns_findings_into_an_exit_code(tmp_path):
    path = config_file(tmp_path, campaign={"budget_min": 12.0, "seed": 5})
    for threshold, code in (("never", 0), ("low", 1)):
        said = backburn("run", "--config", path, "--out", tmp_path / threshold, "--fail-on", threshold)
        assert said.returncode == code, said.stderr
    refused(backburn("run", "--config", path, "--fail-on", "sometimes"), 2, "'sometimes'")
