"""The platform's own alert rules: pending, firing, over; and the same rules as a Prometheus reads them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from agent.settings import PACKAGED
from envs.staging.alerts import EVALUATED_EVERY_S, AlertRules, Answers, Census, Facts
from envs.staging.components import alert_rules, described
from envs.staging.settings import StagingSettings, Switches
from tests.prometheus import prometheus_binary

WELL = Census(desired=2, up=2, ready=2, restarts=0)
DARK = Census(desired=2, up=0, ready=0, restarts=0)


def rules(*expected: str) -> AlertRules:
    return AlertRules(expected, trainer="trainer")


def fired_at(judge: AlertRules, alert: tuple[str, str], facts: Callable[[float], Facts], until_s: float) -> list[float]:
    """Returns the evaluations at which an alert fired."""
    found = []
    for number in range(int(until_s / EVALUATED_EVERY_S) + 1):
        now_s = number * EVALUATED_EVERY_S
        judge.evaluate(facts(now_s), now_s)
        if judge.states(now_s).get(alert):
            found.append(now_s)
    return found


def dark_between(from_s: float, until_s: float) -> Callable[[float], Facts]:
    return lambda now_s: Facts({"web": DARK if from_s <= now_s < until_s else WELL})


def test_absence_is_pending_then_fires_then_is_over():
    assert fired_at(rules("web"), ("ComponentDown", "web"), dark_between(3.0, 10.0), 20.0)[::100] == [5.0]
    assert fired_at(rules("web"), ("ComponentDown", "web"), dark_between(3.0, 10.0), 20.0)[-1] == 9.5


def test_an_outage_in_two_parts_is_pending_twice():
    def twice(now_s: float) -> Facts:
        return Facts({"web": DARK if now_s < 1.5 or 2.0 <= now_s < 3.5 else WELL})

    assert fired_at(rules("web"), ("ComponentDown", "web"), twice, 10.0) == []


def test_without_a_list_of_who_should_be_there_a_dead_exporter_is_silence():
    judge = rules()
    assert fired_at(judge, ("ComponentDown", "web"), dark_between(3.0, 25.0), 20.0) == []
    assert not any(judge.states(20.0).values())


def test_whom_nobody_has_heard_of_is_absent_too():
    assert fired_at(rules("web"), ("ComponentDown", "web"), lambda now_s: Facts(), 3.0)[0] == 2.0


@given(st.lists(st.booleans(), max_size=60))
def test_absence_fires_exactly_after_two_seconds_without_a_break(dark):
    judge, since_s = rules("web"), None
    for number, is_dark in enumerate(dark):
        now_s = number * EVALUATED_EVERY_S
        judge.evaluate(Facts({"web": DARK if is_dark else WELL}), now_s)
        since_s = (now_s if since_s is None else since_s) if is_dark else None
        expected = since_s is not None and now_s - since_s >= 2.0
        assert judge.states(now_s)[("ComponentDown", "web")] is expected


def test_missing_instances_fire_after_half_a_minute():
    one_short = Facts({"web": Census(desired=2, up=2, ready=1, restarts=0)})
    assert fired_at(rules(), ("InstancesMissing", "web"), lambda now_s: one_short, 40.0)[0] == 30.0


def test_restarts_count_over_half_a_minute():
    def crashing(now_s: float) -> Facts:
        return Facts({"web": Census(2, 2, 2, restarts=max(0, int(now_s - 40.0)))})

    fired = fired_at(rules(), ("RestartsOften", "web"), crashing, 60.0)
    assert fired[0] == 44.0, "the fourth restart"
    assert fired[-1] == 60.0
    assert fired_at(rules(), ("RestartsOften", "web"), lambda now_s: crashing(min(now_s, 45.0)), 90.0)[-1] < 75.0


def test_training_that_stands_still_fires_until_its_next_step():
    def stuck(now_s: float) -> Facts:
        return Facts(step=1.0 if 3.0 <= now_s < 12.0 else now_s + 100.0)

    fired = fired_at(rules(), ("TrainingStuck", "trainer"), stuck, 20.0)
    assert (fired[0], fired[-1]) == (8.0, 11.5)
    assert fired_at(rules(), ("TrainingStuck", "trainer"), lambda now_s: Facts(), 20.0) == []


def test_errors_fire_by_their_share_and_a_restarted_gateway_counts_from_nothing():
    def failing(now_s: float) -> Facts:
        bad_s = max(0.0, min(now_s, 15.0) - 10.0)
        return Facts(answers={"gateway": Answers(30.0 * now_s, 30.0 * bad_s)})

    fired = fired_at(rules(), ("HighErrorRate", "gateway"), failing, 30.0)
    assert 11.0 <= fired[0] <= 12.5
    assert 18.0 <= fired[-1] <= 20.0

    def restarted(now_s: float) -> Facts:
        return Facts(answers={"gateway": Answers(300.0, 10.0) if now_s < 3.0 else Answers(30.0 * (now_s - 3.0), 0.0)})

    assert fired_at(rules(), ("HighErrorRate", "gateway"), restarted, 10.0) == []


def test_rules_that_nobody_evaluates_any_more_say_nothing():
    judge = rules("web")
    assert judge.states(0.0) is None
    judge.evaluate(Facts({"web": WELL}), 10.0)
    assert judge.states(11.9) is not None
    assert judge.states(12.1) is None


def test_the_switch_decides_who_is_expected():
    hardened = StagingSettings()
    assert alert_rules(hardened).expected == tuple(described(hardened))
    weak = StagingSettings(switches=Switches(monitoring_absent_alert="weak"))
    assert alert_rules(weak).expected == ()


# ---- the same rules for a Prometheus -----------------------------------------------------------------------------


def packaged_rules() -> list[dict]:
    (group,) = yaml.safe_load((PACKAGED / "alerts.yml").read_text())["groups"]
    return group["rules"]


def test_a_prometheus_is_given_the_same_alerts():
    judge = rules("web")
    judge.evaluate(Facts({"web": WELL}, 1.0, {"gateway": Answers(1.0, 0.0)}), 0.0)
    own = {alert for alert, _ in judge.states(0.0)}
    assert {rule["alert"] for rule in packaged_rules()} == own | {"Watchdog", "Reported"}


def test_the_packaged_rules_are_good_ones(tmp_path):
    prometheus_binary()
    checked = subprocess.run(
        [shutil.which("promtool"), "check", "rules", PACKAGED / "alerts.yml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr
    assert f"{len(packaged_rules())} rules found" in checked.stdout


UP = 'up{cluster="c", job="web", instance="1"}'
EXPECTED = 'component_expected{cluster="c", component="web", job="monitor"}'
STEPS = 'train_step{cluster="c", job="monitor"}'
REPORT = 'alert_firing{cluster="c", job="web", alert="Stale"}'


@pytest.mark.parametrize(
    ("alert", "component", "series", "fires_at_s"),
    [
        ("ComponentDown", "web", {UP: "1x10 0x20 1x20", EXPECTED: "1x60"}, {7: False, 9: True, 18: False}),
        ("ComponentDown", "web", {UP: "1x10 0x20 1x20"}, {9: False}),
        ("ComponentDown", "web", {UP: "1x10 stale", EXPECTED: "1x60"}, {9: True}),
        ("TrainingStuck", "trainer", {STEPS: "1+10x20 201x60"}, {9: False, 18: True}),
        ("Reported", "web", {REPORT: "0x10 1x20"}, {3: False, 8: True}),
    ],
)
def test_the_packaged_rules_fire_when_the_platforms_own_do(tmp_path, alert, component, series, fires_at_s):
    prometheus_binary()
    labels = {"cluster": "c", "component": component} | ({"alert": "Stale"} if alert == "Reported" else {})
    test = {
        "interval": "500ms",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "alert_rule_test": [
            {"eval_time": f"{at_s}s", "alertname": alert, "exp_alerts": [{"exp_labels": labels}] if fires else []}
            for at_s, fires in fires_at_s.items()
        ],
    }
    bare = [{key: value for key, value in rule.items() if key != "annotations"} for rule in packaged_rules()]
    (tmp_path / "alerts.yml").write_text(
        yaml.safe_dump({"groups": [{"name": "backburn", "interval": "500ms", "rules": bare}]})
    )
    (tmp_path / "test.yml").write_text(
        yaml.safe_dump({"rule_files": ["alerts.yml"], "evaluation_interval": "500ms", "tests": [test]})
    )
    found = subprocess.run(
        [shutil.which("promtool"), "test", "rules", tmp_path / "test.yml"], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout + found.stderr
