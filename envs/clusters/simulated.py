"""A simulated ML cluster: small, honest, and on the same path as a real one.

Six components (gateway, model server, feature store, trainer, and a data plane of two) with hidden weaknesses. The
supervisor's driver writes into the world what was done; the laws here decide what comes of it; the experimenter sees
noisy metrics only, and the same scorer judges them. Time moves by one sampling period per snapshot.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import numpy as np

from actuators.clock import Instant, ManualClock
from safety.limits import OPT_IN_LABEL
from safety.vitals import Identity

from ..telemetry.alerts import Alert
from ..telemetry.snapshot import Snapshot
from . import simulated_cards as gpu
from . import simulated_data as data
from .base import Component, Topology
from .simulated_data import DATA_MECHANISMS, FEATURE_PIPELINE, STREAM, DataPlane

Document: TypeAlias = dict[str, Any]

_RESTART_S = {
    "gateway": 3.5,
    "model-server": 4.0,
    "feature-store": 3.5,
    "trainer": 15.0,
    STREAM: 3.5,
    FEATURE_PIPELINE: 3.5,
}
_NODE_RESTART_S = 6.0
_REROUTE_S = 3.0
_HUNG_SHARE = 0.05
_TIMEOUT_MS = 100.0
_CLIENT_TIMEOUT_MS = 2000.0
_BASE_MS = 15.0
_REQUESTS_PER_S = 30.0
_REQUEST_BYTES = 150.0
_ATTEMPT_MS = 2.0
_RETRY_BUDGET = 0.1
_STEPS_PER_S = 20.0
_CHECKPOINT_EVERY_S = 2.0
_HANG_TIMEOUT_S = 10.0
_FALLBACK_KEEPS = 0.98
_ANSWERS_PER_S = {"gateway": 400.0, "model-server": 137.0, "feature-store": 700.0}
_UPKEEP = {"model-server": 0.056}
"""Cores that an instance needs for itself: what keeps two embedded replicas with 8 % each at a fifth of the load."""
_STEPS_PER_S_OF_A_CORE = 250.0
_LONGEST_LINE = _REQUESTS_PER_S * _CLIENT_TIMEOUT_MS / 1000.0  # who has waited so long, has left
_MOST_IN_FLIGHT = 12.0
_REFUSAL_MS = 2.0
_TARGET_IN_FLIGHT = 3.0  # per model server; more of them are started beyond that
_SCALE_UP_S, _SCALE_DOWN_S = 5.0, 12.0
_ROUTES = ("gateway->model-server", "model-server->feature-store")
_SOUND = b"weights".hex()
_WEIGHTS = b"\x00\x00\x80\x3f" * 64
_MODEL = (2).to_bytes(8, "little") + b"{}" + _WEIGHTS
_GOOD, _GUESSED = 0.97, 0.25
_LEAST_AGREEMENT = 0.8
_DOWN_FOR_S = 2.0
_USED_BYTES = 100 * 2**20
_GROWS_BY_BYTES = {"model-server": 2**20, "trainer": 2**20}
"""What a component needs anew as it works; all others get by with what they have had once."""

MECHANISMS = (
    "feature_timeout",
    "retries",
    "health",
    "restart",
    "checkpoint",
    "hang_timeout",
    "verify",
    "canary_gate",
    "absent_alert",
    *DATA_MECHANISMS,
    "queue",
    "autoscale",
)
"""What may be absent on a simulated cluster, each the namesake of a switch of the embedded one."""


class World(Protocol):
    """The handle that this half shares with the acting half: a JSON document with transactions."""

    def change(self) -> AbstractContextManager[Document]:
        """Yields the document for reading and changing."""
        ...


@dataclass(frozen=True, slots=True)
class Hidden:
    """What nobody outside may know of a simulated cluster.

    Attributes:
        replicas: instances per component.
        weak: which resilience mechanisms are absent: any of `MECHANISMS`.
        has_gpu: whether the trainer works on a GPU.

    The data plane has one instance of each component, wherever nothing else is said.
    """

    replicas: Mapping[str, int] = field(
        default_factory=lambda: {"gateway": 1, "model-server": 2, "feature-store": 1, "trainer": 2}
    )
    weak: frozenset[str] = frozenset()
    has_gpu: bool = True

    def __post_init__(self) -> None:
        data_plane = {name: self.replicas.get(name, 1) for name in (STREAM, FEATURE_PIPELINE)}
        object.__setattr__(self, "replicas", {**self.replicas, **data_plane})

    @classmethod
    def drawn(cls, random: np.random.Generator) -> Hidden:
        """Returns a cluster with randomly absent mechanisms; all drawn ones are measured alike, so they have a GPU."""
        weak = {name for name in MECHANISMS if random.random() < 0.5}
        servers = int(random.integers(1, 4))
        return cls({"gateway": 1, "model-server": servers, "feature-store": 1, "trainer": 2}, frozenset(weak))


def empty_world(hidden: Hidden) -> Document:
    """Returns the document of a cluster in which nothing has happened yet."""
    return {
        "instances": {name: [f"{name}-{n}" for n in range(count)] for name, count in hidden.replicas.items()},
        "killed": {},
        "paused": {},
        "squeezed": {},
        "used_bytes": _USED_BYTES,
        "nodes": {
            name: {"holds": [component], "up": True, "born": 0}
            for name, component in {"serving": "model-server", "training": "trainer"}.items()
        },
        "routes": [*_ROUTES, *data.ROUTES],
        "impairments": {},
        "feeds": [data.ROWS],
        "disturbances": {},
        "checkpoints": {"trainer/latest": _SOUND},
        "aside": {},
        "registry": {
            "current": 1,
            "withheld": {},
            "versions": {"1": {"content": _MODEL.hex(), "sha256": _checksum(_MODEL.hex())}},
        },
        "cards": gpu.first_cards(hidden.has_gpu),
        "repairs": [],
    }


class SimulatedCluster:
    """The sensing half of a simulated cluster, and its laws.

    Args:
        world: the handle, made by `empty_world`.
        hidden: what is weak.
        random: draws the noise.
        clock: moved on by every snapshot.
        identity: what the cluster says it is.
    """

    period_s = 0.5
    series: Sequence[str] = (
        "client/error_share",
        "client/shed_share",
        "client/answered_share",
        "client/p50_ms",
        "client/p90_ms",
        "client/accuracy",
        "trainer/steps_per_s",
        "trainer/step",
        "trainer/checkpoint_age_s",
        *(f"{name}/{metric}" for name in _RESTART_S for metric in ("ready", "up", "restarts")),
        "gateway/request_ms",
        "gateway/in_flight",
        "feature-store/request_ms",
        "model-server/fallback_share",
        "model-server/feature_attempts",
        *data.SERIES,
    )

    def __init__(
        self, world: World, hidden: Hidden, random: np.random.Generator, clock: ManualClock, identity: Identity
    ) -> None:
        self.identity = identity
        self.clock = clock
        self._world = world
        self._hidden = hidden
        self.series = (*type(self).series, *gpu.SERIES) if hidden.has_gpu else type(self).series
        self._random = random
        self._died_s: dict[str, float] = {}
        self._lost_s: dict[str, float] = {}
        self._paused_s: dict[str, float] = {}
        self._down_s: dict[str, float] = {}
        self._restarts = dict.fromkeys(hidden.replicas, 0)
        self._in_flight = 0.0
        self._scaling_since_s: float | None = None
        self._topology = _topology_of(hidden)
        self._born = 100
        self._latency_noise = 0.0
        self._backlog_bytes = dict.fromkeys(_ROUTES, 0.0)
        self._waiting = dict.fromkeys(_ANSWERS_PER_S, 0.0)
        self._training = _Training()
        self._accuracy_of: dict[str, float | None] = {}
        self._data = DataPlane(hidden.weak, random.spawn(1)[0], self.period_s)

    def topology(self) -> Topology:
        """Returns the components; they never change."""
        return self._topology

    def next_snapshot(self, timeout_s: float) -> Snapshot | None:
        """Moves time on by one period and returns what is measured then."""
        self.clock.advance(self.period_s)
        with self._world.change() as world:
            self._repair(world)
            self._bring_back_nodes(world)
            self._refuse_memory(world)
            self._replace_the_dead(world)
            self._let_go_of_expired(world)
            self._move_data(world)
            self._scale(world)
            serving = self._serve(world)
            self._train(world)
            values = {**serving, **self._platform(world), **self._training.values(self._now_s)}
            values |= gpu.measured(world["cards"], self._training.steps_per_s)
        return Snapshot(self._now_s, values, self._alerts(values))

    # ---- laws -----------------------------------------------------------------------------------------------------

    def _repair(self, world: Document) -> None:
        for component, _ in world["repairs"]:
            if component == "trainer":
                self._training.failed = False
                self._restart_training(world)
            for instance in world["instances"][component]:
                self._died_s.setdefault(instance, self._now_s)
                world["killed"][instance] = True
        world["repairs"] = []

    def _bring_back_nodes(self, world: Document) -> None:
        for name, node in world["nodes"].items():
            if node["up"]:
                continue
            lost_s = self._lost_s.setdefault(name, self._now_s)
            for component in node["holds"]:
                # Nobody begins to replace them while there is no place for it.
                self._died_s |= dict.fromkeys(world["instances"][component], self._now_s)
            if self._now_s - lost_s >= _NODE_RESTART_S:
                node.update(up=True, born=node["born"] + 1)
                del self._lost_s[name]

    def _refuse_memory(self, world: Document) -> None:
        """Ends whoever needs more memory than it may have."""
        for component, instances in world["instances"].items():
            for name in instances:
                limit = world["squeezed"].get(name)
                if limit is not None and limit["limit_bytes"] - world["used_bytes"] < _GROWS_BY_BYTES.get(component, 0):
                    world["killed"][name] = True

    def _replace_the_dead(self, world: Document) -> None:
        for component, instances in world["instances"].items():
            for index, instance in enumerate(instances):
                if instance not in world["killed"]:
                    continue
                died_s = self._died_s.setdefault(instance, self._now_s)
                if self._now_s - died_s >= _RESTART_S[component] and not self._stays_dead(world, component):
                    self._born += 1
                    instances[index] = f"{component}-{self._born}"
                    self._restarts[component] += 1
                    del world["killed"][instance], self._died_s[instance]
                    world["paused"].pop(instance, None)
                    world["squeezed"].pop(instance, None)

    def _scale(self, world: Document) -> None:
        """Starts one more model server than ordered when requests pile up, and ends it when they no longer do."""
        servers, ordered = world["instances"]["model-server"], self._hidden.replicas["model-server"]
        more = len(servers) > ordered
        # What starved ones have taken on stays under way, and whoever counts it wants to keep the one more.
        starved = any(_cpu_left(world, name) < 1.0 for name in servers)
        piled_up = self._in_flight > _TARGET_IN_FLIGHT * ordered
        due = not piled_up and not starved if more else piled_up
        if "autoscale" in self._hidden.weak or not due:
            self._scaling_since_s = None
            return
        if self._scaling_since_s is None:
            self._scaling_since_s = self._now_s
        if self._now_s - self._scaling_since_s < (_SCALE_DOWN_S if more else _SCALE_UP_S):
            return
        self._scaling_since_s = None
        if not more:
            self._born += 1
            servers.append(f"model-server-{self._born}")
            return
        gone = servers.pop()
        for marks in (world["killed"], world["paused"], world["squeezed"], self._died_s):
            marks.pop(gone, None)

    def _stays_dead(self, world: Document, component: str) -> bool:
        if component == "model-server":
            # Who must answer once before it counts as started does not start without a model.
            return world["registry"]["current"] is None and "health" not in self._hidden.weak
        return component == "trainer" and self._training.failed

    def _let_go_of_expired(self, world: Document) -> None:
        now = self.clock.now()
        for instance, hold in list(world["paused"].items()):
            if Instant(**hold["until"]).reached(now):
                del world["paused"][instance]
        for instance, limit in list(world["squeezed"].items()):
            if Instant(**limit["until"]).reached(now):
                del world["squeezed"][instance]
        for injection, routes in list(world["impairments"].items()):
            live = {route: found for route, found in routes.items() if not Instant(**found["until"]).reached(now)}
            world["impairments"][injection] = live
        data.let_go_of_expired(world, now)
        gpu.end_expired(world["cards"], now)
        hung = [name for name in world["paused"] if not _cpu_left(world, name)]
        self._paused_s = {name: self._paused_s.get(name, self._now_s) for name in hung}

    def _answering(self, world: Document, component: str) -> float:
        """Returns the share of requests that reach an instance which answers."""
        instances = world["instances"][component]
        alive = [name for name in instances if name not in world["killed"]]
        awake = [name for name in alive if _cpu_left(world, name) > 0.0]
        if not awake:
            return 0.0
        # A hung instance keeps getting some requests until the router has noticed; a dead one is out at once.
        unnoticed = [name for name in alive if self._now_s - self._paused_s.get(name, -np.inf) < _REROUTE_S]
        return len(awake) / (len(awake) + _HUNG_SHARE * len(unnoticed))

    def _line_s(self, world: Document, component: str) -> float:
        """Returns how long a request waits for a component whose CPU time is too short for all of them, seconds."""
        alive = [name for name in world["instances"][component] if name not in world["killed"]]
        left = sum(_cpu_left(world, name) for name in alive)
        if left in {0.0, len(alive)}:
            self._waiting[component] = 0.0  # what is dead or hung is told by `_answering`
            return 0.0
        upkeep = _UPKEEP.get(component, 0.0)
        per_s = _ANSWERS_PER_S[component] * sum(max(0.0, _cpu_left(world, name) - upkeep) for name in alive)
        grown = self._waiting[component] + (_REQUESTS_PER_S - per_s) * self.period_s
        longest = _MOST_IN_FLIGHT if self._bounded and component == "model-server" else _LONGEST_LINE
        self._waiting[component] = min(max(0.0, grown), longest)
        return self._waiting[component] / per_s if per_s > 0.0 else _CLIENT_TIMEOUT_MS / 1000.0

    def _edge(self, world: Document, route: str) -> _Edge:
        """Returns what a request on a route meets now; where several faults meet, the worst of each effect counts."""
        worst: dict[str, float] = {}
        for routes in world["impairments"].values():
            for impairment in [found for found_on, found in routes.items() if found_on == route]:
                effect, amount = str(impairment["effect"]), float(impairment["amount"])
                felt = amount if effect == "loss" else 1.0
                impairment["affected"] += round(felt * _REQUESTS_PER_S * self.period_s)
                harsher = min if effect == "bandwidth" else max
                worst[effect] = harsher(amount, worst.get(effect, amount))
        wait_ms = max(worst.get("delay", 0.0), self._queue_ms(route, worst.get("bandwidth", np.inf)))
        return _Edge(wait_ms=wait_ms, lost=worst.get("loss", 0.0), cut="partition" in worst)

    def _queue_ms(self, route: str, bytes_per_s: float) -> float:
        """Returns how long a request waits for its turn on a narrow edge, whose queue grows while it is too narrow."""
        came = (_REQUESTS_PER_S * _REQUEST_BYTES - bytes_per_s) * self.period_s
        longest = _MOST_IN_FLIGHT * _REQUEST_BYTES if self._bounded and route == _ROUTES[0] else np.inf
        self._backlog_bytes[route] = min(max(0.0, self._backlog_bytes[route] + came), longest)
        return 1000.0 * (self._backlog_bytes[route] + _REQUEST_BYTES) / bytes_per_s

    def _fetch(self, world: Document) -> _Fetch:
        """Follows a request from the model server to the feature store: tries, tries again, waits, does without."""
        edge = self._edge(world, _ROUTES[1])
        dead = all(name in world["killed"] for name in world["instances"]["feature-store"])
        fails = 0.0 if edge.cut else 1.0 if dead else edge.lost
        hangs = 1.0 if edge.cut else 0.0 if dead else 1.0 - self._answering(world, "feature-store")
        bounded = "feature_timeout" not in self._hidden.weak
        patience_ms = _TIMEOUT_MS if bounded else _CLIENT_TIMEOUT_MS
        attempts, fails = self._tries(fails, patience_ms)
        in_vain = hangs > 0.5 or (fails == 1.0 and "retries" in self._hidden.weak)
        wait_ms = patience_ms if in_vain else edge.wait_ms + 1000.0 * self._line_s(world, "feature-store")
        answered = (1.0 - fails) * (1.0 - hangs)
        if not bounded:
            return _Fetch(answered, 0.0, wait_ms, attempts)
        fallback = 1.0 if wait_ms > _TIMEOUT_MS else 1.0 - answered
        return _Fetch(1.0, fallback, min(wait_ms, _TIMEOUT_MS), attempts)

    def _tries(self, fails: float, patience_ms: float) -> tuple[float, float]:
        """Returns how often a request is tried where so large a share of attempts fails, and the share that is lost."""
        if fails == 0.0:
            return 1.0, 0.0  # without a draw: what is hidden must not show in the noise of a healthy cluster
        if "retries" not in self._hidden.weak:
            again = min(fails, _RETRY_BUDGET)
            return 1.0 + float(self._random.binomial(30, again)) / 30.0, fails - again * (1.0 - fails)
        if fails < 1.0:
            return 1.0 + float(self._random.negative_binomial(30, 1.0 - fails)) / 30.0, 0.0
        return patience_ms / _ATTEMPT_MS, 1.0

    def _move_data(self, world: Document) -> None:
        working = {}
        for name in (STREAM, FEATURE_PIPELINE, "feature-store"):
            left = [0.0 if i in world["killed"] else _cpu_left(world, i) for i in world["instances"][name]]
            working[name] = sum(left) / len(left)
        self._data.move(world, working, data.edges_of(world))

    def _serve(self, world: Document) -> dict[str, float]:
        """Follows a request from the client to the feature store and back."""
        fetch, edge = self._fetch(world), self._edge(world, _ROUTES[0])
        accuracy, with_model = self._models(world)
        arrives = self._answering(world, "gateway") * (0.0 if edge.cut else 1.0 - edge.lost)
        served = arrives * self._answering(world, "model-server") * with_model
        answered = fetch.answered * served
        line_s = self._line_s(world, "gateway") + self._line_s(world, "model-server")
        total_ms = _BASE_MS + fetch.wait_ms + edge.wait_ms + 1000.0 * line_s
        if total_ms >= _CLIENT_TIMEOUT_MS:
            answered, total_ms = 0.0, _CLIENT_TIMEOUT_MS
        self._in_flight, shed = self._let_in(total_ms if answered > 0.0 else _CLIENT_TIMEOUT_MS, arrives)
        self._latency_noise = 0.7 * self._latency_noise + 0.1 * self._random.standard_normal()
        if shed > 0.5:
            total_ms = _REFUSAL_MS
        p50_ms = total_ms * float(np.exp(self._latency_noise)) if answered + shed > 0.5 else _CLIENT_TIMEOUT_MS
        failed = float(self._random.binomial(30, (1.0 - shed) * (1.0 - answered))) / 30.0
        values = {
            "client/error_share": failed,
            "client/shed_share": shed,
            "client/answered_share": max(0.0, 1.0 - shed - failed) if answered > 0.0 else 0.0,
            "gateway/in_flight": self._in_flight,
            "client/p50_ms": p50_ms,
            "client/p90_ms": p50_ms * float(np.exp(abs(0.3 * self._random.standard_normal()))) * 1.3,
            "gateway/request_ms": p50_ms * 0.9,
            "feature-store/request_ms": 1.0 + 0.1 * float(self._random.standard_normal()),
            "model-server/fallback_share": fetch.fallback,
        }
        if served > 0.1:
            values["model-server/feature_attempts"] = fetch.attempts
        if answered > 0.1:
            right = accuracy * self._data.kept * (1.0 - (1.0 - _FALLBACK_KEEPS) * fetch.fallback)
            values |= self._data.values(asked=1.0 - fetch.fallback)
            values["client/accuracy"] = float(self._random.binomial(30, right)) / 30.0
        return values

    def _let_in(self, total_ms: float, arrives: float) -> tuple[float, float]:
        """Returns how many requests are under way at the gateway, and which share of all it turns away."""
        came = _REQUESTS_PER_S * arrives * total_ms / 1000.0
        if not self._bounded or came <= _MOST_IN_FLIGHT:
            return came, 0.0
        return _MOST_IN_FLIGHT, arrives * (1.0 - _MOST_IN_FLIGHT / came)

    @property
    def _bounded(self) -> bool:
        return "queue" not in self._hidden.weak

    def _models(self, world: Document) -> tuple[float, float]:
        """Returns how often model servers are right with the models they have, and which share of them has one."""
        offered, refused = self._offered(world["registry"])
        loaded: dict[str, float | None] = {}
        for name in world["instances"]["model-server"]:
            if name in world["killed"]:
                continue
            stable = self._accuracy_of.get(name)
            # Who starts has nothing to compare with: it serves what it is given, or the version before.
            tried_out = stable is not None and "canary_gate" not in self._hidden.weak
            if offered is None or (tried_out and offered < _LEAST_AGREEMENT):
                loaded[name] = stable
            else:
                loaded[name] = (_GOOD if stable is None else stable) if refused else offered
        self._accuracy_of = loaded
        known = [accuracy for accuracy in loaded.values() if accuracy is not None]
        return (float(np.mean(known)), len(known) / len(loaded)) if known else (0.0, 0.0)

    def _offered(self, registry: Document) -> tuple[float | None, bool]:
        """Returns how often the version to serve is right, and whether a look at its checksum refuses it."""
        if registry["current"] is None:
            return None, False
        current = registry["versions"][str(registry["current"])]
        refused = _checksum(current["content"]) != current["sha256"] and "verify" not in self._hidden.weak
        return _accuracy_of(current["content"]), refused

    def _train(self, world: Document) -> None:
        training, ranks = self._training, world["instances"]["trainer"]
        if training.running and not gpu.can_work(world["cards"]):
            world["killed"].update(dict.fromkeys(ranks, True))  # all of them work on the same card
        dead = any(name in world["killed"] for name in ranks)
        if dead and training.running:
            training.running = False
            training.failed = "restart" in self._hidden.weak
            training.starts_at_s = self._now_s + _RESTART_S["trainer"]
        checkpoint = world["checkpoints"].get("trainer/latest")
        readable = checkpoint in {_SOUND, None} or "checkpoint" not in self._hidden.weak
        may_start = not training.running and not training.failed and not dead and self._now_s >= training.starts_at_s
        if may_start and not gpu.can_start(world["cards"]):
            training.starts_at_s = self._now_s + _RESTART_S["trainer"]  # it died of it, and is tried again
        elif may_start and readable:
            training.running = True
            # Without a checkpoint a job begins at nothing, where nobody has kept the ones before.
            lost = checkpoint is None and "checkpoint" in self._hidden.weak
            training.step = training.saved_step = 0.0 if lost else training.saved_step
        cpu_left = min(_cpu_left(world, name) for name in ranks)
        hung = cpu_left == 0.0
        training.hung_since_s = min(training.hung_since_s, self._now_s) if hung and training.running else np.inf
        if self._now_s - training.hung_since_s >= _HANG_TIMEOUT_S and "hang_timeout" not in self._hidden.weak:
            self._restart_training(world)
        fastest_per_s = min(cpu_left * _STEPS_PER_S_OF_A_CORE, gpu.most_steps_per_s(world["cards"]))
        pace = min(1.0, fastest_per_s / _STEPS_PER_S)
        training.advance(self._now_s, self.period_s, pace=pace, random=self._random)
        if training.saved_at_s == self._now_s:
            world["checkpoints"]["trainer/latest"] = _SOUND

    def _restart_training(self, world: Document) -> None:
        """Ends all ranks and starts the job anew, as one who has noticed that it hangs does."""
        for instance in world["instances"]["trainer"]:
            self._died_s.setdefault(instance, self._now_s)
            world["killed"][instance] = True
        self._training.running = False
        self._training.starts_at_s = self._now_s + _RESTART_S["trainer"]

    def _platform(self, world: Document) -> dict[str, float]:
        values = {}
        for name, instances in world["instances"].items():
            awake = [i for i in instances if i not in world["killed"] and _cpu_left(world, i) > 0.0]
            values[f"{name}/ready"] = values[f"{name}/up"] = float(len(awake))
            values[f"{name}/restarts"] = float(self._restarts[name])
        return values

    def _alerts(self, values: Mapping[str, float]) -> frozenset[Alert]:
        """Returns the alerts that fire: a component whose exporters are all away is noticed, if anybody expects it."""
        told = [Alert(name, about) for name, about, teller in self._data.alerts() if values[f"{teller}/up"] > 0.0]
        down = [name for name in self._hidden.replicas if values[f"{name}/up"] == 0.0]
        self._down_s = {name: self._down_s.get(name, self._now_s) for name in down}
        if "absent_alert" in self._hidden.weak:
            return frozenset(told)
        overdue = [name for name, since_s in self._down_s.items() if self._now_s - since_s >= _DOWN_FOR_S]
        return frozenset([*told, *(Alert("ComponentDown", name) for name in overdue)])

    @property
    def _now_s(self) -> float:
        return self.clock.boottime_s


@dataclass(frozen=True, slots=True)
class _Edge:
    """What requests on a dependency edge meet: how long they wait, which share is lost, whether none passes."""

    wait_ms: float
    lost: float
    cut: bool


@dataclass(frozen=True, slots=True)
class _Fetch:
    """What came of asking for features: shares of requests answered and answered from memory, time, attempts each."""

    answered: float
    fallback: float
    wait_ms: float
    attempts: float


@dataclass(slots=True)
class _Training:
    """The state of the training job."""

    running: bool = True
    failed: bool = False
    starts_at_s: float = 0.0
    step: float = 0.0
    steps_per_s: float = _STEPS_PER_S
    saved_step: float = 0.0
    saved_at_s: float = 0.0
    hung_since_s: float = np.inf

    def advance(self, now_s: float, period_s: float, *, pace: float, random: np.random.Generator) -> None:
        works = self.running and pace > 0.0
        self.steps_per_s = pace * (_STEPS_PER_S + 0.5 * float(random.standard_normal())) if works else 0.0
        self.step += self.steps_per_s * period_s
        if works and now_s - self.saved_at_s >= _CHECKPOINT_EVERY_S:
            self.saved_step, self.saved_at_s = self.step, now_s

    def values(self, now_s: float) -> dict[str, float]:
        return {
            "trainer/steps_per_s": self.steps_per_s,
            "trainer/step": self.step,
            "trainer/checkpoint_age_s": now_s - self.saved_at_s,
        }


def _cpu_left(world: Document, instance: str) -> float:
    """Returns which share of its CPU time an instance still has; none while it is held altogether."""
    return 1.0 - float(world["paused"].get(instance, {}).get("share", 0.0))


def _accuracy_of(content: str) -> float:
    """Returns how often a model is right, by the share of its weights that are what they should be."""
    weights = bytes.fromhex(content)[-len(_WEIGHTS) :]
    share = float(np.mean(np.frombuffer(weights, np.uint32) == np.frombuffer(_WEIGHTS, np.uint32)))
    return _GUESSED + (_GOOD - _GUESSED) * share


def _checksum(content: str) -> str:
    return hashlib.sha256(bytes.fromhex(content)).hexdigest()


def _topology_of(hidden: Hidden) -> Topology:
    needs = {
        "gateway": ("model-server",),
        "model-server": ("feature-store",),
        "feature-store": (FEATURE_PIPELINE,),
        FEATURE_PIPELINE: (STREAM,),
    }
    return Topology(
        [
            Component(
                name=name,
                role=name,
                replicas=replicas,
                depends_on=needs.get(name, ()),
                labels={OPT_IN_LABEL: "true"},
                capabilities=_capabilities(name, hidden),
            )
            for name, replicas in hidden.replicas.items()
        ],
        observers={"client": ("gateway",), "producer": ()},
    )


def _capabilities(name: str, hidden: Hidden) -> frozenset[str]:
    found = {"Pods", "Memory"}
    if name in {"model-server", "trainer"}:
        found.add("Nodes")
    if any(route.endswith(f"->{name}") for route in (*_ROUTES, *data.ROUTES)):
        found.add("Network")
    if name == STREAM:
        found.add("Datasets")
    if name == "trainer":
        found |= {"Checkpoints", "Gpus"} if hidden.has_gpu else {"Checkpoints"}
    if name == "model-server":
        found.add("Registry")
    return frozenset(found)
