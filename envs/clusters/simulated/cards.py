"""The GPU of a simulated cluster: what is left of it, by its neighbours, for those who work on it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from actuators.clock import Instant

Cards: TypeAlias = Mapping[str, dict[str, Any]]

SERIES = ("trainer/gpu_memory_share", "trainer/gpu_utilisation")
"""What is measured where there is a GPU."""

_STEPS_PER_S_OF_A_CARD = 30.0
_STANDING_SHARE = 0.4
_WORKING_SHARE = 0.1
_BUSY_SHARE_OF_A_STEP_PER_S = 1.0 / _STEPS_PER_S_OF_A_CARD


def first_cards(has_gpu: bool) -> dict[str, dict[str, Any]]:
    """Returns the cards of a cluster on which nothing has happened yet."""
    return {"gpu-0": {"used_by": ["trainer"], "neighbours": {}}} if has_gpu else {}


def end_expired(cards: Cards, now: Instant) -> None:
    """Lets every neighbour go whose deadline has been reached."""
    for card in cards.values():
        live = {name: one for name, one in card["neighbours"].items() if not Instant(**one["until"]).reached(now)}
        card["neighbours"] = live


def most_steps_per_s(cards: Cards) -> float:
    """Returns how fast a training job can be on the time that neighbours leave it; without limit where it has no card.

    >>> most_steps_per_s({"gpu-0": {"neighbours": {"bb-1": {"takes": "time", "share": 0.75}}}}), most_steps_per_s({})
    (7.5, inf)
    """
    return _STEPS_PER_S_OF_A_CARD * (1.0 - _taken(cards, "time")) if cards else float("inf")


def can_start(cards: Cards) -> bool:
    """Tells whether a training job finds the memory that it begins and works with."""
    return not cards or 1.0 - _taken(cards, "memory") >= _STANDING_SHARE + _WORKING_SHARE


def can_work(cards: Cards) -> bool:
    """Tells whether a running job, which has most of its memory already, finds what a step takes beside it."""
    return not cards or 1.0 - _taken(cards, "memory") >= _WORKING_SHARE


def measured(cards: Cards, steps_per_s: float) -> dict[str, float]:
    """Returns what a card tells of itself; nothing where there is none."""
    if not cards:
        return {}
    own = _STANDING_SHARE if steps_per_s > 0.0 else 0.0
    busy = steps_per_s * _BUSY_SHARE_OF_A_STEP_PER_S + _taken(cards, "time")
    return dict(zip(SERIES, (max(own, _taken(cards, "memory")), min(1.0, busy)), strict=True))


def _taken(cards: Cards, what: str) -> float:
    neighbours: Iterable[dict[str, Any]] = (one for card in cards.values() for one in card["neighbours"].values())
    return max((float(one["share"]) for one in neighbours if one["takes"] == what), default=0.0)
