"""What one more experiment on an arm is worth per minute, to whoever knows the odds that it is weak."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from envs.encoding import COMPONENT_FEATURES, ROLES
from envs.history import LONG_MIN

from .arms import Arms, Surroundings

_OVERHEAD_MIN = 0.5
"""What an experiment costs beside the time in force: reference and post windows, recovery."""

_SIBLING_WORTH = 0.05
"""Worth of another level of a kind that is confirmed on this role: most likely the same gap again."""

_SAME_FAMILY, _ANOTHER_FAMILY = 0.15, 0.5
"""Worth of another kind of fault for each that is confirmed on this role: mostly it is the same protection that is
missing, seen from another side. For whoever has not learnt how likely that is; chosen by hand on simulated clusters
that no comparison uses."""

_COOLS_MIN = 2.0
"""For how long a component that was hit may make the next experiment on it wait."""

_AGAIN = 0.9
"""Odds that an arm that was weak once is so again."""


def worth_per_minute(seen: Mapping[str, torch.Tensor], odds: torch.Tensor) -> torch.Tensor:
    """Returns what one more experiment on each arm is worth per minute.

    A gap pays once, when it is confirmed: a promising arm is worth its replicate, a confirmed one nothing more.

    Args:
        seen: an observation with a batch dimension.
        odds: that arms are weak, shape (B, C, K, L).

    Returns:
        Severity per minute, shape (B, C, K, L).
    """
    arms = Arms.of(seen)
    return worth_of(seen["components"], arms, odds, lately_of(arms))


def lately_of(arms: Arms) -> torch.Tensor:
    """Returns how lately components were hit, 1 just now and 0 an hour ago, shape (B, C); of arms as they are seen."""
    return 1.0 - arms.known("minutes_since").amin((-1, -2))


def worth_on(around: Surroundings, odds: torch.Tensor, new: torch.Tensor | None = None) -> torch.Tensor:
    """Returns the same of what is around arms; odds of shape (B, A).

    Args:
        around: what is seen.
        odds: that arms are weak.
        new: how likely it is that what they would show is not known yet; by what is usual if not given.
    """
    shape = around.arms.history.shape[:4]
    new = None if new is None else new.view(shape)
    return worth_of(around.components, around.arms, odds.view(shape), around.lately, new)


def worth_of(
    components: torch.Tensor, arms: Arms, odds: torch.Tensor, lately: torch.Tensor, new: torch.Tensor | None = None
) -> torch.Tensor:
    """Returns the same for what is seen in parts; see `arms.Surroundings`.

    Args:
        components: features.
        arms: what is seen of every arm.
        odds: that arms are weak.
        lately: how lately components were hit, see `lately_of`.
        new: how likely it is, if arms are weak, that what they show to be missing is not known yet; by what is usual
            if not given.
    """
    weak, confirmed = (arms.known(name) for name in ("weakness", "confirmed"))
    dependents = components[..., COMPONENT_FEATURES.index("dependents_share")]
    gateway = components[..., COMPONENT_FEATURES.index("role_gateway")]
    # Users depend on most that anybody depends on; on what nobody waits for, half as much hangs.
    severity = torch.where((dependents > 0) | (gateway > 0), 1.0, 0.5)[..., None, None]
    missing = missing_tries(arms)
    chance = odds * _AGAIN ** (missing - 1.0)
    # A first try that shows nothing is the last one.
    tries = 1.0 + torch.where(weak > 0, 1.0, odds) * (missing - 1.0)
    worth = severity * chance / minutes_of(arms, lately) / tries
    known = _known_kinds(components, arms)
    if new is None:
        new = _usually_new(known, arms)
    else:
        # Who shrinks what was confirmed sees milder levels be weak as well; no simulated campaign does, and what has
        # learnt there takes that for something new.
        new = torch.where(known[..., None] > 0, new.clamp(max=_SIBLING_WORTH), new)
    return torch.where(confirmed > 0, 0.0, worth * new)


def minutes_of(arms: Arms, lately: torch.Tensor) -> torch.Tensor:
    """Returns how many minutes experiments are expected to take now, shape (B, C, K, L).

    Args:
        arms: what is seen of them.
        lately: how lately components were hit, see `lately_of`.
    """
    return arms.attribute("duration_min") + _OVERHEAD_MIN + _waiting(lately)


def _known_kinds(components: torch.Tensor, arms: Arms) -> torch.Tensor:
    """Returns 1 for kinds that are confirmed on a component's role, at any level, shape (B, C, K)."""
    role = components[..., : len(ROLES) + 1]
    return ((role @ (role.transpose(1, 2) @ arms.known("confirmed").amax(-1))) > 0).float()


def _usually_new(known: torch.Tensor, arms: Arms) -> torch.Tensor:
    """Returns how likely arms show something that is not known yet, by what was confirmed on their role."""
    family = (known @ arms.family) @ arms.family.T - known
    others = known.sum(-1, keepdim=True) - known - family
    new = torch.where(known > 0, _SIBLING_WORTH, 1.0) * _SAME_FAMILY**family * _ANOTHER_FAMILY**others
    return new[..., None]


def missing_tries(arms: Arms) -> torch.Tensor:
    """Returns how many replicates a weakness still takes to be confirmed, shape (B, C, K, L).

    Evidence is measured in confirmations; each replicate that shows the weakness again adds about half of one.
    """
    return (2.0 * (1.0 - arms.known("evidence"))).ceil().clamp(1.0, 4.0)


def _waiting(lately: torch.Tensor) -> torch.Tensor:
    """Returns for how many minutes components are expected to cool down, shape (B, C, 1, 1).

    Any time up to `_COOLS_MIN` is as likely, and so after m minutes (_COOLS_MIN - m)^2 / (2 _COOLS_MIN) are left.
    """
    left = (_COOLS_MIN - LONG_MIN * (1.0 - lately)).clamp(min=0.0)
    return (left**2 / (2.0 * _COOLS_MIN))[..., None, None]
