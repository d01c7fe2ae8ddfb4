from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from actuators.errors import BadInput
from agent.settings import PACKAGED, load
from envs.staging.control import REPAIRS
from envs.staging.settings import StagingSettings, Switches
from safety.limits import Limits, ServiceLimit
from tests.conftest import config_file

SETTINGS = sorted(set(PACKAGED.glob("*.yaml")) - {PACKAGED / "incidents.yaml"})
NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("path", SETTINGS, ids=lambda path: path.name)
def test_every_packaged_file_is_valid(path):
    load(path)


@pytest.mark.parametrize("text", ["?", "1: {}", "null: {}", "cluster: {? : }", "cluster: {1: 2}", "[1, 2]: {}"])
def test_keys_that_are_no_names_are_refused_in_one_line(tmp_path, text):
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    with pytest.raises(BadInput) as refused:
        load(path)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["campaign"].update(polcy="x"), "unknown key 'campaign.polcy'; did you mean 'policy'?"),
        (lambda d: d.update(hypotesis={}), "unknown key 'hypotesis'; did you mean 'hypothesis'?"),
        (
            lambda d: d["hypothesis"]["clauses"][0].update(atmost=1),
            "'hypothesis.clauses.0.atmost'; did you mean 'at_most'?",
        ),
        (lambda d: d["limits"].update(max_opn=1), "unknown key 'limits.max_opn'; did you mean 'max_open'?"),
        (lambda d: d["patience"].update(xyz=1), "unknown key 'patience.xyz'; allowed are gate_s, repair_s"),
        (lambda d: d.pop("cluster"), "'cluster' is missing"),
        (lambda d: d["cluster"].pop("id"), "'cluster.id' is missing"),
        (lambda d: d["campaign"].update(budget_min="soon"), "'campaign.budget_min': Input should be a valid number"),
        (
            lambda d: d["campaign"].update(budget_min=-1),
            "'campaign.budget_min': Input should be greater than 0, got -1",
        ),
        (lambda d: d["campaign"].update(budget_min=float("nan")), "'campaign.budget_min'"),
        (lambda d: d["cluster"].update(kind="prod"), "'cluster.kind': Input should be 'local' or 'simulated'"),
        (lambda d: d["cluster"].update(id="../etc"), "'cluster.id': String should match pattern"),
        (lambda d: d["scoring"].update(units=5), "'scoring.units': Input should be greater than or equal to 24"),
        (lambda d: d["campaign"].update(sham_share=0.0), "'campaign.sham_share'"),
        (lambda d: d["limits"].update(max_share=2), "limits.max_share is 2"),
        (
            lambda d: d["limits"]["service_levels"].update({"client/p50_ms": {"at_most": 1, "at_least": 1}}),
            "exactly one",
        ),
        (
            lambda d: d["limits"]["service_levels"].update({"client/p50_ms": {"at_most": 250.0}}),
            "lies inside of the hypothesis",
        ),
        (
            lambda d: d["limits"]["service_levels"].update({"client/error_share": {"at_most": 0.5, "for_s": 1.0}}),
            "lies inside of the hypothesis",
        ),
        (
            lambda d: d["limits"]["service_levels"].update({"client/p90_ms": {"at_most": 1.0}}),
            "on which no clause says `hold`",
        ),
        (lambda d: d["limits"].update(max_duration_s=30.0), "to see it broken takes faults of 45 s"),
        (lambda d: d["hypothesis"]["clauses"][0].update(series="client/foo"), "names the series 'client/foo'"),
        (
            lambda d: (d["hypothesis"].update(clauses=[]), d["limits"].update(service_levels={})),
            "hypothesis.clauses is empty; at least one promise",
        ),
        (
            lambda d: [clause.update(recover_within_s=0.0) for clause in d["hypothesis"]["clauses"]],
            "recover_within_s is 0 in every clause",
        ),
        (lambda d: d["patience"].update(gate_s=12.0), "patience.gate_s is 12; it has to exceed"),
        (lambda d: d["hypothesis"]["clauses"][0].update(within_s=3.0), "within_s belongs to `must: return`"),
        (lambda d: d["hypothesis"]["clauses"][0].update(mechanism="magic"), "'hypothesis.clauses.0.mechanism'"),
        (lambda d: d["cluster"].update(switches={"serving.replica": "weak"}), "did you mean serving.replicas?"),
        (lambda d: d["cluster"].update(switches={"serving.replicas": "soft"}), "allowed are weak, hardened"),
        (lambda d: d["cluster"].update(platform={"request_per_s": 1}), "did you mean requests_per_s?"),
        (lambda d: d["cluster"].update(platform={"requests_per_s": 1e9}), "requests_per_s is 1000000000.0; allowed"),
        (lambda d: d["hypothesis"].update(samples=0), "hypothesis.samples is 0; allowed are whole numbers from 1"),
        (lambda d: d["hypothesis"].update(samples=-1), "hypothesis.samples is -1"),
        (
            lambda d: d["hypothesis"]["clauses"].append(dict(d["hypothesis"]["clauses"][0], at_most=0.2)),
            "hypothesis.clauses has 2 clauses on client/error_share; allowed is one",
        ),
        (
            lambda d: d["hypothesis"]["clauses"][0].update(recover_within_s=-1),
            "recover_within_s is -1.0; allowed are finite values from 0",
        ),
        (lambda d: d["hypothesis"]["clauses"][4].update(within_s=-1), "within_s is -1.0; allowed are finite values"),
        (lambda d: d["patience"].update(gate_s=-1), "patience.gate_s is -1; allowed are finite values from 0"),
        (lambda d: d["patience"].update(repair_s=-0.5), "patience.repair_s is -0.5; allowed are finite values from 0"),
        (
            lambda d: d["repairs"].update(trainer="reboot"),
            "'repairs': there is no repair 'reboot' of trainer; allowed are restart, reset",
        ),
        (lambda d: d["repairs"].update(gateway="reset"), "no repair 'reset' of gateway; allowed are restart"),
        (lambda d: d["repairs"].update(trainer=""), "no repair '' of trainer; allowed are restart, reset"),
        (
            lambda d: d["repairs"].update(nobody="restart"),
            "'repairs': there is no component 'nobody'; allowed are trainer, model-server, gateway",
        ),
        (lambda d: d["repairs"].update({"": "restart"}), "there is no component ''"),
        (
            lambda d: d["service"]["schedule"].update(windows=[{"begins": 1320, "ends": "06:00"}]),
            "'service.schedule.windows.0.begins': a number is neither a time nor a date; write it in quotes: \"22:00\"",
        ),
        (
            lambda d: d["service"]["schedule"].update(freezes=[{"begins": 20261220, "ends": 20270103}]),
            "'service.schedule.freezes.0.begins': a number is neither a time nor a date; "
            'write it in quotes: "2026-12-20T00:00", got 20261220',
        ),
    ],
)
def test_bad_settings_are_one_line_that_says_what_where_and_what_is_allowed(tmp_path, change, message):
    data = yaml.safe_load((PACKAGED / "simulated.yaml").read_text())
    change(data)
    path = tmp_path / "settings.yaml"
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(BadInput) as error:
        load(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def numbers_in(said: object, at: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Returns where in some settings a number is, or could be: null is said of such a key, too."""
    if isinstance(said, dict):
        for key, value in said.items():
            yield from numbers_in(value, (*at, key))
    elif isinstance(said, list):
        for number, value in enumerate(said):
            yield from numbers_in(value, (*at, number))
    elif isinstance(said, int | float) and not isinstance(said, bool):
        yield at


def numeric_keys() -> list[tuple[str | int, ...]]:
    """Returns where in local.yaml numbers are; of a key that many clauses have, where the first of each sort is."""
    said = yaml.safe_load((PACKAGED / "local.yaml").read_text(encoding="utf-8"))
    sorts: dict[tuple[str, ...], tuple[str | int, ...]] = {}
    for at in numbers_in(said):
        sort = (said["hypothesis"]["clauses"][at[2]]["must"],) if "clauses" in at else ()
        sorts.setdefault((*("*" if isinstance(part, int) else part for part in at), *sort), at)
    return [*sorts.values(), ("campaign", "experiments")]


@pytest.mark.parametrize("at", numeric_keys(), ids=lambda at: ".".join(map(str, at)))
def test_no_number_may_be_infinite_or_none_at_all(tmp_path, at):
    """There is no exception: for ever is said by leaving a key out, where it can be said."""
    data = yaml.safe_load((PACKAGED / "local.yaml").read_text(encoding="utf-8"))
    place = data
    for part in at[:-1]:
        place = place[part]
    for value in (NAN, INF, -INF):
        place[at[-1]] = value
        path = tmp_path / "settings.yaml"
        path.write_text(yaml.safe_dump(data))
        with pytest.raises(BadInput) as refused:
            load(path)
        assert str(at[-1]) in str(refused.value)
        assert "\n" not in str(refused.value)


OF_EACH_SORT = (
    "campaign.budget_min",
    "safety.lease_ttl_s",
    "safety.grace_s",
    "limits.stale_after_s",
    "limits.max_duration_s",
    "patience.gate_s",
    "scoring.window_s",
    "telemetry.prometheus.max_age_s",
    "service.daily.minutes",
    "cluster.platform.upstream_timeout_s",
)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "Infinity"])
def test_nor_may_one_from_the_environment(monkeypatch, value):
    for key in OF_EACH_SORT:
        name = f"BACKBURN_{key.replace('.', '__').upper()}"
        with monkeypatch.context() as patched:
            patched.setenv(name, value)
            with pytest.raises(BadInput, match=rf"the environment sets {name}: .*{value}|{key.rpartition('.')[2]} is"):
                load(PACKAGED / "local.yaml")


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_nor_may_one_from_the_command_line(value):
    for key in OF_EACH_SORT:
        with pytest.raises(BadInput, match=key.rpartition(".")[2]):
            load(PACKAGED / "local.yaml", {key: value})


def test_every_repair_that_the_platform_knows_may_be_declared(tmp_path):
    for component, actions in REPAIRS.items():
        for action in actions:
            assert load(config_file(tmp_path, repairs={component: action})).repairs[component] == action


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("limits: {}\ncampaign:\n  seed: 1\nlimits: {}\n", "line 4 has the key 'limits' of line 1 again"),
        ('campaign:\n  seed: 1\n  "seed": 2\n', "line 3 has the key 'seed' of line 2 again"),
        ("campaign: {seed: 1, seed: 1}\n", "line 1 has the key 'seed' of line 1 again"),
        ("hypothesis:\n  clauses:\n  - at_most: 1\n    at_most: 2\n", "line 4 has the key 'at_most' of line 3 again"),
    ],
)
def test_a_key_that_is_there_twice_is_refused_with_its_lines(tmp_path, text, message):
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    with pytest.raises(BadInput) as refused:
        load(path)
    assert str(refused.value) == f"{path}: {message}; allowed is one"


def test_what_is_merged_into_a_mapping_may_be_said_again(tmp_path):
    path = config_file(tmp_path)
    path.write_text(path.read_text().replace("trainer: restart", "<<: {trainer: restart}\n  trainer: reset"))
    assert load(path).repairs["trainer"] == "reset"


def test_a_day_that_no_calendar_has_is_refused_in_one_line(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text("service: {schedule: {freezes: [{begins: 2026-02-30, ends: 2026-03-01}]}}")
    with pytest.raises(BadInput, match="day is out of range"):
        load(path)


@pytest.mark.parametrize(
    ("telemetry", "message"),
    [
        ({}, "'telemetry': the source is prometheus; prometheus.url must say where it is"),
        ({"prometheus": {"url": "127.0.0.1:9090"}}, "url is '127.0.0.1:9090'; allowed is http[s]://host[:port][/path]"),
        ({"prometheus": {"url": "ftp://host"}}, "'telemetry.prometheus': url is 'ftp://host'; allowed is"),
        ({"prometheus": {"url": "http://:9090"}}, "url is 'http://:9090'"),
        ({"prometheus": {"url": "http://host:99999"}}, "url is 'http://host:99999'"),
        ({"prometheus": {"url": "http://host name"}}, "url is 'http://host name'"),
        ({"prometheus": {"url": "http://host?query=up"}}, "url is 'http://host?query=up'"),
        ({"prometheus": {"url": "http://me:secret@host:99999"}}, "url holds a user or a password"),
        ({"prometheus": {"url": "http://me:secret@host"}}, "url holds a user or a password"),
        ({"prometheus": {"url": "http://host", "timeout_s": 0}}, "'telemetry.prometheus.timeout_s'"),
        ({"prometheus": {"url": "http://host", "timeout_s": 4.0}}, "timeout_s is 4; it must not exceed limits.stale"),
        ({"prometheus": {"url": "http://host", "max_age_s": 30.0}}, "max_age_s is 30; it must not exceed limits.stale"),
        ({"prometheus": {"ulr": "http://host"}}, "unknown key 'telemetry.prometheus.ulr'; did you mean 'url'?"),
        ({"source": "promeheus"}, "'telemetry.source': Input should be 'scrape' or 'prometheus'"),
    ],
)
def test_a_prometheus_that_cannot_be_used_is_refused_in_one_line(tmp_path, telemetry, message):
    with pytest.raises(BadInput) as error:
        load(config_file(tmp_path, "local.yaml", telemetry={"source": "prometheus"} | telemetry))
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert "secret" not in str(error.value)


def test_a_simulated_cluster_has_no_prometheus(tmp_path):
    telemetry = {"source": "prometheus", "prometheus": {"url": "http://host"}}
    with pytest.raises(BadInput, match="a simulated cluster allows scrape only"):
        load(config_file(tmp_path, telemetry=telemetry))


@pytest.mark.parametrize("url", ["http://127.0.0.1:9090", "https://[::1]:9090/", "https://host.example/prometheus"])
def test_a_prometheus_can_be_named_by_environment_alone(tmp_path, monkeypatch, url):
    monkeypatch.setenv("BACKBURN_TELEMETRY__SOURCE", "prometheus")
    monkeypatch.setenv("BACKBURN_TELEMETRY__PROMETHEUS__URL", url)
    assert load(config_file(tmp_path, "local.yaml")).telemetry.prometheus.address == url


@pytest.mark.parametrize("content", [b"", b"[1, 2]", b"a: [", b"\xff\xfe\x00", b"just text"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path, content):
    path = tmp_path / "settings.yaml"
    path.write_bytes(content)
    with pytest.raises(BadInput):
        load(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(BadInput, match="No such file"):
        load(tmp_path / "nothing.yaml")


def test_a_variable_of_a_section_that_there_is_not_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("BACKBURN_LIMTS__MAX_OPEN", "1")
    with pytest.raises(BadInput, match="BACKBURN_LIMTS__MAX_OPEN; there is no section 'limts', allowed are cluster"):
        load(config_file(tmp_path))


@pytest.mark.parametrize(
    ("name", "section"),
    [
        ("BACKBURN_LIMITS_STALE_AFTER_S", "limits_stale_after_s"),
        ("BACKBURN_CAMPAING", "campaing"),
        ("BACKBURN_SEED", "seed"),
        ("BACKBURN_SHAPE", "shape"),
        ("BACKBURN_", ""),
        ("backburn_seed", "seed"),
    ],
)
def test_a_variable_that_sets_nothing_is_refused(tmp_path, monkeypatch, name, section):
    monkeypatch.setenv(name, "1")
    with pytest.raises(BadInput) as refused:
        load(config_file(tmp_path))
    assert f"the environment sets {name}; there is no section '{section}', allowed are cluster" in str(refused.value)
    assert "two underscores before a key" in str(refused.value)


@pytest.mark.parametrize(
    "name",
    [
        "BACKBURN_SERVICE_HOST",
        "BACKBURN_SERVICE_PORT",
        "BACKBURN_SERVICE_PORT_HTTP",
        "BACKBURN_PORT",
        "BACKBURN_PORT_8321_TCP",
        "BACKBURN_PORT_8321_TCP_ADDR",
        "BACKBURN_WEB_SERVICE_HOST",
    ],
)
def test_what_kubernetes_tells_pods_of_a_service_called_like_us_is_no_setting(tmp_path, monkeypatch, name):
    before = load(config_file(tmp_path))
    monkeypatch.setenv(name, "tcp://10.0.0.1:8321")
    assert load(config_file(tmp_path)) == before


def test_a_variable_of_the_tests_sets_nothing_and_is_none_of_ours(tmp_path, monkeypatch):
    monkeypatch.setenv("BACKBURN_TEST_EVERYTHING", "1")
    load(config_file(tmp_path))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("SERVICE__HTTP__HOSTS", "example.org", "to a plain text; service.http.hosts is written as JSON, a list such"),
        ("SERVICE__HTTP__HOSTS", "[example.org]", "to a plain text; service.http.hosts is written as JSON"),
        (
            "SERVICE__SCHEDULE__WINDOWS",
            "22:00",
            'is written as JSON, a list such as ["a","b"] and a mapping such as {"a"',
        ),
        ("LIMITS__DENY_PATTERNS", "prod", "to a plain text; limits.deny_patterns is written as JSON"),
        ("HYPOTHESIS__CLAUSES", "none", "to a plain text; hypothesis.clauses is written as JSON"),
        ("REPAIRS", "restart", "to a plain text; repairs is written as JSON"),
        ("LIMITS", "none", "to a plain text; limits is written as JSON"),
        ("CAMPAIGN", "x", "to a plain text; campaign is written as JSON"),
        ("CAMPAIGN__SEED", "x", ": 'campaign.seed': Input should be a valid integer"),
        ("LIMITS__STALE_AFTER", "1", ": unknown key 'limits.stale_after'; did you mean 'stale_after_s'?"),
        ("SERVICE__HTTP__HOSTS", "[1]", ": 'service.http.hosts.0': Input should be a valid string, got 1"),
        ("CAMPAIGN", '{"seed": -1}', ": 'campaign.seed': Input should be greater than or equal to 0, got -1"),
        ("REPAIRS", '{"trainer": "reboot"}', ": 'repairs': there is no repair 'reboot' of trainer"),
    ],
)
def test_a_variable_that_makes_no_sense_is_named_and_not_the_file(tmp_path, monkeypatch, name, value, message):
    path = config_file(tmp_path)
    monkeypatch.setenv(f"BACKBURN_{name}", value)
    with pytest.raises(BadInput) as refused:
        load(path)
    assert str(refused.value).startswith(f"the environment sets BACKBURN_{name}")
    assert message in str(refused.value)
    assert str(path) not in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("LIMITS__STALE_AFTER_S", "-1", "limits.stale_after_s is -1.0; allowed are finite values above 0"),
        ("HYPOTHESIS__SAMPLES", "0", "hypothesis.samples is 0; allowed are whole numbers from 1"),
        ("CLUSTER__PLATFORM__REQUESTS_PER_S", "300", "'cluster': requests_per_s is 300; allowed is 0.1 to 200"),
    ],
)
def test_a_variable_in_a_section_that_makes_no_sense_is_named_with_the_file(
    tmp_path, monkeypatch, name, value, message
):
    path = config_file(tmp_path)
    monkeypatch.setenv(f"BACKBURN_{name}", value)
    with pytest.raises(BadInput) as refused:
        load(path)
    assert str(refused.value) == f"{path} with BACKBURN_{name}: {message}"


def test_a_text_where_a_mapping_should_be_is_not_shown_as_it_may_hold_a_password(tmp_path, monkeypatch):
    monkeypatch.setenv("BACKBURN_TELEMETRY__PROMETHEUS", "http://me:secret@host")
    with pytest.raises(BadInput, match="BACKBURN_TELEMETRY__PROMETHEUS to a plain text") as refused:
        load(config_file(tmp_path, "local.yaml"))
    assert "secret" not in str(refused.value)


def test_a_plain_value_of_a_section_is_refused_even_where_more_is_said_of_it(tmp_path, monkeypatch):
    monkeypatch.setenv("BACKBURN_CAMPAIGN", "x")
    with pytest.raises(
        BadInput, match="the environment sets BACKBURN_CAMPAIGN to a plain text; campaign is written as JSON"
    ):
        load(config_file(tmp_path), {"campaign.seed": 3})


def test_what_the_file_or_the_command_line_says_is_not_blamed_on_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("BACKBURN_CAMPAIGN", '{"seed": 1}')
    monkeypatch.setenv("BACKBURN_SCORING__UNITS", "80")
    path = config_file(tmp_path, campaign={"budget_min": -1})
    with pytest.raises(BadInput, match=r"settings\.yaml: 'campaign\.budget_min'"):
        load(path)
    with pytest.raises(BadInput, match=r"settings\.yaml: 'scoring\.units'"):
        load(config_file(tmp_path), {"scoring.units": 1})


def test_lists_and_mappings_can_be_set_by_environment(tmp_path, monkeypatch):
    said = {
        "BACKBURN_SERVICE__HTTP__HOSTS": '["a.example", "b.example"]',
        "BACKBURN_LIMITS__DENY_PATTERNS": '["prod", "live"]',
        "BACKBURN_REPAIRS": '{"trainer": "reset"}',
        "BACKBURN_CAMPAIGN": '{"seed": 1, "policy": "ucb"}',
        "BACKBURN_CAMPAIGN__SEED": "2",
        "BACKBURN_STATE_DIR": str(tmp_path),
    }
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    overrides = {"service.http.port": 0, "campaign.experiments": 5}
    settings = load(config_file(tmp_path, campaign={"budget_min": 7.0}), overrides)
    assert settings.service.http.hosts == ["a.example", "b.example"]
    assert settings.limits.deny_patterns == ("prod", "live")
    assert settings.repairs == dict.fromkeys(REPAIRS, "restart") | {"trainer": "reset"}
    assert (settings.campaign.seed, settings.campaign.policy) == (2, "ucb")
    assert (settings.campaign.budget_min, settings.campaign.experiments) == (7.0, 5)
    assert settings.state_dir == tmp_path
    assert overrides == {"service.http.port": 0, "campaign.experiments": 5}


def test_a_text_that_looks_like_a_list_stays_a_text(tmp_path, monkeypatch):
    monkeypatch.setenv("BACKBURN_SERVICE__HTTP__HOST", "[::1]")
    with pytest.raises(BadInput, match=r"host '\[::1\]' can be reached from elsewhere"):
        load(config_file(tmp_path))


def test_arguments_win_over_the_environment_and_that_over_the_file(tmp_path, monkeypatch):
    path = config_file(tmp_path, campaign={"seed": 1, "policy": "random"})
    monkeypatch.setenv("BACKBURN_CAMPAIGN__SEED", "2")
    monkeypatch.setenv("BACKBURN_CAMPAIGN__BUDGET_MIN", "7")
    settings = load(path, {"campaign.seed": 3, "campaign.experiments": None})
    assert (settings.campaign.seed, settings.campaign.budget_min, settings.campaign.policy) == (3, 7.0, "random")


def test_what_a_run_keeps_of_its_settings_can_be_read_again(tmp_path):
    """The watchdog reads the file that the run wrote."""
    settings = load(PACKAGED / "local.yaml", {"campaign.seed": 5})
    path = tmp_path / "settings.yaml"
    path.write_text(yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False))
    assert load(path).model_dump() == settings.model_dump()


def least(data: dict, path: Path) -> Path:
    """Writes what a packaged file says is required, with all of its clauses and limits."""
    said = {
        "cluster": {name: data["cluster"][name] for name in ("kind", "id")},
        "hypothesis": {"clauses": data["hypothesis"]["clauses"]},
        "limits": data["limits"],
    }
    path.write_text(yaml.safe_dump(said))
    return path


@pytest.mark.parametrize("packaged", SETTINGS, ids=lambda path: path.name)
def test_what_is_left_out_keeps_the_value_shown_but_for_what_the_header_names(tmp_path, packaged):
    shown = load(packaged)
    data = yaml.safe_load(packaged.read_text(encoding="utf-8"))
    left_out = load(least(data, tmp_path / "settings.yaml"))
    assert (left_out.repairs, left_out.service.ladder.begin) == ({}, 0)
    switches = left_out.cluster.staging().switches
    assert switches == Switches()
    assert set(switches.to_mapping().values()) == {"hardened"}
    platform = StagingSettings(cluster_id=data["cluster"]["id"], **data["cluster"].get("platform", {}))
    assert left_out.cluster.staging() == platform
    differs = {"cluster": {"switches", "platform"}, "repairs": True, "service": {"ladder": {"begin"}}}
    assert left_out.model_dump(mode="json", exclude=differs) == shown.model_dump(mode="json", exclude=differs)


@pytest.mark.parametrize("packaged", SETTINGS, ids=lambda path: path.name)
@pytest.mark.parametrize("key", ["cluster", "cluster.kind", "cluster.id", "hypothesis", "limits"])
def test_what_the_header_says_is_required_is(tmp_path, packaged, key):
    data = yaml.safe_load(packaged.read_text(encoding="utf-8"))
    section, _, name = key.partition(".")
    if name:
        del data[section][name]
    else:
        del data[section]
    path = tmp_path / "settings.yaml"
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(BadInput, match=f"'{key}' is missing"):
        load(path)


@pytest.mark.parametrize("packaged", SETTINGS, ids=lambda path: path.name)
def test_of_limits_that_are_left_out_only_those_allow_something_that_their_comment_names(packaged):
    shown, left_out = load(packaged).limits, Limits()
    same = ("deny_patterns", "max_open", "max_duration_s", "stale_after_s")
    assert [getattr(left_out, name) for name in same] == [getattr(shown, name) for name in same]
    assert (left_out.cluster_id, left_out.environment, left_out.whole_component, left_out.irreversible) == (
        "",
        "",
        (),
        (),
    )
    assert (left_out.max_instances, left_out.max_share, left_out.service_levels) == (0, 0.0, {})
    assert ServiceLimit(at_most=1.0).for_s == 5.0


def test_local_yaml_shows_every_key():
    settings = load(PACKAGED / "local.yaml").model_dump(mode="json")
    shown = yaml.safe_load((PACKAGED / "local.yaml").read_text(encoding="utf-8"))
    sections = [name for name, value in settings.items() if isinstance(value, dict)]
    assert {name: set(shown[name]) for name in sections} == {name: set(settings[name]) for name in sections}
    for inner in settings["service"]:
        if isinstance(settings["service"][inner], dict):
            assert set(shown["service"][inner]) == set(settings["service"][inner])
    assert set(shown["cluster"]["switches"]) == set(Switches().to_mapping())
    platform = set(json.loads(StagingSettings().to_json())) - {"cluster_id", "environment", "switches"}
    assert set(shown["cluster"]["platform"]) == platform


EXPLAINED_ABOVE = (
    *("- series:", "mechanism:", "must:", "at_most:", "at_least:", "within_s:", "recover_within_s:"),
    *("whole_component:", "- pod.", "- model.", "client/", "highest:", "promote_after:"),
    *(f"{name}: restart" for name in REPAIRS),
)


@pytest.mark.parametrize("packaged", SETTINGS, ids=lambda path: path.name)
def test_every_value_in_a_packaged_file_has_a_word_of_explanation(packaged):
    """On its line; those that come again and again, and those that a longer text explains, above it."""
    lines = packaged.read_text(encoding="utf-8").splitlines()
    silent = [line.strip() for line in lines if line and "#" not in line and not line.endswith(":")]
    assert [line for line in silent if not line.startswith(EXPLAINED_ABOVE)] == []
