"""Teaches the PPO policy to choose as another policy does, before it goes on by itself.

Whoever begins from nothing learns first that experiments cost, and stops. So it watches a teacher, on states that it
comes to itself (DAgger: Ross, Gordon and Bagnell, "A reduction of imitation learning and structured prediction to
no-regret online learning", AISTATS 2011).
"""

from __future__ import annotations

import torch

from envs.simulator.campaigns import Campaigns

from ..arena import Chooser
from .looks import looks_on
from .set_policy import SetPolicy

_AGREED = 100


def imitated(policy: SetPolicy, teacher: Chooser, campaigns: Campaigns, *, steps: int, rate: float = 3e-3) -> float:
    """Changes a policy so that it chooses as a teacher does.

    Args:
        policy: learns, and chooses more and more often what comes next.
        teacher: says what it would have chosen.
        campaigns: to learn on.
        steps: experiments on each of them.
        rate: learning rate at first; it falls to nothing.

    Returns:
        Share of states, in the last steps, in which the policy's likeliest choice was the teacher's.
    """
    optimizer = torch.optim.Adam(policy.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
    agreed: list[float] = []
    policy.set_training_mode(True)
    for step in range(steps):
        looks = looks_on(campaigns)
        with torch.no_grad():
            wanted = teacher(campaigns)
            drawn, *_ = policy.choose(looks)
            likeliest, *_ = policy.choose(looks, deterministic=True)
        per_component = looks.open.shape[2]
        at = torch.where(wanted == campaigns.stop, 0, wanted // per_component)
        kept = looks.at(at)
        _, log_prob, _, weak = policy.judge(kept, wanted)
        truth = campaigns.weak_on(at)[kept.open].to(weak.dtype)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(weak[kept.open], truth) - log_prob.mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        agreed = [*agreed[1 - _AGREED :], float((likeliest == wanted).float().mean())]
        own = torch.rand(campaigns.count, device=drawn.device) < 2.0 * step / steps
        campaigns.step(torch.where(own, drawn, wanted))
    return sum(agreed) / len(agreed) if agreed else 0.0
