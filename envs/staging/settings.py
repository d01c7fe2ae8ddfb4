"""What a staging cluster is made of: sizes, speeds, and the switches that make it weak or hardened."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, TypeAlias, get_args

from .errors import BadInput

Strength: TypeAlias = Literal["weak", "hardened"]
"""Weak is what many teams run: the option was never set. Hardened is what a careful team runs."""

_NO_LIMIT = float("inf")


@dataclass(frozen=True, slots=True)
class Switches:
    """The known weaknesses, each of them off or on; only the platform's own processes read them.

    Outside of Python a switch is named with a dot: `serving.replicas` is the field `serving_replicas`.
    """

    serving_replicas: Strength = "hardened"
    """Weak: one model server. Hardened: two, with requests routed around a dead one."""

    serving_feature_timeout: Strength = "hardened"
    """Weak: features are waited for without end. Hardened: briefly, then the last known ones are used."""

    serving_retries: Strength = "hardened"
    """Weak: features are asked for again at once and without end. Hardened: once, after a pause, within a budget."""

    serving_health: Strength = "hardened"
    """Weak: a model server is well while its process is up. Hardened: only one that can answer gets requests."""

    training_restart: Strength = "hardened"
    """Weak: the training job fails with its first rank. Hardened: it resumes."""

    training_checkpoint: Strength = "hardened"
    """Weak: one file, overwritten in place and trusted. Hardened: whole, verified, the last three kept."""

    registry_verify: Strength = "hardened"
    """Weak: any published file is loaded. Hardened: only one that fits its checksum, else the last good one."""

    deploy_canary_gate: Strength = "hardened"
    """Weak: a new model is served at once. Hardened: on trial first, and not at all if its answers differ too much."""

    training_hang_timeout: Strength = "hardened"
    """Weak: a rank that hangs is waited for as long as Ray's default says. Hardened: the job soon starts anew."""

    monitoring_absent_alert: Strength = "hardened"
    """Weak: alerts compare values, and a dead exporter has none. Hardened: its absence is an alarm."""

    data_schema_gate: Strength = "hardened"
    """Weak: whatever can be read as a number becomes a feature. Hardened: rows that do not fit are quarantined."""

    data_drift_alarm: Strength = "hardened"
    """Weak: data may become anything. Hardened: a drift is an alarm, and nothing is written while it lasts."""

    features_freshness: Strength = "hardened"
    """Weak: features are served however old they are. Hardened: old ones are said to be stale, many an alarm."""
    serving_autoscale: Strength = "hardened"
    """Weak: as many model servers as were ordered. Hardened: more when requests pile up."""

    serving_queue: Strength = "hardened"
    """Weak: whoever asks is let in and waits in line. Hardened: only so many at a time, the others are told at once."""

    def __post_init__(self) -> None:
        for name, value in self.to_mapping().items():
            if value not in get_args(Strength):
                raise BadInput(f"switch {name} is {value!r}; allowed are {', '.join(get_args(Strength))}")

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Switches:
        """Reads dotted names; a switch that is not named keeps its default.

        Raises:
            BadInput: no mapping, an unknown switch, or a value that is neither weak nor hardened.
        """
        if not isinstance(mapping, Mapping):
            raise BadInput(f"switches are a {type(mapping).__name__}; allowed is a mapping of names to strengths")
        known = [_dotted(field.name) for field in fields(cls)]
        _refuse_unknown("switch", mapping, known)
        return cls(**{name.replace(".", "_"): value for name, value in mapping.items()})

    def to_mapping(self) -> dict[str, Strength]:
        """Returns every switch under its dotted name."""
        return {_dotted(name): value for name, value in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class StagingSettings:
    """Everything a person may choose about a staging cluster."""

    cluster_id: str = "local"
    """Which cluster this is; pinned by those who act on it."""

    environment: str = "staging"
    """What sort of environment this is."""

    switches: Switches = field(default_factory=Switches)
    """The known weaknesses."""

    seed: int = 0
    """Seed of entities, labels, requests and training examples."""

    requests_per_s: float = 30.0
    """Mean rate of the load, requests per second; two cores carry about 100."""

    client_timeout_s: float = 2.0
    """How long a client waits for an answer, seconds."""

    gateway_port: int = 0
    """Port of the gateway on loopback; 0 takes any free one."""

    upstream_timeout_s: float = 5.0
    """How long the gateway waits for a model server, seconds."""

    feature_timeout_s: float = 0.1
    """How long a hardened model server waits for features, seconds."""

    steps_per_s: float = 20.0
    """Pace of the training job, steps per second."""

    checkpoint_every_s: float = 2.0
    """Time between two checkpoints, seconds."""

    publish_every_s: float = 180.0
    """Time between two published models, seconds."""

    hang_timeout_s: float = 8.0
    """How long a rank of a hardened training job may stay silent, seconds; Ray's default is ten minutes."""

    restart_delay_s: float = 3.0
    """Time from the death of a plain process, or of a node, to its restart, seconds."""

    rows_per_s: float = 256.0
    """How many rows the outside world sends, rows per second; each of the 512 entities has its turn."""

    features_fresh_for_s: float = 5.0
    """Age from which a hardened feature store says that features are stale, seconds."""

    startup_deadline_s: float = 180.0
    """Time within which everything must be up, seconds."""

    def __post_init__(self) -> None:
        for name, allowed in _RANGES.items():
            allowed.check(name, getattr(self, name))

    def to_json(self) -> str:
        """Returns the settings as one JSON object, switches under their dotted names."""
        return json.dumps(asdict(self) | {"switches": self.switches.to_mapping()})

    @classmethod
    def from_json(cls, text: str) -> StagingSettings:
        """Reads what `to_json` wrote; a setting that is not named keeps its default.

        Raises:
            BadInput: no JSON object, an unknown setting, or a value out of range.
        """
        try:
            data = json.loads(text)
        except ValueError as error:
            raise BadInput(f"settings are not JSON: {error}") from None
        if not isinstance(data, dict):
            raise BadInput(f"settings are a JSON {type(data).__name__}; allowed is an object")
        _refuse_unknown("setting", data, [field.name for field in fields(cls)])
        return cls(switches=Switches.from_mapping(data.pop("switches", {})), **data)


@dataclass(frozen=True, slots=True)
class _Range:
    """Which numbers a setting may be."""

    least: float
    most: float = _NO_LIMIT
    whole: bool = False

    def check(self, name: str, value: object) -> None:
        kinds = int if self.whole else (int, float)
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise BadInput(f"{name} is {value!r}; allowed is a {'whole ' if self.whole else ''}number")
        if not self.least <= value <= self.most or value == _NO_LIMIT:
            allowed = f"{self.least:g} to {self.most:g}" if self.most < _NO_LIMIT else f"at least {self.least:g}"
            raise BadInput(f"{name} is {value}; allowed is {allowed}")


_RANGES = {
    "seed": _Range(0, 2**32 - 1, whole=True),
    "requests_per_s": _Range(0.1, 200),
    "client_timeout_s": _Range(0.05),
    "gateway_port": _Range(0, 65535, whole=True),
    "upstream_timeout_s": _Range(0.05),
    "feature_timeout_s": _Range(0.005),
    "steps_per_s": _Range(0.1, 200),
    "checkpoint_every_s": _Range(0.1),
    "publish_every_s": _Range(0.5),
    "hang_timeout_s": _Range(2),
    "restart_delay_s": _Range(0),
    "rows_per_s": _Range(1, 2000),
    "features_fresh_for_s": _Range(0.5),
    "startup_deadline_s": _Range(1),
}


def _dotted(name: str) -> str:
    return name.replace("_", ".", 1)


def _refuse_unknown(what: str, given: Iterable[str], known: list[str]) -> None:
    for name in given:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {nearest[0]}?" if nearest else f"known are {', '.join(known)}"
            raise BadInput(f"unknown {what} {name!r}; {hint}")
