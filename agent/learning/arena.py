"""Policies against each other on simulated clusters that nobody has learnt on: what each finds for the same minutes.

All see the same clusters and the same luck's seed. A curve says how much severity was confirmed, of each gap
once, against minutes spent; its normalised area is 0 for chance and 1 for whoever knows the truth.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import trim_mean

from envs import encoding
from envs.simulator.campaigns import MOST_EXPERIMENTS, Campaigns
from envs.simulator.pool import Pool

from .arms import Arms, Surroundings
from .floor import EVERY
from .head import Head
from .policy import Policy
from .posterior import ArmNetwork, best_bets, odds_of
from .worth import missing_tries, worth_on

Chooser: TypeAlias = Callable[[Campaigns], torch.Tensor]
"""From campaigns to one action for each, int64, shape (B,)."""

POINTS: Final = 32
"""Points of a curve, at equal shares of the budget."""

_RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Tally:
    """What a policy came to on every cluster.

    Attributes:
        curve: severity confirmed by each share of the budget, shape (clusters, POINTS).
        weaknesses: gaps confirmed before the minutes were over, shape (clusters,).
        false: confirmed by then without being weak, shape (clusters,).
    """

    curve: npt.NDArray[np.float64]
    weaknesses: npt.NDArray[np.float64]
    false: npt.NDArray[np.float64]

    @property
    def area(self) -> npt.NDArray[np.float64]:
        """Area under each curve, shape (clusters,)."""
        area: npt.NDArray[np.float64] = self.curve.mean(1)
        return area


@torch.no_grad()
def tallied(choose: Chooser, pool: Pool, *, budget_min: float, seed: int) -> Tally:
    """Runs one campaign on every cluster of a pool.

    Args:
        choose: the policy.
        pool: clusters.
        budget_min: minutes of each campaign.
        seed: of what experiments show.
    """
    count = len(pool)
    campaigns = Campaigns(
        pool, count, seed=seed, budget_min=(budget_min, budget_min), clusters=torch.arange(count), restarts=False
    )
    going = torch.ones(count, dtype=torch.bool, device=campaigns.device)
    curve = torch.zeros((count, POINTS), device=campaigns.device)
    weaknesses, false = (torch.zeros(count, device=campaigns.device) for _ in range(2))
    shares = (torch.arange(POINTS, device=campaigns.device) + 1) / POINTS * budget_min
    for _ in range(MOST_EXPERIMENTS):
        step = campaigns.step(choose(campaigns))
        curve += (going * step.found)[:, None] * (campaigns.spent_min[:, None] <= shares)
        in_time = going & (campaigns.spent_min <= shares[-1])
        weaknesses += in_time & (step.found > 0)
        false += in_time & step.false
        going &= ~step.over
        if not going.any():
            break
    return Tally(*(each.double().cpu().numpy() for each in (curve, weaknesses, false)))


def compared(
    tallies: Mapping[str, Sequence[Tally]], *, reference: str | None = None, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Returns every policy's figures; `random` and `oracle` have to be among them.

    Normalised areas with 95 % intervals, from resampled clusters and trainings, the same ones for all policies with as
    many; beside the mean (`auc`) that of the middle half, the interquartile mean (`iqm`; Agarwal et al., "Deep
    reinforcement learning at the edge of the statistical precipice", NeurIPS 2021).

    Args:
        tallies: of every training of a policy, all on the same clusters. Trainings of two policies at the same place
            are taken for a pair, such as a teacher and who began from it.
        reference: a policy; tells of every other one how far it is ahead, cluster by cluster (`lead`).
        seed: of what is resampled.
    """
    random = np.random.default_rng(seed)
    clusters = len(tallies["random"][0].area)
    resampled = random.integers(clusters, size=(_RESAMPLES, clusters))
    areas = {name: np.stack([each.area for each in of]) for name, of in tallies.items()}
    counts = sorted(set(map(len, areas.values())))
    trainings = {count: random.integers(count, size=(_RESAMPLES, count)) for count in counts}
    drawn = {name: _resampled(area, resampled, trainings[len(area)]) for name, area in areas.items()}
    span = drawn["oracle"] - drawn["random"]
    chance, truth = areas["random"].mean(), areas["oracle"].mean()
    middle = {name: float(trim_mean(area, 0.25, axis=None)) for name, area in areas.items()}
    figures: dict[str, dict[str, float]] = {}
    for name, of in tallies.items():
        low, high = np.quantile((drawn[name] - drawn["random"]) / span, [0.025, 0.975])
        found, false = (float(sum(getattr(each, what).sum() for each in of)) for what in ("weaknesses", "false"))
        figures[name] = {
            "auc": float((areas[name].mean() - chance) / (truth - chance)),
            "low": float(low),
            "high": float(high),
            "iqm": (middle[name] - middle["random"]) / (middle["oracle"] - middle["random"]),
            "severity": float(np.mean([each.curve[:, -1].mean() for each in of])),
            "discoveries": found / (len(of) * clusters),
            "fdr": false / (found + false) if found + false else 0.0,
            "seeds": len(of),
        }
        if reference is not None and name != reference:
            low, high = np.quantile((drawn[name] - drawn[reference]) / span, [0.025, 0.975])
            lead = (areas[name].mean() - areas[reference].mean()) / (truth - chance)
            figures[name] |= {"lead": float(lead), "lead_low": float(low), "lead_high": float(high)}
    return figures


def _resampled(
    area: npt.NDArray[np.float64], clusters: npt.NDArray[np.int64], trainings: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Returns mean areas over resampled clusters and trainings, shape (_RESAMPLES,), of shape (trainings, clusters)."""
    per_cluster = area[trainings].mean(1)
    mean: npt.NDArray[np.float64] = np.take_along_axis(per_cluster, clusters, axis=1).mean(1)
    return mean


# ---- policies that choose for all at once ------------------------------------------------------------------------


def randomly(seed: int) -> Chooser:
    """Returns the policy that takes any allowed experiment."""
    random = torch.Generator().manual_seed(seed)

    def choose(campaigns: Campaigns) -> torch.Tensor:
        allowed = campaigns.masks()[:, :-1]
        drawn = torch.multinomial(allowed.float().cpu() + 1e-12, 1, generator=random).squeeze(1)
        return torch.where(allowed.any(1), drawn.to(allowed.device), campaigns.stop)

    return choose


def knowing(campaigns: Campaigns) -> torch.Tensor:
    """The oracle: knows what every arm would show now, how grave that is and what it costs; takes the best per minute.

    It is greedy, and so no upper bound in the strict sense.
    """
    allowed = campaigns.masks()[:, :-1]
    arms = Arms(campaigns.state.arms, campaigns.state.history)
    worth = campaigns.would_earn() / (campaigns.would_cost() * missing_tries(arms).flatten(1))
    return torch.where(allowed.any(1), worth.masked_fill(~allowed, -1.0).argmax(1), campaigns.stop)


def greedily(network: ArmNetwork, *, learns: bool = False) -> Chooser:
    """Returns the policy that takes a network's best bet.

    Args:
        network: knows how likely arms are weak.
        learns: whether a head learns what each cluster has of its own, as on a real one; campaigns must not restart.
    """
    head = Head() if learns else None

    def choose(campaigns: Campaigns) -> torch.Tensor:
        return best_bets(network, Surroundings.on(campaigns), campaigns.masks(), head)

    return choose


def statically(network: ArmNetwork) -> Chooser:
    """Returns the policy that takes best bets by what a network thought of a cluster before anything was tried.

    What was confirmed is left alone, and so is what was tried and showed nothing: no more is learnt.
    """
    first: dict[int, torch.Tensor] = {}

    def choose(campaigns: Campaigns) -> torch.Tensor:
        around, allowed = Surroundings.on(campaigns), campaigns.masks()[:, :-1]
        if not first or bool((campaigns.experiments == 0).all()):
            first[0] = odds_of(network, around, allowed).weak
        tried, showed = (around.arms.known(name).flatten(1) for name in ("tried", "weakness"))
        odds = torch.where((tried > 0) & (showed == 0), 0.01 * first[0], first[0])
        worth = worth_on(around, odds).flatten(1)
        return torch.where(allowed.any(1), worth.masked_fill(~allowed, -1.0).argmax(1), campaigns.stop)

    return choose


def floored(choose: Chooser, every: int = EVERY) -> Chooser:
    """Returns a policy that now and then gives way to a kind of fault that was never tried; see `floor.FlooredPolicy`.

    Args:
        choose: the policy.
        every: one choice of so many.
    """

    def chosen(campaigns: Campaigns) -> torch.Tensor:
        state = campaigns.state
        arms = Arms(state.arms, state.history)
        tried = (arms.known("tried") > 0).any(3).any(1)
        fresh = (state.available & ~tried[:, None, :, None]).flatten(1)
        turn = (campaigns.experiments % every == every - 1) & fresh.any(1)
        # The strongest, of these the shortest, of these the first one.
        order = 1e6 * arms.attribute("intensity").double() - 1e3 * arms.attribute("duration_min")
        number = torch.arange(campaigns.arms, device=campaigns.device)
        order = order.flatten().repeat(campaigns.arms // order.numel()) - 1e-3 * number
        return torch.where(turn, order.where(fresh, -torch.inf).argmax(1), choose(campaigns))

    return chosen


# ---- policies that choose for one --------------------------------------------------------------------------------


def one_by_one(policies: Sequence[Policy]) -> Chooser:
    """Returns the policy that asks one policy per campaign, as a real campaign would."""

    def choose(campaigns: Campaigns) -> torch.Tensor:
        seen = {name: values.cpu().numpy() for name, values in encoding.seen(campaigns.state).items()}
        masks = campaigns.masks().cpu().numpy()
        chosen = [
            policy.choose({name: values[index] for name, values in seen.items()}, masks[index])
            for index, policy in enumerate(policies)
        ]
        return torch.tensor(chosen, device=campaigns.device)

    return choose


def hit_rate(pool: Pool) -> float:
    """Returns the share of permitted experiments that would show something."""
    return float((pool.tells.sum(1) / pool.available.sum(1)).mean())
