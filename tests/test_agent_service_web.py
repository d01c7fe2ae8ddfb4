"""The service's web address: real requests over a real socket, from friend and foe."""

from __future__ import annotations

import json
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
from hypothesis import HealthCheck, given
from hypothesis import settings as given_settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from actuators.clock import ManualClock
from actuators.errors import BadInput
from actuators.fault import Fault, Injection, Target
from agent.service.controls import Controls
from agent.service.display import ServiceDisplay
from agent.service.serve import answering, token_of
from agent.service.settings import Http, ServiceSettings
from agent.service.status import Doing, Status
from agent.service.store import Store
from envs.outcome import Outcome
from envs.scoring import Evidence, Score, Verdict
from safety.journal import LEAKED, Journal
from safety.lever import Lever

TOKEN = "a-token-that-nobody-guesses"  # noqa: S105 (of the tests)


@dataclass
class Service:
    address: str
    lever: Lever
    journal: Journal
    store: Store
    status: Status
    moved: list[None]

    def get(self, path: str, **headers: str) -> requests.Response:
        return requests.get(f"{self.address}{path}", headers=_headers(headers), timeout=5)

    def post(self, path: str, body: object, **headers: str) -> requests.Response:
        data = body if isinstance(body, (bytes, str)) else json.dumps(body)
        sent = {"Content-Type": "application/json"} | _headers(headers)
        return requests.post(f"{self.address}{path}", data=data, headers=sent, timeout=5)


def _headers(given: dict[str, str]) -> dict[str, str]:
    return {"Authorization": f"Bearer {TOKEN}"} | {name.title(): value for name, value in given.items()}


@pytest.fixture
def service(tmp_path, journal) -> Iterator[Service]:
    yield from running(tmp_path, journal, Http(port=0))


@pytest.fixture
def forgiving(tmp_path, journal) -> Iterator[Service]:
    """One that lets resolved alerts release the lever."""
    yield from running(tmp_path, journal, Http(port=0, release_on_resolved=True))


def running(folder: Path, journal: Journal, http: Http) -> Iterator[Service]:
    lever, store, status = Lever(folder / "lever.json"), Store(folder / "service.db"), Status()
    lever.release("a test", "test")
    moved: list[None] = []
    controls = Controls(
        "staging-7",
        ServiceSettings(http=http),
        journal=folder / "journal.db",
        lever=lever,
        store=store,
        status=status,
        moved=lambda: moved.append(None),
    )
    with answering(controls, http, TOKEN) as address:
        yield Service(address, lever, journal, store, status, moved)
    store.close()


def firing(*names: str, status: str = "firing") -> dict:
    alerts = [
        {"status": status, "labels": {"alertname": name, "severity": "page"}, "fingerprint": name} for name in names
    ]
    return {"version": "4", "status": status, "receiver": "backburn", "alerts": alerts}


# ---- who is answered ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/status", "/metrics", "/lever", "/nothing"])
@pytest.mark.parametrize(
    "authorization", ["", "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer é"]
)
def test_nobody_without_the_token_is_answered(service, path, authorization):
    said = service.get(path, authorization=authorization.encode().decode("latin-1"))
    assert said.status_code == 401
    assert "token" in said.json()["error"]


@pytest.mark.parametrize("path", ["/lever", "/alertmanager"])
def test_nobody_without_the_token_moves_anything(service, path):
    for body in ({"engaged": True, "reason": "no"}, firing("X")):
        assert service.post(path, body, authorization="Bearer wrong").status_code == 401
    assert not service.lever.read().engaged


def test_health_is_for_everybody(service):
    said = service.get("/healthz", authorization="")
    assert (said.status_code, said.text) == (200, "ok\n")


def test_a_loop_that_has_gone_silent_is_not_healthy(service):
    service.status.set(doing=Doing.RUNNING)
    service.status._beat_s -= 31.0
    assert service.get("/healthz").status_code == 503
    service.status.set(doing=Doing.STARTING)
    service.status._beat_s -= 31.0
    assert service.get("/healthz").status_code == 200, "a cluster takes minutes to start"


def test_a_name_that_settings_allow_is_known_in_any_case(tmp_path, journal):
    for service in running(tmp_path, journal, Http(port=0, hosts=["Chaos.Example"])):
        for host in ("Chaos.Example", "chaos.example"):
            assert service.get("/status", host=host).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:80", "", "[", "localhost@evil.example"])
def test_another_name_for_this_address_is_turned_away(service, host):
    """A page whose name was rebound to this address comes with the token's owner's browser, and with its own name."""
    assert service.get("/status", host=host).status_code in {400, 421}


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1.evil.example", "http://["])
def test_a_page_of_another_site_is_turned_away(service, origin):
    assert service.post("/lever", {"engaged": False, "reason": "x"}, origin=origin).status_code == 403


def test_a_page_of_this_site_is_answered(service):
    assert service.get("/status", origin=service.address).status_code == 200


def test_a_body_that_is_too_large_is_not_read(service):
    said = service.post("/lever", b"x" * (2 << 20))
    assert said.status_code == 413


def test_a_body_of_unknown_length_is_not_read(service):
    said = requests.post(f"{service.address}/lever", data=iter([b"{}"]), headers=_headers({}), timeout=5)
    assert said.status_code == 413


# ---- the lever ------------------------------------------------------------------------------------------------------


def test_the_lever_is_pulled_and_released_with_a_reason(service):
    said = service.post("/lever", {"engaged": True, "reason": "fire drill"})
    assert said.status_code == 200
    assert said.json()["engaged"] is True
    assert service.lever.read().reason == "fire drill"
    assert service.moved, "whoever waits looks at once"
    refused = service.post("/lever", {"engaged": False, "reason": "  "})
    assert (refused.status_code, service.lever.read().engaged) == (400, True)
    assert service.post("/lever", {"engaged": False, "reason": "over"}).json()["engaged"] is False
    assert [(entry.event, entry.reason) for entry in service.journal.entries()] == [
        ("lever", "engaged: fire drill"),
        ("lever", "released: over"),
    ]


def test_a_lever_that_no_journal_can_be_told_of_is_pulled_all_the_same(service):
    service.journal._db.execute("PRAGMA user_version=99")
    said = service.post("/lever", {"engaged": True, "reason": "fire drill"})
    assert (said.status_code, said.json()["engaged"]) == (200, True)
    assert service.lever.read().reason == "fire drill"
    assert service.moved


def test_an_alert_pulls_the_lever_and_a_person_releases_it(service):
    assert service.post("/alertmanager", firing("PageMe", "AndMe")).json()["engaged"] is True
    assert service.lever.read().reason == "alerts are firing: AndMe, PageMe"
    service.post("/alertmanager", firing("PageMe", "AndMe", status="resolved"))
    assert service.lever.read().engaged, "released by a person, unless the settings say otherwise"
    service.post("/alertmanager", firing("PageMe"))
    engaged = [entry for entry in service.journal.entries() if entry.reason.startswith("engaged")]
    assert len(engaged) == 1, "Alertmanager repeats itself; the audit says who moved it, once"


def test_where_allowed_the_last_resolved_alert_releases_it(forgiving):
    forgiving.post("/alertmanager", firing("One", "Two"))
    forgiving.post("/alertmanager", firing("One", status="resolved"))
    assert forgiving.lever.read().engaged
    forgiving.post("/alertmanager", firing("Two", status="resolved"))
    assert not forgiving.lever.read().engaged


def meanwhile(owner: object, name: str, request: Callable[[], object]) -> threading.Thread:
    """Has a request made in the middle of another one, once, as soon as a method has come to its result."""
    method, other = getattr(owner, name), threading.Thread(target=request)

    def interrupted(*arguments: object) -> object:
        result = method(*arguments)
        setattr(owner, name, method)
        other.start()
        other.join(0.5)  # it may have to wait for us
        return result

    setattr(owner, name, interrupted)
    return other


def test_an_alert_that_fires_while_another_is_resolved_leaves_the_lever_engaged(forgiving):
    forgiving.post("/alertmanager", firing("One"))
    other = meanwhile(forgiving.store, "alerted", lambda: forgiving.post("/alertmanager", firing("Two")))
    forgiving.post("/alertmanager", firing("One", status="resolved"))
    other.join()
    assert forgiving.lever.read().reason == "alerts are firing: Two"
    said = [entry.reason for entry in forgiving.journal.entries() if entry.event == "lever"]
    assert said[-1] == "engaged: alerts are firing: Two"


def test_a_hand_that_takes_the_lever_while_alerts_are_resolved_keeps_it(forgiving):
    forgiving.post("/alertmanager", firing("One"))
    pull = {"engaged": True, "reason": "by hand"}
    other = meanwhile(forgiving.lever, "read", lambda: forgiving.post("/lever", pull))
    forgiving.post("/alertmanager", firing("One", status="resolved"))
    other.join()
    assert forgiving.lever.read().engaged
    assert forgiving.lever.read().reason == "by hand"


def test_the_lever_is_pulled_at_once_although_somebody_waits_for_a_database(forgiving):
    forgiving.post("/alertmanager", firing("One"))
    pull, seen = {"engaged": True, "reason": "by hand"}, []
    other = meanwhile(forgiving.store, "alerted", lambda: forgiving.post("/lever", pull))
    alerted = forgiving.store.alerted
    forgiving.store.alerted = lambda *told: (alerted(*told), seen.append(forgiving.lever.read().reason))[0]
    forgiving.post("/alertmanager", firing("Two"))
    other.join()
    assert seen == ["by hand"]


def test_no_alert_takes_a_persons_hand_off_the_lever(forgiving):
    forgiving.post("/lever", {"engaged": True, "reason": "mine"})
    forgiving.post("/alertmanager", firing("One"))
    forgiving.post("/alertmanager", firing("One", status="resolved"))
    assert (forgiving.lever.read().engaged, forgiving.lever.read().reason) == (True, "mine")


# ---- what is shown --------------------------------------------------------------------------------------------------


def test_status_and_metrics_show_the_same(service):
    now = ManualClock().now()
    fault = Fault("pod.pause", Target("web"), 0.5, 10.0)
    injection = Injection("bb-1", fault, {}, now, now.after(10.0), 1)
    service.journal.intend(injection)
    service.journal.mark(injection, LEAKED)
    service.status.set(doing=Doing.RUNNING, why="a-run", phase="in force", fault=str(fault), rung=1)
    service.status.judged("weakness")
    display = ServiceDisplay(Console(quiet=True), 10.0, service.status, lambda: None)
    for verdict in (Verdict.INVALID, Verdict.INVALID, Verdict.WEAKNESS, Verdict.RESILIENT):
        display.judged(Outcome(None, Score(Evidence(verdict), (), "because", 0.0, ())), "sham")
    seen = service.get("/status").json()
    assert (seen["cluster"], seen["doing"], seen["fault"]) == ("staging-7", "running", str(fault))
    assert (seen["leaked_faults"], seen["open_faults"]) == ([str(fault)], [])
    assert (seen["shams"], seen["sham_alarms"], seen["shams_unjudged"]) == (4, 1, 2)
    said = service.get("/metrics")
    values = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(said.text)
        for sample in family.samples
    }
    assert values["backburn_faults_leaked",] == 1
    assert values["backburn_lever_engaged",] == 0
    assert values["backburn_doing", "running"] == 1
    assert values["backburn_experiments_total", "weakness"] == 2
    assert values["backburn_shams_unjudged_total",] == 2
    assert values["backburn_rung",] == 1


# ---- whatever is sent -----------------------------------------------------------------------------------------------

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["alerts", "labels", "status", "engaged", "reason", "x"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@given_settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.sampled_from(["/lever", "/alertmanager"]), ANYTHING.map(json.dumps) | st.binary(max_size=64))
def test_no_body_breaks_it_and_none_is_accepted_in_silence(service, path, body):
    before = service.lever.read()
    said = service.post(path, body)
    assert said.status_code in {200, 400}, said.text
    if said.status_code == 400:
        assert said.json()["error"]
        assert service.lever.read() == before
    else:
        data = json.loads(body)
        assert isinstance(data.get("alerts") if path == "/alertmanager" else data.get("engaged"), (list, bool))


# ---- the token ------------------------------------------------------------------------------------------------------


def test_a_token_is_made_once_and_for_its_owner_alone(tmp_path):
    path = tmp_path / "token"
    token = token_of(path, make=True)
    assert len(token) >= 40
    assert token_of(path, make=True) == token
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_token_that_is_none_is_refused(tmp_path):
    path = tmp_path / "token"
    with pytest.raises(BadInput, match="cannot read the token"):
        token_of(path, make=False)
    for content in (b"short", b"\xff" * 40, b"a\tb" * 20):
        path.write_bytes(content)
        with pytest.raises(BadInput, match="token"):
            token_of(path, make=False)
