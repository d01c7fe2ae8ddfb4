"""Teaches a network on simulated clusters how likely each arm is weak, on what its own choices would have seen.

Whoever learns only from what a random policy sees knows little of the states that a good one comes to; so the network
chooses while it learns (DAgger: Ross, Gordon and Bagnell, "A reduction of imitation learning and structured prediction
to no-regret online learning", AISTATS 2011), and the simulator's truth is the label.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from envs.simulator.campaigns import Campaigns
from envs.simulator.pool import Pool

from .arms import Surroundings
from .posterior import ArmNetwork, odds_of
from .worth import worth_on

_TRIED_WEIGH = 16.0
"""How much more often arms that were tried are learnt from: whether to try one again is decided every time."""


@dataclass(frozen=True, slots=True)
class Lessons:
    """How a network learns.

    Attributes:
        steps: experiments on every cluster of the batch.
        batch: clusters at once.
        arms: arms per cluster and step that are learnt from.
        rate: learning rate at first; it falls to nothing along a cosine.
        strays: share of experiments that are chosen at random.
        hidden: width of the network.
        budget_min: least and most minutes of a campaign.
        seed: of every draw.
    """

    steps: int = 3000
    batch: int = 256
    arms: int = 24
    rate: float = 3e-3
    strays: float = 0.1
    hidden: int = 64
    budget_min: tuple[float, float] = (10.0, 60.0)
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far learning is.

    Attributes:
        step: steps done.
        loss: cross-entropy per arm, nats, averaged over the last steps.
        found: gaps per campaign that ended lately.
        steps_per_s: experiments per second, all clusters together.
    """

    step: int
    loss: float
    found: float
    steps_per_s: float


def taught(pool: Pool, lessons: Lessons, tell: Callable[[Progress], None] = lambda _: None) -> ArmNetwork:
    """Returns a network that has learnt on campaigns on a pool's clusters.

    Args:
        pool: clusters, on the device to learn on.
        lessons: how.
        tell: hears of the progress now and then.
    """
    torch.manual_seed(lessons.seed)
    device = pool.components.device
    random = torch.Generator(device=device).manual_seed(lessons.seed + 1)
    network = ArmNetwork(lessons.hidden).to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=lessons.rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 0.5 * (1.0 + math.cos(math.pi * step / lessons.steps))
    )
    campaigns = Campaigns(pool, lessons.batch, seed=lessons.seed + 2, budget_min=lessons.budget_min)
    loss_sum, found, ended, since_s, told = 0.0, 0.0, 0.0, time.monotonic(), 0
    for step in range(1, lessons.steps + 1):
        around, allowed = Surroundings.on(campaigns), campaigns.masks()[:, :-1]
        rows, arms = _some(allowed, around, lessons.arms, random)
        weak = campaigns.would_show()[rows, arms].float()
        new = campaigns.would_pay()[rows, arms].float()
        loss = _loss(network(around.inputs(rows, arms)), weak, new)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        outcome = campaigns.step(_choices(network, around, allowed, lessons.strays, random))
        loss_sum += float(loss.detach())
        found += float((outcome.found > 0).sum())
        ended += float(outcome.over.sum())
        if step % 100 == 0 or step == lessons.steps:
            done, now_s = step - told, time.monotonic()
            tell(Progress(step, loss_sum / done, found / max(1.0, ended), done * lessons.batch / (now_s - since_s)))
            loss_sum, found, ended, since_s, told = 0.0, 0.0, 0.0, now_s, step
    return network


def _loss(logits: torch.Tensor, weak: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    """Returns cross-entropy per arm, nats: of whether it is weak, and where it is, of whether that would be new."""
    cross_entropy = torch.nn.functional.binary_cross_entropy_with_logits
    return cross_entropy(logits[:, 0], weak) + cross_entropy(logits[:, 1], new, weight=weak)


def _some(
    allowed: torch.Tensor, around: Surroundings, arms: int, random: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draws some allowed arms of every cluster that has any; those that were tried are few, and drawn more often."""
    which = allowed.any(1).nonzero().squeeze(1)
    tried = around.arms.known("tried").flatten(1) > 0
    odds = allowed.float() * torch.where(tried, _TRIED_WEIGH, 1.0)
    drawn = torch.multinomial(odds[which], arms, replacement=True, generator=random)
    return which.repeat_interleave(arms), drawn.flatten()


@torch.no_grad()
def _choices(
    network: ArmNetwork,
    around: Surroundings,
    allowed: torch.Tensor,
    strays: float,
    random: torch.Generator,
) -> torch.Tensor:
    """Returns the best bets, but for some that stray."""
    worth = worth_on(around, *odds_of(network, around, allowed)).flatten(1)
    worth = worth.masked_fill(~allowed, -1.0)
    best = worth.argmax(1)
    any_allowed = torch.multinomial(allowed.float() + 1e-12, 1, generator=random).squeeze(1)
    stray = torch.rand(len(best), generator=random, device=best.device) < strays
    return torch.where(allowed.any(1), torch.where(stray, any_allowed, best), allowed.shape[1])
