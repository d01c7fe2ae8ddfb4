from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actuators.catalogue import CATALOGUE
from envs.staging import ray_environment
from envs.staging.components import described
from envs.staging.errors import BadInput
from envs.staging.layout import Layout
from envs.staging.settings import StagingSettings, Switches
from tests.test_staging_matrix import DEATHS

NAMES = [
    "serving.replicas",
    "serving.feature_timeout",
    "serving.retries",
    "serving.health",
    "training.restart",
    "training.checkpoint",
    "registry.verify",
    "deploy.canary_gate",
    "training.hang_timeout",
    "monitoring.absent_alert",
    "data.schema_gate",
    "data.drift_alarm",
    "features.freshness",
    "serving.autoscale",
    "serving.queue",
]


def test_switches_have_dotted_names() -> None:
    assert list(Switches().to_mapping()) == NAMES


@given(st.dictionaries(st.sampled_from(NAMES), st.sampled_from(["weak", "hardened"])))
def test_switches_survive_the_way_through_a_mapping(mapping: dict[str, str]) -> None:
    switches = Switches.from_mapping(mapping)
    assert switches.to_mapping() == Switches().to_mapping() | mapping
    assert Switches.from_mapping(switches.to_mapping()) == switches


@given(st.fixed_dictionaries({name: st.sampled_from(["weak", "hardened"]) for name in NAMES}))
def test_of_all_switches_an_agent_sees_no_more_than_how_many_model_servers_are_ordered(mapping: dict[str, str]) -> None:
    seen = described(StagingSettings(switches=Switches.from_mapping(mapping)))
    server = seen.pop("model-server")
    usual = described(StagingSettings())
    assert replace(server, desired=0) == replace(usual.pop("model-server"), desired=0)
    assert server.desired == (2 if mapping["serving.replicas"] == "hardened" else 1)
    assert seen == usual


def test_a_death_is_tried_in_the_middle_of_every_fault() -> None:
    """Those of a GPU are tried where there is one: `tests/test_gpu.py`."""
    assert set(DEATHS) == {name for name, kind in CATALOGUE.items() if kind.family != "gpu"}


def test_an_unknown_switch_names_the_nearest_right_one() -> None:
    with pytest.raises(BadInput, match=r"'serving\.replica'; did you mean serving\.replicas\?"):
        Switches.from_mapping({"serving.replica": "weak"})


def test_a_switch_is_weak_or_hardened_and_nothing_else() -> None:
    with pytest.raises(BadInput, match=r"switch training\.restart is 'off'; allowed are weak, hardened"):
        Switches.from_mapping({"training.restart": "off"})


def test_settings_survive_json() -> None:
    settings = StagingSettings(switches=Switches(serving_replicas="weak"), requests_per_s=12.5, gateway_port=8080)
    assert StagingSettings.from_json(settings.to_json()) == settings
    assert json.loads(settings.to_json())["switches"]["serving.replicas"] == "weak"


def test_settings_that_are_not_named_keep_their_default() -> None:
    assert StagingSettings.from_json("{}") == StagingSettings()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "settings are not JSON"),
        ("[]", "settings are a JSON list; allowed is an object"),
        ('{"request_per_s": 3}', "unknown setting 'request_per_s'; did you mean requests_per_s?"),
        ('{"requests_per_s": 1000}', "requests_per_s is 1000; allowed is 0.1 to 200"),
        ('{"requests_per_s": "many"}', "requests_per_s is 'many'; allowed is a number"),
        ('{"requests_per_s": true}', "requests_per_s is True; allowed is a number"),
        ('{"gateway_port": 70000}', "gateway_port is 70000; allowed is 0 to 65535"),
        ('{"gateway_port": 80.5}', "gateway_port is 80.5; allowed is a whole number"),
        ('{"restart_delay_s": -1}', "restart_delay_s is -1; allowed is at least 0"),
        ('{"startup_deadline_s": NaN}', "startup_deadline_s is nan; allowed is at least 1"),
        ('{"startup_deadline_s": Infinity}', "startup_deadline_s is inf; allowed is at least 1"),
        ('{"switches": ["serving.replicas"]}', "switches are a list; allowed is a mapping of names to strengths"),
    ],
)
def test_settings_that_cannot_be_used_are_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(BadInput) as refused:
        StagingSettings.from_json(text)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_settings_cannot_be_made_wrong_in_python_either() -> None:
    with pytest.raises(BadInput, match="steps_per_s"):
        replace(StagingSettings(), steps_per_s=0.0)


def test_a_shell_that_points_ray_elsewhere_is_not_listened_to(tmp_path: Path) -> None:
    variables = {"RAY_ADDRESS": "ray://production:10001", "RAY_AUTH_TOKEN": "secret", "HOME": "/root"}
    ray_environment.prepare(variables, Layout(tmp_path, tmp_path), None)
    assert "RAY_ADDRESS" not in variables
    assert "RAY_AUTH_TOKEN" not in variables
    assert variables["HOME"] == "/root"
    assert variables["RAY_AUTH_MODE"] == "token"
    assert variables["RAY_TMPDIR"] == str(tmp_path)


@pytest.mark.parametrize(("hang_timeout_s", "said"), [(None, None), (8.0, "8")])
def test_how_long_a_rank_may_hang_is_left_to_ray_unless_somebody_says_so(
    tmp_path: Path, hang_timeout_s: float | None, said: str | None
) -> None:
    variables: dict[str, str] = {}
    ray_environment.prepare(variables, Layout(tmp_path, tmp_path), hang_timeout_s)
    assert variables.get("RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S") == said


def test_the_token_of_the_cluster_is_secret_and_new_every_time(tmp_path: Path) -> None:
    layout = Layout(tmp_path, tmp_path)
    ray_environment.write_token(layout)
    first = layout.ray_token.read_text()
    ray_environment.write_token(layout)
    assert layout.ray_token.stat().st_mode & 0o777 == 0o600
    assert len(first) == 64
    assert first != layout.ray_token.read_text()
