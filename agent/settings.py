"""One validated settings model, read once: YAML file, then environment (`BACKBURN_…`), then command line.

Every section is owned by the room that it configures; here they are only put together. A wrong key names the nearest
right one, and a limit that would stop an experiment before its hypothesis is broken is refused. So is every number that
is not finite, whoever says it: no measurement lies beyond NaN or infinity, and a limit that is one would be off.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from actuators.errors import BadInput
from envs.experiment import Patience
from envs.hypothesis import Hypothesis
from envs.staging.control import REPAIRS
from envs.staging.errors import BadInput as PlatformBadInput
from envs.staging.settings import StagingSettings
from envs.windows import Shape
from safety.limits import Limits

from . import layers
from .consistency import require_consistent
from .service.settings import ServiceSettings

PACKAGED = Path(__file__).resolve().parent.parent / "configs"
"""The settings files that come with Backburn."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class ClusterSettings(_Section):
    """Which cluster is experimented on."""

    kind: Literal["local", "simulated"]
    """`local`: the embedded staging ML cluster, real processes on this host. `simulated`: nothing real at all."""

    id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
    """Names the state folder; `limits.cluster_id` pins it."""

    environment: str = "staging"
    """What the cluster is for; `limits.environment` must name it."""

    switches: Mapping[str, str] = {}
    """Known weaknesses of the embedded cluster, `weak` or `hardened`; its own processes alone read them."""

    platform: Mapping[str, int | float] = {}
    """Sizes and speeds of the embedded cluster (`envs.staging.settings.StagingSettings`)."""

    @model_validator(mode="after")
    def _is_a_platform(self) -> Self:
        self.staging()
        return self

    def staging(self) -> StagingSettings:
        """Returns what the embedded cluster is started with."""
        data = {"cluster_id": self.id, "environment": self.environment, "switches": dict(self.switches)}
        try:
            return StagingSettings.from_json(json.dumps(data | dict(self.platform)))
        except PlatformBadInput as error:
            raise ValueError(str(error)) from error


class CampaignSettings(_Section):
    """How long, with which policy, and how honestly."""

    budget_min: Annotated[float, Field(gt=0)] = 10.0
    """Minutes from the first gate to the last revert; start-up and calibration are not counted."""

    experiments: Annotated[int, Field(gt=0)] | None = None
    """Most experiments that the policy may choose; no limit but the minutes if absent."""

    policy: str = "ppo"
    """`random`, `round_robin`, `ucb`, `genetic`, `incident`, `thompson`, `posterior`, `ppo`, the path of a policy
    that `backburn train` wrote (.safetensors), or of a file of incidents (.yaml), or `module:function` of one's own."""

    seed: Annotated[int, Field(ge=0)] = 0
    """Seeds every random choice of the campaign."""

    reserve_share: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Share of the budget that is kept for shams and for shrinking what was found."""

    sham_share: Annotated[float, Field(ge=0.1, le=0.5)] = 0.1
    """Share of experiments without a fault; what they alarm on is false, and is published."""


class SafetySettings(_Section):
    """How the agent is watched."""

    lease_ttl_s: Annotated[float, Field(ge=2)] = 5.0
    """An agent that is silent for longer counts as hung, seconds."""

    grace_s: Annotated[float, Field(gt=0)] = 5.0
    """How long after its deadline the watchdog looks for a fault once more, seconds."""


class ScoringSettings(_Section):
    """How measurements become verdicts."""

    window_s: Annotated[float, Field(gt=0)] = 3.0
    """Length of a window, seconds."""

    reference_windows: Annotated[int, Field(ge=1)] = 4
    """Windows before an injection that the later ones are compared with."""

    units: Annotated[int, Field(ge=24)] = 80
    """Fault-free units to collect before the first experiment; with 80, two replicates can confirm a weakness."""

    alpha: Annotated[float, Field(gt=0, le=0.2)] = 0.05
    """Level of a single verdict."""


def _is_server(url: str) -> bool:
    """Tells whether a URL names a server, and nothing but a server."""
    try:
        parts = urlsplit(url)
        whole = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        return False
    return bool(whole) and url.isprintable() and not (parts.query or parts.fragment or " " in url)


class PrometheusSettings(_Section):
    """A Prometheus that scrapes the cluster, where measurements come from one."""

    url: str | None = None
    """Of the server, without `/api/v1`, and without a password: settings are kept with every run."""

    timeout_s: Annotated[float, Field(gt=0)] = 1.0
    """How long an answer may take, seconds."""

    over_s: Annotated[float, Field(ge=0.1)] = 1.0
    """The time over which counters are differentiated, seconds; at least twice the scrape interval."""

    max_age_s: Annotated[float, Field(gt=0)] = 2.0
    """Age at which a measurement becomes unknown, seconds; more than the scrape interval."""

    @model_validator(mode="after")
    def _names_a_server(self) -> Self:
        # Not with the field: a message would show its value, password and all.
        if self.url is not None and "@" in self.url:
            raise ValueError("url holds a user or a password, and settings are kept with every run")
        if self.url is not None and not _is_server(self.url):
            raise ValueError(f"url is {self.url!r}; allowed is http[s]://host[:port][/path]")
        return self

    @property
    def address(self) -> str:
        """The URL of a server that is used.

        Raises:
            BadInput: there is none.
        """
        if self.url is None:
            raise BadInput("telemetry.prometheus.url is missing")
        return self.url


class TelemetrySettings(_Section):
    """Where measurements come from, how often is looked, and how long is waited."""

    source: Literal["scrape", "prometheus"] = "scrape"
    """`scrape`: every exporter is asked directly. `prometheus`: a Prometheus that scrapes them is."""

    prometheus: PrometheusSettings = PrometheusSettings()
    """Which Prometheus, if `source` says so."""

    period_s: Annotated[float, Field(gt=0)] = 0.5
    """Time between two looks, seconds."""

    timeout_s: Annotated[float, Field(gt=0)] = 0.4
    """How long an exporter may take, seconds."""

    @model_validator(mode="after")
    def _names_the_server(self) -> Self:
        if self.source == "prometheus" and self.prometheus.url is None:
            raise ValueError("the source is prometheus; prometheus.url must say where it is")
        return self


class Settings(BaseModel):
    """Everything that a run can be told."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=False,  # holds for the dataclasses in it as well
    )

    cluster: ClusterSettings
    campaign: CampaignSettings = CampaignSettings()
    hypothesis: Hypothesis
    limits: Limits
    repairs: Mapping[str, str] = {}
    """Per component, the repair that its owners allow when it does not come back."""
    safety: SafetySettings = SafetySettings()
    scoring: ScoringSettings = ScoringSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    patience: Patience = Patience()
    service: ServiceSettings = ServiceSettings()
    state_dir: Path = Path("state")
    """What outlives runs: journal, ledger, lever, lease, calibration."""
    runs_dir: Path = Path("runs")
    """Where a run leaves its record and its report."""

    @field_validator("repairs")
    @classmethod
    def _can_be_done(cls, repairs: Mapping[str, str]) -> Mapping[str, str]:
        for component, action in repairs.items():
            if component not in REPAIRS:
                raise ValueError(f"there is no component {component!r}; allowed are {', '.join(REPAIRS)}")
            if action not in REPAIRS[component]:
                allowed = ", ".join(REPAIRS[component])
                raise ValueError(f"there is no repair {action!r} of {component}; allowed are {allowed}")
        return repairs

    @property
    def shape(self) -> Shape:
        """How time is cut into windows."""
        samples = max(1, round(self.scoring.window_s / self.telemetry.period_s))
        return Shape(self.scoring.window_s, self.scoring.reference_windows, samples)

    @property
    def cluster_state_dir(self) -> Path:
        """The state folder of this cluster."""
        return self.state_dir / self.cluster.id


def load(path: Path, overrides: Mapping[str, Any] | None = None, *, environment: bool = True) -> Settings:
    """Reads and validates a settings file.

    Args:
        path: the YAML file.
        overrides: dotted keys and values that win over the file and the environment; None values are left out.
        environment: whether the environment has a say; it has none in what was recorded earlier.

    Raises:
        BadInput: it cannot be read, or does not say something sensible; one line with what, where and what is allowed.
    """
    data = layers.read(path)
    variables = layers.variables(os.environ if environment else {}, Settings.model_fields)
    given = {tuple(dotted.split(".")): value for dotted, value in (overrides or {}).items() if value is not None}
    said = layers.nested([*((variable.keys, variable.value) for variable in variables), *given.items()])
    try:
        settings = Settings.model_validate(layers.over(data, said))
    except ValidationError as error:
        raise BadInput(layers.blamed(error, Settings, path, variables, given)) from error
    except BadInput as error:
        raise BadInput(f"{layers.origin(path, variables)}: {error}") from error
    require_consistent(settings, path)
    return settings
