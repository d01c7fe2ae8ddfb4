"""What was tried on an arm and what it showed, as numbers: one update rule for one real cluster and thousands at once.

Shapes: B clusters; one row per cluster, that of the arm which was tried.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import torch

from .confirmation import CONFIRMED_E
from .scoring import Evidence, Verdict

HISTORY_FEATURES: Final = (
    "tried",
    "weakness",
    "resilient",
    "undecided",
    "anomaly_score_best",
    "anomaly_score_last",
    "effect_last",
    "evidence",
    "confirmed",
    "minutes_since",
)

MANY: Final = 8.0
"""Counts are kept as eighths and end at one."""

LONG_MIN: Final = 60.0
"""Minutes that count as long ago, and as long."""

COLUMN: Final = {name: index for index, name in enumerate(HISTORY_FEATURES)}
_LOG_CONFIRMED = float(torch.tensor(CONFIRMED_E).log())
_AT = COLUMN["minutes_since"]


class Told(IntEnum):
    """What the verdict of an experiment tells of its arm."""

    RESILIENT = 0
    WEAKNESS = 1
    UNDECIDED = 2
    NOTHING = 3


_TOLD = {
    Verdict.RESILIENT: Told.RESILIENT,
    Verdict.WEAKNESS: Told.WEAKNESS,
    Verdict.INCONCLUSIVE: Told.UNDECIDED,
}


@dataclass(frozen=True, slots=True)
class Shown:
    """The evidence of one experiment on each of B clusters, shape (B,) each; see `scoring.Evidence`.

    Attributes:
        told: a `Told`, int64.
        effect: in [0, 1].
        anomaly_score: in [0, 1].
        e_value: positive.
        cost_min: minutes.
    """

    told: torch.Tensor
    effect: torch.Tensor
    anomaly_score: torch.Tensor
    e_value: torch.Tensor
    cost_min: torch.Tensor

    @classmethod
    def of(cls, evidence: Evidence) -> Shown:
        """Returns the evidence of one experiment as a batch of one."""
        numbers = (evidence.effect, evidence.anomaly_score, evidence.e_value, evidence.cost_min)
        told = torch.tensor([int(_TOLD.get(evidence.verdict, Told.NOTHING))])
        return cls(told, *(torch.tensor([number], dtype=torch.float32) for number in numbers))


def never_tried(*size: int, device: str | torch.device = "cpu") -> torch.Tensor:
    """Returns the history of arms of which nothing is known, shape (*size, len(HISTORY_FEATURES))."""
    history = torch.zeros((*size, len(HISTORY_FEATURES)), device=device)
    history[..., _AT] = -1.0
    return history


def after(rows: torch.Tensor, shown: Shown, now_h: torch.Tensor) -> torch.Tensor:
    """Returns what is known of arms after one more experiment on each. Pure.

    Args:
        rows: what was known, shape (B, len(HISTORY_FEATURES)); the last column says when, in hours of the campaign.
        shown: the experiments' evidence.
        now_h: the campaigns' clocks after the experiments, hours, shape (B,).
    """
    tried, weakness, resilient, undecided, best, _, _, evidence, _, _ = rows.unbind(-1)
    told = shown.told

    def counted(count: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
        return (count + which / MANY).clamp(max=1.0)

    weakness = counted(weakness, told == Told.WEAKNESS)
    gained = torch.where(told == Told.NOTHING, 0.0, shown.e_value.log() / _LOG_CONFIRMED)
    evidence = (evidence + gained).clamp(-2.0, 2.0)
    confirmed = ((weakness >= 2 / MANY) & (evidence >= 1.0)).to(rows.dtype)
    columns = (
        (tried + 1 / MANY).clamp(max=1.0),
        weakness,
        counted(resilient, told == Told.RESILIENT),
        counted(undecided, told >= Told.UNDECIDED),
        torch.maximum(best, shown.anomaly_score),
        shown.anomaly_score,
        shown.effect,
        evidence,
        confirmed,
        now_h,
    )
    return torch.stack(columns, dim=-1)


BY_KIND: Final = ("weakness", "resilient", "confirmed", "evidence", "effect_last")
"""What is known of one kind of fault on one component, all its levels together: sums of counts, else the highest."""


IN_ROLE: Final = tuple(f"{name}_in_role" for name in BY_KIND[:3])
"""Beside it, sums over the other components of the role: what is amiss with one is often so with its like."""


def by_kind(levels: torch.Tensor) -> torch.Tensor:
    """Returns what is known of kinds of faults, shape (…, len(BY_KIND)).

    Args:
        levels: histories, shape (…, levels, len(HISTORY_FEATURES)).
    """
    counts = [levels[..., COLUMN[name]].sum(-1) for name in BY_KIND[:2]]
    highest = [levels[..., COLUMN[name]].amax(-1) for name in BY_KIND[2:]]
    return torch.stack(counts + highest, dim=-1)


def in_role(role: torch.Tensor, kinds: torch.Tensor) -> torch.Tensor:
    """Returns what is known of kinds of faults on the other components of each one's role.

    Args:
        role: of every component, one hot, all zero where there is none, shape (B, C, roles).
        kinds: as `by_kind` returns it, shape (B, C, K, len(BY_KIND)).

    Returns:
        Shape (B, C, K, len(IN_ROLE)).
    """
    counts = kinds[..., : len(IN_ROLE)]
    flat = counts.flatten(2)
    return (role @ (role.transpose(1, 2) @ flat) - flat).view(counts.shape)


def as_seen(history: torch.Tensor, now_h: torch.Tensor) -> torch.Tensor:
    """Returns histories as an agent sees them: how long ago, in hours up to one, in place of when.

    Args:
        history: shape (B, …, len(HISTORY_FEATURES)).
        now_h: the campaigns' clocks, hours, shape (B,).
    """
    seen = history.clone()
    now_h = now_h.view(-1, *[1] * (history.dim() - 2))
    seen[..., _AT] = (now_h - history[..., _AT]).clamp(max=1.0)
    return seen
