"""Chaos campaigns on thousands of simulated clusters at once: one step is one experiment on each of them.

The same state, the same evidence and the same reward as on a real cluster (`envs.chaos`, `envs.encoding`); p-values lie
on the same grid, e-values multiply to the same threshold, and experiments cost what they would take. Nothing here is
done per environment: a finished campaign begins anew on another cluster of the pool by a copy of its rows.

Shapes: B campaigns, C components, K fault kinds, L levels, A = C * K * L arms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch

from actuators.catalogue import CATALOGUE, LEVELS

from ..chaos import Reward
from ..encoding import BUDGET_FEATURES, COMPONENT_FEATURES, ROLES, ClusterState, arm_attributes
from ..history import BY_KIND, IN_ROLE, LONG_MIN, Shown, Told, after, by_kind, never_tried
from .faults import KINDS
from .pool import TRUTH, WEAKNESSES, Pool

ARMS_OF_ONE: Final = len(KINDS) * len(LEVELS)
"""Arms of one component."""

MOST_EXPERIMENTS: Final = 64
"""A campaign ends after so many, refused ones included, whatever is left of its minutes."""

OUTLOOK: Final = ("severity", "gaps", "first", "second", "third")
"""What is left to be found: all of it together, how many gaps, and the three gravest."""

_UNITS = 80
_ALPHA = 0.05
_UNUSUAL, _UNUSUAL_SD = 0.06, 0.035
"""How unusual a component looks while nothing happens: the highest of some series' z, of which 20 count as one."""
_RECENT_H = 5.0 / LONG_MIN
_LAST_TRY = -1.0
_READY, _PRESENT = COMPONENT_FEATURES.index("ready_share"), COMPONENT_FEATURES.index("present_z")
_SPENT = {name: index for index, name in enumerate(BUDGET_FEATURES)}
_CONFIRMED = 8
_T = {name: index for index, name in enumerate(TRUTH)}
_CHANGING = (
    "cluster",
    "budget_min",
    "spent_min",
    "experiments",
    "refused",
    "confirmed",
    "hit_at_h",
    "by_kind",
    "in_role",
    "able",
    "_role",
    "_paid",
    "_was_hit",
)
_CHANGING_STATE = ("components", "graph", "available", "history", "budget", "now_h")


@dataclass(frozen=True, slots=True)
class Step:
    """What one experiment on each cluster came to, shape (B,) each.

    Attributes:
        shown: the evidence.
        p: p-values; 1 where the experiment came to nothing.
        reward: as on a real cluster, but that true severities count: what is confirmed falsely pays nothing.
        over: whether the campaign ended with it; where campaigns restart, the state is that of the next one already.
        found: severity of what was shown to be missing just now, for the first time; 0 if nothing was.
        false: whether something was confirmed that is no weakness.
        weak: whether the arm really was weak at that moment.
        refused: whether the action was masked; it has touched nothing and shown nothing.
    """

    shown: Shown
    p: torch.Tensor
    reward: torch.Tensor
    over: torch.Tensor
    found: torch.Tensor
    false: torch.Tensor
    weak: torch.Tensor
    refused: torch.Tensor


class Campaigns:
    """A batch of campaigns.

    Attributes:
        state: what can be known of every campaign's cluster.
        by_kind: what of that concerns kinds of faults on components, shape (B, C, K, len(BY_KIND)); kept up to date
            with `state.history`, so that nobody has to read all of that in every step.
        in_role: the same on others of each component's role, shape (B, C, K, len(IN_ROLE)).
        able: which components have an arm that is available, shape (B, C), bool.
        hit_at_h: when components were last hit, hours on the campaigns' clocks, shape (B, C); -1 for never.
        cluster: on which cluster of the pool each campaign is, int64, shape (B,).
        budget_min: minutes of each campaign, shape (B,).
        spent_min: minutes spent, shape (B,).
        experiments: how many there were, shape (B,).
        refused: how many were refused, shape (B,); whoever asks for nothing else comes to an end as well.
        confirmed: how much was shown to be missing, shape (B,).

    Args:
        pool: clusters to begin on.
        count: B.
        budget_min: least and most minutes of a campaign; each draws its own.
        seed: of every draw.
        reward: the formula's prices.
        clusters: where the first campaigns begin, indices into the pool, shape (B,); drawn if not given.
        restarts: whether a campaign that is over begins anew by itself, in the same step.
    """

    def __init__(
        self,
        pool: Pool,
        count: int,
        *,
        budget_min: tuple[float, float] = (10.0, 40.0),
        seed: int = 0,
        reward: Reward | None = None,
        clusters: torch.Tensor | None = None,
        restarts: bool = True,
    ) -> None:
        self.pool = pool
        self.count = count
        self.device = pool.components.device
        self._budget_range = budget_min
        self._reward = reward or Reward()
        self._restarts = restarts
        self._random = torch.Generator(device=self.device).manual_seed(seed)
        self._row = torch.arange(count, device=self.device)
        self._intensity = torch.tensor(LEVELS, device=self.device)
        self._truth = pool.truth.view(-1, len(TRUTH))
        self._gaps = pool.gaps()
        self._triggered_by = _latent_by_trigger().to(self.device)
        places = pool.places
        self.arms = places * ARMS_OF_ONE
        device = self.device
        self.cluster = torch.zeros(count, dtype=torch.long, device=device)
        self.budget_min = torch.ones(count, device=device)
        self.spent_min = torch.zeros(count, device=device)
        self.experiments = torch.zeros(count, device=device)
        self.refused = torch.zeros(count, device=device)
        self.confirmed = torch.zeros(count, device=device)
        self._paid = torch.zeros((count, WEAKNESSES), dtype=torch.bool, device=device)
        self.hit_at_h = torch.full((count, places), _LAST_TRY, device=device)
        self._was_hit = torch.zeros(count, dtype=torch.long, device=device)
        self.state = ClusterState(
            components=torch.zeros((count, places, len(COMPONENT_FEATURES)), device=device),
            graph=torch.zeros((count, places, places), device=device),
            arms=arm_attributes(KINDS).to(device),
            available=torch.zeros((count, places, len(KINDS), len(LEVELS)), dtype=torch.bool, device=device),
            history=never_tried(count, places, len(KINDS), len(LEVELS), device=device),
            budget=torch.zeros((count, len(BUDGET_FEATURES)), device=device),
            now_h=torch.zeros(count, device=device),
        )
        self.by_kind, self.in_role = (
            torch.zeros((count, places, len(KINDS), len(names)), device=device) for names in (BY_KIND, IN_ROLE)
        )
        self.able = torch.zeros((count, places), dtype=torch.bool, device=device)
        self._role = torch.zeros((count, places), dtype=torch.int8, device=device)
        self._pool_role = _role_of(pool.components)
        self._pool_able = pool.available.view(len(pool), places, ARMS_OF_ONE).any(-1)
        self._available = self.state.available.view(count, self.arms)
        self._history = self.state.history.view(count, self.arms, -1)
        first = clusters if clusters is not None else self._drawn(count)
        self._begin(self._row, first.to(device))

    def begin(self, rows: torch.Tensor, *, seed: int | None = None) -> None:
        """Begins new campaigns in some places of the batch, on clusters drawn from the pool.

        Args:
            rows: which, int64.
            seed: of every draw from now on, if given.
        """
        if seed is not None:
            self._random.manual_seed(seed)
        self._begin(rows, self._drawn(len(rows)))

    def saved(self) -> dict[str, torch.Tensor]:
        """Returns all that changes in campaigns, luck included, under names; not copied."""
        changing: dict[str, torch.Tensor] = {name: getattr(self, name) for name in _CHANGING}
        changing |= {f"state.{name}": getattr(self.state, name) for name in _CHANGING_STATE}
        return changing | {"luck": self._random.get_state()}

    def restore(self, saved: Mapping[str, torch.Tensor]) -> None:
        """Goes on where `saved` was, on a pool and a batch like those.

        Raises:
            KeyError: something is missing.
            ValueError: it is of another shape.
        """
        mine = self.saved()
        for name, tensor in mine.items():
            if tensor.shape != saved[name].shape:
                raise ValueError(f"{name} is of shape {tuple(saved[name].shape)}, here {tuple(tensor.shape)}")
        for name, tensor in mine.items():
            if name != "luck":
                tensor.copy_(saved[name])
        self._random.set_state(saved["luck"].cpu())

    @property
    def stop(self) -> int:
        """The action that ends a campaign."""
        return self.arms

    def masks(self) -> torch.Tensor:
        """Returns which actions are allowed now, shape (B, A + 1), bool; `stop` always is."""
        stop = torch.ones((self.count, 1), dtype=torch.bool, device=self.device)
        return torch.cat([self._available, stop], dim=1)

    def would_show(self) -> torch.Tensor:
        """Returns which arms are available and would show a weakness if tried now, shape (B, A), bool.

        Not those of compounds whose dependency was not hit lately, and of latent faults whose trigger alone breaks a
        promise: whoever tries these sees nothing that could be confirmed. The simulator's truth, for labels and for the
        oracle; no policy may see it.
        """
        return self._shows_now(self.pool.truth[self.cluster], self._depends_on_hit()) & self._available

    def would_pay(self) -> torch.Tensor:
        """Returns which of these would show that something is missing of which it is not known yet, shape (B, A)."""
        known = self._paid.gather(1, self.pool.truth[self.cluster][..., _T["weakness"]].long())
        return self.would_show() & ~known

    def would_cost(self) -> torch.Tensor:
        """Returns minutes that experiments would take now, shape (B, A); the simulator's truth, as `would_show`."""
        truth = self.pool.truth[self.cluster]
        cooling = _cooling_min(self.hit_at_h, self.pool.cooldown_min[self.cluster], self.state.now_h[:, None])
        of_component = cooling, self.pool.recover_min[self.cluster]
        waiting, recovering = (of.repeat_interleave(ARMS_OF_ONE, 1) for of in of_component)
        breaks = self._breaks_now(truth, self._depends_on_hit())
        return truth[..., _T["cost_min"]] + waiting + torch.where(breaks, recovering, 0.0)

    def would_earn(self) -> torch.Tensor:
        """Returns severities of what `would_pay`, 0 for other arms, shape (B, A); the simulator's truth."""
        return torch.where(self.would_pay(), self.pool.truth[self.cluster][..., _T["severity"]], 0.0)

    def outlook(self) -> torch.Tensor:
        """Returns what is left to be found, shape (B, len(OUTLOOK)).

        As the cluster was at first: what drifts, and what shows only beside another fault, is not in it.
        The simulator's truth, for a critic that helps to learn; no policy may choose by it.
        """
        left = self._gaps[self.cluster].masked_fill(self._paid, 0.0)
        count = (left > 0).sum(1, keepdim=True)
        return torch.cat([left.sum(1, keepdim=True) / 4.0, count / 8.0, left.topk(len(OUTLOOK) - 2).values], dim=1)

    def would_show_on(self, component: torch.Tensor) -> torch.Tensor:
        """Returns `would_show` for the arms of one component of each cluster, available or not, shape (B, K * L)."""
        first = self.cluster * self.arms + component * ARMS_OF_ONE
        arms = torch.arange(ARMS_OF_ONE, device=self.device)
        return self._shows_now(self._truth[first[:, None] + arms], self._dependency_was_hit(component)[:, None])

    def _depends_on_hit(self) -> torch.Tensor:
        """Returns which arms are on components of which a dependency was hit lately, shape (B, A), bool."""
        hit = (self.state.graph.bool() & self._hit_lately()[:, None, :]).any(-1)
        return hit.repeat_interleave(ARMS_OF_ONE, 1)

    def _shows_now(self, truth: torch.Tensor, dependency_hit: torch.Tensor) -> torch.Tensor:
        """Returns which of some arms of each campaign would show a weakness; see `would_show`."""
        return self._breaks_now(truth, dependency_hit) & ~self._now(truth, "trigger_shows")

    def _breaks_now(self, truth: torch.Tensor, dependency_hit: torch.Tensor) -> torch.Tensor:
        """Returns which of some arms of each campaign would break a promise, whatever else breaks it."""
        return self._now(truth, "shows") & ((truth[..., _T["needs_dependency"]] == 0) | dependency_hit)

    def _now(self, truth: torch.Tensor, what: str) -> torch.Tensor:
        """Returns what is true of arms by now, of what drift changes, shape as that of the arms, bool.

        Args:
            truth: the arms' rows, shape (B, ..., len(TRUTH)).
            what: "shows" or "trigger_shows".
        """
        drifted = self._has_drifted().view(-1, *[1] * (truth.dim() - 2))
        return torch.where(drifted, truth[..., _T[f"{what}_late"]], truth[..., _T[what]]) > 0

    def step(self, actions: torch.Tensor) -> Step:
        """Runs one experiment on each cluster; what was masked is refused, touches nothing and costs nothing.

        Args:
            actions: shape (B,), int64, each in [0, A].

        Raises:
            IndexError: an action is above A; on a GPU that ends all work on it. Negative ones are not looked for: that
                would be a wait.
        """
        stops = actions == self.arms
        arm = torch.where(stops, 0, actions)
        allowed = self._available[self._row, arm]
        acts = allowed & ~stops
        component = arm // ARMS_OF_ONE
        shown, p, weak, truth = self._experimented(arm, component, acts)
        now_h = self.state.now_h + shown.cost_min / LONG_MIN
        before = self._history[self._row, arm]
        rows = torch.where(acts[:, None], after(before, shown, now_h), before)
        self._history[self._row, arm] = rows
        kind = arm % ARMS_OF_ONE // len(LEVELS)
        self._tell_kinds(component, kind)
        self._leave_untold(component, kind, shown)
        self.state.now_h.copy_(now_h)
        self.spent_min += shown.cost_min
        self.experiments += acts
        self.refused += ~acts & ~stops
        self._touch(component, acts, shown)

        number = truth[:, _T["weakness"]].long()
        newly = acts & (rows[:, _CONFIRMED] > 0) & (before[:, _CONFIRMED] == 0) & ~self._paid[self._row, number]
        self._paid[self._row, number] |= newly
        self.confirmed += newly
        found = torch.where(newly & weak, truth[:, _T["severity"]], 0.0)
        intensity = self._intensity[arm % len(LEVELS)]
        prices = self._reward.per_minute * shown.cost_min + self._reward.blast * intensity
        reward = found - torch.where(acts, prices, 0.0)
        asked = self.experiments + self.refused
        over = stops | (self.spent_min >= self.budget_min) | (asked >= MOST_EXPERIMENTS)
        step = Step(shown, p, reward, over, found, newly & ~weak, weak & acts, ~acts & ~stops)
        self._tell_budget()
        if self._restarts:
            self.begin(over.nonzero().squeeze(1))
        return step

    # ---- one experiment -------------------------------------------------------------------------------------------

    def _experimented(
        self, arm: torch.Tensor, component: torch.Tensor, acts: torch.Tensor
    ) -> tuple[Shown, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Returns what experiments show, their p-values, whether the arms are weak, and their rows of the truth."""
        truth = self._truth[self.cluster * self.arms + arm]
        luck = torch.rand((self.count, 5), generator=self._random, device=self.device)
        weak = self._now(truth, "shows")
        shows = self._breaks_now(truth, self._dependency_was_hit(component))
        pool, cluster = self.pool, self.cluster
        invalid = luck[:, 0] < pool.invalid[cluster]
        seen = shows & (luck[:, 1] >= pool.misses[cluster])
        broken = seen | (luck[:, 2] < pool.false_alarms[cluster])
        # On the grid of 80 fault-free units: a real weakness beats nearly all of them, anything else is one of them.
        beaten_by = torch.where(
            seen, (-0.3 * luck[:, 3].clamp(min=1e-6).log()).floor(), (luck[:, 3] * (_UNITS + 1)).floor()
        )
        p = (1.0 + beaten_by.clamp(max=_UNITS)) / (_UNITS + 1)
        told = torch.where(broken, torch.where(p <= _ALPHA, Told.WEAKNESS, Told.UNDECIDED), Told.RESILIENT)
        # A latent fault's weakness stands only beside its trigger alone, and not where that breaks a promise already.
        told_by_trigger = (told == Told.WEAKNESS) & self._now(truth, "trigger_shows")
        told = torch.where(told_by_trigger, Told.UNDECIDED, told)
        told = torch.where(invalid, Told.NOTHING, told)
        e_value = 0.5 / p.sqrt()
        e_value = torch.where(broken, e_value, e_value.clamp(max=1.0))
        e_value = torch.where(invalid | told_by_trigger, 1.0, e_value)
        wobble = 0.2 * (luck[:, 4] - 0.5)
        anomaly = torch.where(told == Told.WEAKNESS, (truth[:, _T["anomaly_score"]] + wobble).clamp(0.05, 1.0), 0.0)
        moved = truth[:, _T["effect"]]
        effect = torch.where(invalid | (moved == 0.0), 0.0, (moved + 0.5 * wobble).clamp(0.0, 1.0))
        waiting_min = _cooling_min(
            self.hit_at_h[self._row, component], pool.cooldown_min[cluster, component], self.state.now_h
        )
        cost = truth[:, _T["cost_min"]] + waiting_min + torch.where(shows, pool.recover_min[cluster, component], 0.0)
        told = torch.where(acts, told, Told.NOTHING)
        p = torch.where(acts & ~invalid, p, 1.0)
        shown = Shown(
            told,
            torch.where(acts, effect, 0.0),
            torch.where(acts, anomaly, 0.0),
            torch.where(acts, e_value, 1.0),
            torch.where(acts, cost, 0.0),
        )
        return shown, p, weak, truth

    def _hit_lately(self) -> torch.Tensor:
        return (self.state.now_h[:, None] - self.hit_at_h <= _RECENT_H) & (self.hit_at_h >= 0.0)

    def _dependency_was_hit(self, component: torch.Tensor) -> torch.Tensor:
        return (self.state.graph[self._row, component].bool() & self._hit_lately()).any(1)

    def _has_drifted(self) -> torch.Tensor:
        return self.spent_min >= self.pool.drift_at_min[self.cluster]

    def _tell_kinds(self, component: torch.Tensor, kind: torch.Tensor) -> None:
        """Brings up to date what is known of a kind on a component, and on its like."""
        here = (self._row, component, kind)
        known = by_kind(self.state.history[here])
        gained = (known - self.by_kind[here])[:, : len(IN_ROLE)]
        like = self._role == self._role[self._row, component][:, None]
        like.scatter_(1, component[:, None], value=False)
        self.in_role[self._row, :, kind] += like[..., None] * gained[:, None, :]
        self.by_kind[here] = known

    def _leave_untold(self, component: torch.Tensor, kind: torch.Tensor, shown: Shown) -> None:
        """Masks latent faults whose trigger alone has just broken a promise, as `ChaosEnv.telling` does; for good."""
        tells_nothing = self._triggered_by[kind] & (shown.told == Told.WEAKNESS)[:, None]
        self.state.available[self._row, component] &= ~tells_nothing[..., None]
        self.able[self._row, component] = self.state.available[self._row, component].flatten(1).any(1)

    def _touch(self, component: torch.Tensor, acts: torch.Tensor, shown: Shown) -> None:
        """Notes who was hit and when, and lets it show: the last one hit is not all back yet."""
        components = self.state.components
        last = components[self._row, self._was_hit, _READY]
        components[self._row, self._was_hit, _READY] = torch.where(acts, last.ceil(), last)
        hurt = 1.0 - 0.5 * shown.effect
        ready = components[self._row, component, _READY]
        components[self._row, component, _READY] = torch.where(acts, ready * hurt, ready)
        self._was_hit = torch.where(acts, component, self._was_hit)
        before = self.hit_at_h[self._row, component]
        self.hit_at_h[self._row, component] = torch.where(acts, self.state.now_h, before)

    # ---- beginnings -----------------------------------------------------------------------------------------------

    def _drawn(self, count: int) -> torch.Tensor:
        return torch.randint(len(self.pool), (count,), generator=self._random, device=self.device)

    def _begin(self, rows: torch.Tensor, clusters: torch.Tensor) -> None:
        """Begins campaigns on clusters of the pool."""
        low, high = self._budget_range
        luck = torch.rand(len(rows), generator=self._random, device=self.device)
        self.cluster[rows] = clusters
        self.budget_min[rows] = low + (high - low) * luck
        # A number that is assigned by an index becomes a tensor of the host first, and a GPU would wait for it.
        counters = (self.spent_min, self.experiments, self.refused, self.confirmed, self.state.now_h)
        for cleared in (*counters, self._was_hit, self.by_kind, self.in_role):
            cleared.index_fill_(0, rows, 0)
        self._paid.index_fill_(0, rows, value=False)
        self.hit_at_h.index_fill_(0, rows, _LAST_TRY)
        components = self.pool.components[clusters]
        luck = torch.randn(components.shape[:2], generator=self._random, device=self.device)
        present = (_UNUSUAL + _UNUSUAL_SD * luck).clamp(-1.0, 1.0)
        components[..., _PRESENT] = torch.where(components[..., _READY] > 0, present, 0.0)
        self.state.components[rows] = components
        self.state.graph[rows] = self.pool.graph[clusters]
        self._available[rows] = self.pool.available[clusters]
        self._history.index_copy_(0, rows, never_tried(len(rows), self.arms, device=self.device))
        self._role[rows], self.able[rows] = self._pool_role[clusters], self._pool_able[clusters]
        self._tell_budget()

    def _tell_budget(self) -> None:
        """Writes into the state what is left; see `encoding.BUDGET_FEATURES`."""
        left = (self.budget_min - self.spent_min).clamp(min=0.0)
        budget = self.state.budget
        budget[:, _SPENT["left_share"]] = left / self.budget_min
        budget[:, _SPENT["left_hours"]] = (left / 60.0).clamp(max=1.0)
        budget[:, _SPENT["experiments"]] = (self.experiments / 64.0).clamp(max=1.0)
        budget[:, _SPENT["confirmed"]] = (self.confirmed / 16.0).clamp(max=1.0)


def _cooling_min(hit_at_h: torch.Tensor, cooldown_min: torch.Tensor, now_h: torch.Tensor) -> torch.Tensor:
    """Returns for how long components still have to cool down, minutes; what was never hit is cool."""
    return (hit_at_h + cooldown_min / LONG_MIN - now_h).clamp(min=0.0) * LONG_MIN


def _latent_by_trigger() -> torch.Tensor:
    """Returns which kinds are latent faults that a kind triggers, shape (K, K), bool: row a trigger, column latent."""
    return torch.tensor([[CATALOGUE[latent].trigger == kind for latent in KINDS] for kind in KINDS])


def _role_of(components: torch.Tensor) -> torch.Tensor:
    """Returns numbers of roles, below 0 where there is no component, shape (…,), int8."""
    role = components[..., : len(ROLES) + 1]
    return torch.where(role.sum(-1) > 0, role.argmax(-1), -1).to(torch.int8)
