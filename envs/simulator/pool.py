"""Draws ML clusters with hidden weaknesses: what can be seen of them, and what an experiment on each arm would show.

Nothing that happens in a campaign changes a cluster but drift, which is drawn beforehand; so all of it is laid down in
one table per cluster, and an experiment is one look into it. Shapes: N clusters, C places for components, K fault
kinds, L levels, A = C * K * L arms.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

import torch

from actuators.catalogue import CATALOGUE

from ..encoding import COMPONENT_FEATURES, ROLES
from ..protections import ALL_ROLES, PROTECTIONS, SHIELD, need
from . import faults, graphs
from .faults import KINDS, REPLICAS
from .structure import FAMILIES, Generator

TRUTH: Final = (
    "shows",
    "anomaly_score",
    "severity",
    "effect",
    "cost_min",
    "weakness",
    "needs_dependency",
    "trigger_shows",
    "shows_late",
    "trigger_shows_late",
)
"""What is true of every arm.

    shows: whether a promise breaks, 0 or 1
    anomaly_score, severity: what is measured and what it is worth if so, in [0, 1]
    effect: how far the target itself moves, in [0, 1]
    cost_min: minutes of an experiment that finds nothing
    weakness: number of what is missing within its cluster (role, protection)
    needs_dependency: whether it shows only shortly after a dependency was hit
    trigger_shows: of a latent fault, whether its trigger alone breaks a promise already
    shows_late, trigger_shows_late: the same once drift has set in
"""

_UNLISTED: Final = len(PROTECTIONS)
_LISTED_AND_NOT: Final = len(PROTECTIONS) + 1

WEAKNESSES: Final = len(ALL_ROLES) * _LISTED_AND_NOT
"""How many numbers there are for what may be missing; the last one of every role is for what is in no list."""

_REPLICAS_ODDS = torch.tensor([0.40, 0.25, 0.12, 0.13, 0.05, 0.05])
_ROLE_ODDS = {"gateway": 1.0, "model-server": 3.0, "feature-store": 2.0, "trainer": 2.0, "stream": 1.5}
_LAYERS = ("gateway", "model-server", "trainer", "feature-store", "other", "feature-pipeline", "stream")
_HAVE_A_GPU = 0.6
_TRAINERS_CALLED = 0.2
_PRACTICE, _TEMPLATE, _TEAM, _SHARED_MEAN = 3.0, 1.5, 2.0, -1.5
"""What all components of a cluster, those of one role and those of one team have in common, in log-odds: most of why a
protection is absent. Who has no retry budget here has none elsewhere: one library, one template, one habit. With the
mean, one in seven of all permitted experiments would show something."""
_NEED_OF_A_DEPENDENCY = 0.15
_FLIPPING = 0.08

_SETTLED_S, _POST_S = 11.0, 6.0
"""Beside the time in force: half a reference, until promises are settled, and the windows after."""


@dataclass(frozen=True, slots=True)
class Pool:
    """Clusters to begin campaigns on.

    Attributes:
        components: what can be seen of them at first, shape (N, C, len(COMPONENT_FEATURES)).
        graph: 1 where the row's component depends on the column's, shape (N, C, C).
        available: which arms exist and are within the limits, shape (N, A), bool.
        truth: what nobody may see, shape (N, A, len(TRUTH)).
        recover_min: extra minutes when a promise broke, shape (N, C).
        cooldown_min: minutes for which a component that was hit makes the next experiment on it wait, shape (N, C).
        false_alarms: odds that nothing looks like a broken promise, shape (N,).
        misses: odds that a broken promise is not seen, shape (N,).
        invalid: odds that an experiment comes to nothing, shape (N,).
        drift_at_min: when drift sets in, shape (N,); infinite without.
    """

    components: torch.Tensor
    graph: torch.Tensor
    available: torch.Tensor
    truth: torch.Tensor
    recover_min: torch.Tensor
    cooldown_min: torch.Tensor
    false_alarms: torch.Tensor
    misses: torch.Tensor
    invalid: torch.Tensor
    drift_at_min: torch.Tensor

    def __len__(self) -> int:
        return len(self.components)

    @property
    def places(self) -> int:
        """C."""
        return self.components.shape[1]

    @property
    def shows(self) -> torch.Tensor:
        """Whether an arm breaks a promise and is available, at the beginning, shape (N, A), bool."""
        return (self.truth[..., 0] > 0) & self.available

    @property
    def tells(self) -> torch.Tensor:
        """Of those, which would show it to whoever tries them first of all, shape (N, A), bool."""
        hidden = [TRUTH.index(name) for name in ("needs_dependency", "trigger_shows")]
        return self.shows & (self.truth[..., hidden] == 0).all(-1)

    def gaps(self) -> torch.Tensor:
        """Returns how grave each gap is that `tells`, 0 where there is none, shape (N, WEAKNESSES)."""
        severity = torch.where(self.tells, self.truth[..., TRUTH.index("severity")], 0.0)
        number = self.truth[..., TRUTH.index("weakness")].long()
        none = torch.zeros((len(self), WEAKNESSES), device=severity.device)
        return none.scatter_reduce(1, number, severity, "amax")

    def to(self, device: str | torch.device) -> Pool:
        """Returns the same clusters on another device."""
        return Pool(*(getattr(self, each.name).to(device) for each in fields(self)))

    @classmethod
    def joined(cls, pools: list[Pool]) -> Pool:
        """Returns the clusters of pools with equally many places as one."""
        return cls(*(torch.cat([getattr(pool, each.name) for pool in pools]) for each in fields(cls)))


def pool_of(generator: Generator, clusters: int, *, seed: int, places: int | None = None, chunk: int = 256) -> Pool:
    """Draws clusters; the same seed draws the same ones.

    Args:
        generator: how.
        clusters: N.
        seed: of every choice.
        places: C; the most components that the generator draws if not given.
        chunk: how many are drawn at once, which bounds memory.
    """
    random = torch.Generator().manual_seed(seed)
    places = places or generator.components[1]
    return Pool.joined(
        [_drawn(generator, min(chunk, clusters - begin), places, random) for begin in range(0, clusters, chunk)]
    )


def _drawn(generator: Generator, n: int, places: int, random: torch.Generator) -> Pool:
    structure = generator.structure

    def uniform(*size: int) -> torch.Tensor:
        return torch.rand(size, generator=random)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=random)

    # ---- what can be seen
    fewest, most = generator.components
    sizes = torch.randint(fewest, most + 1, (n,), generator=random)
    inside = torch.arange(places) < sizes[:, None]
    role = _roles(n, places, inside, random)
    forms = torch.tensor([FAMILIES.index(form) for form in generator.families])
    graph = graphs.drawn(sizes, forms[torch.randint(len(forms), (n,), generator=random)], places, random)
    replicas = REPLICAS[torch.multinomial(_REPLICAS_ODDS.expand(n, -1), places, replacement=True, generator=random)]
    replicas = torch.where(role == ALL_ROLES.index("gateway"), replicas.clamp(max=3), replicas)
    # Nobody waits for who trains, but for a few: what breaks there is not what users notice.
    called = (role != ALL_ROLES.index("trainer")) | (uniform(n, places) < _TRAINERS_CALLED)
    graph = graph & called[:, None, :]
    needed_by = graphs.closure(graph).transpose(1, 2)  # row: a component, column: who needs it
    roots = inside & (torch.arange(places) == 0)  # users call the first one
    others = (sizes - 1).clamp(min=1)[:, None].float()
    dependents_share = needed_by.float().sum(-1) / others
    has_gpu = (role == ALL_ROLES.index("trainer")) & (uniform(n, places) < _HAVE_A_GPU)

    # ---- what is hidden
    team = torch.randint(max(2, places // 4), (n, places), generator=random)
    team_quality = normal(n, int(team.max()) + 1).gather(1, team)
    shared = torch.zeros(())
    if structure.shared_causes:
        template = normal(n, len(ALL_ROLES), len(PROTECTIONS)).gather(
            1, role[..., None].expand(-1, -1, len(PROTECTIONS))
        )
        practice = normal(n, 1, len(PROTECTIONS))
        shared = _PRACTICE * practice + _TEMPLATE * template + _TEAM * team_quality[..., None] + _SHARED_MEAN
    commonness = torch.tensor([protection.commonness for protection in PROTECTIONS])
    odds = commonness + generator.prevalence + shared + 0.5 * normal(n, places, len(PROTECTIONS))
    odds = odds - (0.8 * (replicas > 1) + 0.7 * dependents_share)[..., None]
    absent = (uniform(n, places, len(PROTECTIONS)) < odds.sigmoid()) & _may_be_absent(generator)
    fallback = ~absent[..., SHIELD]
    reach = graphs.exposure(graph, roots, fallback)

    # ---- what comes of it
    needs = need(KINDS).permute(1, 2, 0)[role]  # (n, C, K, protections)
    lacking = needs & absent[:, :, None, :]
    listed = lacking.any(-1)
    lacks = listed | faults.unlisted(generator.unlisted, role, random)
    first = torch.where(listed, lacking.float().argmax(-1), needs.float().argmax(-1))
    first = torch.where(lacks & ~listed, _UNLISTED, first)
    shielded = torch.tensor([*(protection.shielded for protection in PROTECTIONS), False])[first]
    strength = faults.strengths()[:, replicas].permute(1, 2, 0, 3)  # (n, C, K, L)
    arriving = strength * torch.where(shielded, reach[..., None], torch.ones(()))[..., None]
    bears = torch.exp(
        uniform(n, places, len(KINDS)) * torch.log(torch.tensor(1.0 / 0.03)) + torch.log(torch.tensor(0.03))
    )
    closeness = arriving / bears[..., None]
    hurts = closeness >= 1.0
    shows = lacks[..., None] & hurts
    gain = torch.exp(0.5 * normal(n, places))[..., None, None]
    anomaly = 1.0 - 1.0 / (1.0 + gain * closeness.clamp(min=1.0).sqrt())
    exposed = torch.where((needed_by & roots[:, None, :]).any(-1) | roots, 1.0, dependents_share.clamp(max=1.0))
    effect = faults.seen_effects(bears, strength, random) if structure.probes else torch.full(shows.shape, 0.7)
    trigger = [KINDS.index(kind.trigger) if kind.trigger else index for index, kind in enumerate(CATALOGUE.values())]
    latent = torch.tensor([kind.trigger is not None for kind in CATALOGUE.values()])
    durations = torch.tensor([kind.duration_s for kind in CATALOGUE.values()])
    cost = ((durations + _SETTLED_S + _POST_S) / 60.0)[None, None, :, None].expand_as(shows)
    if not structure.costs:
        cost = torch.ones(()).expand_as(shows)
    number = role[..., None] * _LISTED_AND_NOT + first
    can_need = graph.any(-1)[..., None] & (uniform(n, places, len(KINDS)) < _NEED_OF_A_DEPENDENCY)
    # Drift makes or mends what is missing; how much it takes to show it stays as it was.
    flips = needs.any(-1) & (uniform(n, places, len(KINDS)) < _FLIPPING) & torch.tensor(structure.drift)
    late = (lacks ^ flips)[..., None] & hurts

    def per_arm(values: torch.Tensor) -> torch.Tensor:
        return values[..., None].expand_as(shows).float() if values.dim() == 3 else values.expand_as(shows).float()

    def triggered(of: torch.Tensor) -> torch.Tensor:
        return (latent[:, None] & of[:, :, trigger, :1]).expand_as(of)

    truth = torch.stack(
        [
            shows.float(),
            anomaly,
            anomaly * (0.5 + 0.5 * exposed[..., None, None]),
            effect,
            per_arm(cost),
            per_arm(number),
            per_arm(can_need & torch.tensor(structure.compound)),
            triggered(shows).float(),
            late.float(),
            triggered(late).float(),
        ],
        dim=-1,
    )
    components = _features(role, inside, replicas, graph, dependents_share, others)
    noise = generator.noise if structure.noise else 0.0
    ones = torch.ones((n, places))
    shuffle = uniform(n, places).argsort(1)
    rows = torch.arange(n)[:, None]
    available = faults.available(role, replicas, graph, has_gpu) & inside[..., None, None]
    return Pool(
        components=components[rows, shuffle],
        graph=graph[rows, shuffle].gather(2, shuffle[:, None, :].expand(-1, places, -1)).float(),
        available=available[rows, shuffle].flatten(1),
        truth=truth[rows, shuffle].flatten(1, 3),
        recover_min=(0.25 * torch.exp(0.5 * normal(n, places)) if structure.costs else 0.0 * ones),
        cooldown_min=(2.0 * uniform(n, places) if structure.costs else 0.0 * ones),
        false_alarms=(0.3 * noise * uniform(n)).clamp(max=0.9),
        misses=(0.3 * noise * uniform(n)).clamp(max=0.9),
        invalid=(0.08 * noise * uniform(n)).clamp(max=0.9),
        drift_at_min=5.0 + 55.0 * uniform(n) if structure.drift else torch.full((n,), torch.inf),
    )


def _roles(n: int, places: int, inside: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """Draws roles, at least a gateway and a model server, in layers; shape (N, C), indices into `ALL_ROLES`."""
    odds = torch.tensor([_ROLE_ODDS.get(role, 1.5) for role in ALL_ROLES])
    role = torch.multinomial(odds.expand(n, -1), places, replacement=True, generator=random)
    role[:, 0], role[:, 1] = ALL_ROLES.index("gateway"), ALL_ROLES.index("model-server")
    layer = torch.tensor([_LAYERS.index(name) for name in ALL_ROLES])[role]
    layer = torch.where(inside, layer, len(_LAYERS))
    return role.gather(1, layer.argsort(dim=1, stable=True))


def _may_be_absent(generator: Generator) -> torch.Tensor:
    names = [protection.name for protection in PROTECTIONS]
    return torch.tensor(
        [name not in generator.without and (not generator.only or name in generator.only) for name in names]
    )


def _features(
    role: torch.Tensor,
    inside: torch.Tensor,
    replicas: torch.Tensor,
    graph: torch.Tensor,
    dependents_share: torch.Tensor,
    others: torch.Tensor,
) -> torch.Tensor:
    """Returns what `encoding` would say of these components, all zero where there is none."""
    roles = torch.nn.functional.one_hot(role, len(ROLES) + 1).float()
    rest = {
        "replicas_log2": replicas.float().log2() / 6.0,
        "redundant": (replicas > 1).float(),
        "dependents_share": dependents_share.clamp(max=1.0),
        "dependencies_share": graph.float().sum(-1) / others,
        "ready_share": torch.ones(role.shape),
        "quarantined": torch.zeros(role.shape),
        "present_z": torch.zeros(role.shape),
    }
    columns = [rest[name] for name in COMPONENT_FEATURES[len(ROLES) + 1 :]]
    return torch.cat([roles, torch.stack(columns, dim=-1)], dim=-1) * inside[..., None]
