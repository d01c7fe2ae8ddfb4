"""What one more experiment on an arm is worth per minute, to whoever knows the odds that it is weak."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from envs.encoding import COMPONENT_FEATURES, ROLES

from .arms import Arms

OVERHEAD_MIN = 0.5
"""What an experiment costs beside the time in force: reference and post windows, recovery."""

_SIBLING_WORTH = 0.05
"""Worth of another level of a kind that is confirmed on this role: most likely the same weakness again."""

_AGAIN = 0.9
"""Odds that an arm that was weak once is so again."""


def worth_per_minute(
    seen: Mapping[str, torch.Tensor], odds: torch.Tensor, *, another_kind: float = 1.0
) -> torch.Tensor:
    """Returns what one more experiment on each arm is worth per minute.

    A weakness pays only when it is confirmed: a promising arm is worth its replicate, a confirmed one nothing more.

    Args:
        seen: an observation with a batch dimension.
        odds: that arms are weak, shape (B, C, K, L).
        another_kind: worth of another kind of fault for each that is confirmed on the same component; below one where
            it is likely that they all miss the same protection.

    Returns:
        Severity per minute, shape (B, C, K, L).
    """
    return worth_of(seen["components"], Arms.of(seen), odds, another_kind=another_kind)


def worth_of(components: torch.Tensor, arms: Arms, odds: torch.Tensor, *, another_kind: float = 1.0) -> torch.Tensor:
    """Returns the same for what is seen in parts; see `arms.Surroundings`."""
    weak, evidence, confirmed = (arms.known(name) for name in ("weakness", "evidence", "confirmed"))
    duration = arms.attribute("duration_min")
    dependents = components[..., COMPONENT_FEATURES.index("dependents_share")]
    severity = 0.5 + 0.5 * dependents[..., None, None]
    # Evidence is measured in confirmations; each replicate that shows the weakness again adds about half of one.
    missing = (2.0 * (1.0 - evidence)).ceil().clamp(1.0, 4.0)
    chance = odds * torch.where(weak > 0, _AGAIN, odds) ** (missing - 1.0)
    worth = severity * chance / ((duration + OVERHEAD_MIN) * missing)
    role = components[..., : len(ROLES) + 1]
    of_role = role @ (role.transpose(1, 2) @ confirmed.amax(-1))
    worth = torch.where(of_role[..., None] > 0, _SIBLING_WORTH * worth, worth)
    is_known = (confirmed.amax(-1) > 0).float()
    others = is_known.sum(-1, keepdim=True) - is_known
    worth = worth * another_kind ** others[..., None]
    return torch.where(confirmed > 0, 0.0, worth)
