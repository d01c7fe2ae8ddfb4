from __future__ import annotations

import pytest
import yaml

from actuators.errors import BadInput
from agent.settings import PACKAGED, load
from tests.conftest import config_file

SETTINGS = sorted(set(PACKAGED.glob("*.yaml")) - {PACKAGED / "incidents.yaml"})


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
        (lambda d: d["hypothesis"]["clauses"][0].update(within_s=3.0), "within_s belongs to `must: return`"),
        (lambda d: d["hypothesis"]["clauses"][0].update(mechanism="magic"), "'hypothesis.clauses.0.mechanism'"),
        (lambda d: d["cluster"].update(switches={"serving.replica": "weak"}), "did you mean serving.replicas?"),
        (lambda d: d["cluster"].update(switches={"serving.replicas": "soft"}), "allowed are weak, hardened"),
        (lambda d: d["cluster"].update(platform={"request_per_s": 1}), "did you mean requests_per_s?"),
        (lambda d: d["cluster"].update(platform={"requests_per_s": 1e9}), "requests_per_s is 1000000000.0; allowed"),
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
