"""What is looked at before one leaves it alone, and what a look leaves behind: nothing."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
from rich.console import Console

from actuators.clock import BootClock
from actuators.errors import BadInput
from actuators.fault import Fault, Target
from agent.build.state import journal_of, lever_of, open_state
from agent.cli import safety
from agent.cli.findings import list_weaknesses, show_weakness
from agent.findings.ledger import Ledger
from agent.service.doctor import examine
from agent.service.serve import serve
from agent.service.store import Store
from agent.settings import load
from safety.journal import LEAKED, Injection
from tests.conftest import config_file
from tests.services import outcome
from tests.test_agent_cli import backburn, refused


def looked_at(settings, what):
    return next(finding for finding in examine(settings) if finding.what == what)


def test_a_new_cluster_is_in_order_and_every_part_was_looked_at(settings):
    findings = examine(settings)
    assert all(finding.ok for finding in findings), findings
    assert {finding.what for finding in findings} == {
        "lever",
        "faults",
        "disk",
        "memory",
        "schedule",
        "policy",
        "token",
        "telemetry",
        "machine",
    }


def test_what_is_not_in_order_comes_first(settings):
    lever_of(settings).engage("release day", "a test")
    first = examine(settings)[0]
    assert (first.what, first.ok) == ("lever", False)


def test_a_memory_of_which_something_cannot_be_read_is_not_in_order(settings):
    store = Store(settings.cluster_state_dir / "service.db")
    store.learn(outcome(), datetime.now(UTC))
    assert looked_at(settings, "memory").ok
    with store._engine.begin() as connection:
        connection.exec_driver_sql("UPDATE experiences SET fault = '{'")
    store.close()
    memory = looked_at(settings, "memory")
    assert not memory.ok
    assert "0 experiment(s) count; rung 2; 1 more cannot be read, and are tried again" in memory.said


def test_a_fault_that_is_open_is_said_with_what_to_do(settings):
    now = BootClock().now()
    state = open_state(settings, BootClock(), "a test")
    fault = Fault("pod.pause", Target("gateway"), 0.25, 9.0)
    state.journal.intend(Injection("bb-1", fault, {"instances": ["a"]}, now, now.after(9.0), 1))
    state.close()
    finding = looked_at(settings, "faults")
    assert not finding.ok
    assert "1 open" in finding.said
    assert "backburn recover" in finding.said


def test_a_fault_of_an_agent_that_is_at_work_is_in_order(settings):
    now = BootClock().now()
    state = open_state(settings, BootClock(), "a test")
    state.lease.acquire("agent 1")
    fault = Fault("pod.pause", Target("gateway"), 0.25, 9.0)
    state.journal.intend(Injection("bb-1", fault, {"instances": ["a"]}, now, now.after(9.0), 1))
    finding = looked_at(settings, "faults")
    assert finding.ok
    assert f"agent 1 (pid {os.getpid()}) is at work" in finding.said
    state.journal.mark(Injection("bb-1", fault, {}, now, now, 1), LEAKED)
    assert not looked_at(settings, "faults").ok
    state.close()


@pytest.mark.parametrize(
    ("variable", "what", "said"),
    [
        ("BACKBURN_CAMPAIGN__POLICY", "policy", "nosuch"),
        ("BACKBURN_SERVICE__HTTP__TOKEN_FILE", "token", "cannot read the token nosuch"),
    ],
)
def test_what_a_run_or_the_service_would_be_refused_for_is_not_in_order(tmp_path, monkeypatch, variable, what, said):
    monkeypatch.setenv(variable, "nosuch")
    finding = looked_at(load(config_file(tmp_path)), what)
    assert not finding.ok
    assert said in finding.said


@pytest.mark.parametrize(("status", "said"), [(200, "is ready"), (503, "answers with 503"), (None, "refused")])
def test_a_prometheus_that_is_to_be_asked_has_to_be_ready(tmp_path, monkeypatch, status, said):
    class Answers(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status if self.path == "/-/ready" else 404)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Answers)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        if status is None:
            server.shutdown()
            server.server_close()
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # none of a shell's proxies stands between
        monkeypatch.setenv("BACKBURN_TELEMETRY__SOURCE", "prometheus")
        monkeypatch.setenv("BACKBURN_TELEMETRY__PROMETHEUS__URL", f"http://127.0.0.1:{server.server_port}")
        finding = looked_at(load(config_file(tmp_path, "local.yaml")), "telemetry")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert finding.ok == (status == 200)
    assert said in finding.said


def test_who_only_looks_leaves_nothing_behind(tmp_path, capsys):
    config = config_file(tmp_path)
    list_weaknesses(config)
    safety.journal(config)
    with pytest.raises(BadInput, match="W-nosuch"):
        show_weakness("W-nosuch", config)
    said = capsys.readouterr()
    assert "no weakness was confirmed on this cluster yet" in said.out
    assert "right --config, right folder?" in said.err
    assert [path.name for path in tmp_path.iterdir()] == [config.name]


def test_a_service_without_a_token_that_can_be_used_leaves_nothing_behind(tmp_path, monkeypatch):
    (tmp_path / "token").write_text("short\n")
    monkeypatch.setenv("BACKBURN_SERVICE__HTTP__TOKEN_FILE", str(tmp_path / "token"))
    config = config_file(tmp_path)
    with pytest.raises(BadInput, match="has 5 characters"):
        serve(load(config), Console(quiet=True), web=True)
    assert {path.name for path in tmp_path.iterdir()} == {config.name, "token"}


def test_a_state_folder_that_cannot_be_is_one_clear_error(tmp_path):
    (tmp_path / "state").write_text("")
    settings = load(config_file(tmp_path))
    with pytest.raises(BadInput, match="cannot make the folder of the ledger"):
        Ledger(settings.cluster_state_dir / "ledger.db")
    with pytest.raises(BadInput, match="cannot make the state folder"), journal_of(settings):
        pass
    with pytest.raises(BadInput, match="cannot write to the state folder"):
        open_state(settings, BootClock(), "a test")
    refused(backburn("halt", "--config", tmp_path / "settings.yaml"), 3, "nothing was halted", "state")
