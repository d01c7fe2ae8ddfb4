"""What campaigns have found, in numbers that can be compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from scipy.stats import bootstrap

from ..campaign import Result
from ..findings.ground_truth import compare

_CONFIDENCE = 0.95
_RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Finds:
    """What one campaign found, beside what was planted.

    Attributes:
        policy: who chose.
        start: number of the cluster start, or of the group of starts that was drawn from.
        seed: of the campaign.
        planted: the weak switches.
        found: those of them that were found, and when first, minutes from the first gate.
        false_alarms: fingerprints that nothing explains.
        unplanted: true weaknesses that no switch controls, and when each was found, minutes.
        experiments: all that were run, shams included.
        shams: how many had no fault.
        sham_alarms: how many of those alarmed.
        spent_min: minutes from the first gate to the last revert.
        budget_min: minutes that could be spent.
        ended_by: why it ended.
    """

    policy: str
    start: int
    seed: int
    planted: tuple[str, ...]
    found: Mapping[str, float]
    false_alarms: tuple[str, ...]
    unplanted: Mapping[str, float]
    experiments: int
    shams: int
    sham_alarms: int
    spent_min: float
    budget_min: float
    ended_by: str

    @property
    def missed(self) -> tuple[str, ...]:
        """The planted switches that were not found."""
        return tuple(switch for switch in self.planted if switch not in self.found)

    @property
    def area(self) -> float | None:
        """The area under the share of planted switches found, over the minutes of the budget; None if none is planted.

        1 is to find all of them at once, 0 to find none in time.
        """
        if not self.planted:
            return None
        return sum(max(0.0, 1.0 - minute / self.budget_min) for minute in self.found.values()) / len(self.planted)

    def to_json(self) -> dict[str, Any]:
        """Returns the finds as JSON."""
        return asdict(self) | {"missed": list(self.missed), "area": self.area}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Finds:
        """Returns finds as `to_json` made them."""
        kept = {field.name: data[field.name] for field in fields(cls)}
        return cls(**kept | {"planted": tuple(kept["planted"]), "false_alarms": tuple(kept["false_alarms"])})


def finds_of(
    result: Result,
    planted: Mapping[str, str],
    *,
    policy: str,
    start: int,
    seed: int,
    experiments: int,
    budget_min: float,
) -> Finds:
    """Compares what a campaign has come to with what was planted.

    Args:
        result: of the campaign.
        planted: every switch and whether it is weak.
        policy: who chose.
        start: number of the cluster start.
        seed: of the campaign.
        experiments: all that were run.
        budget_min: minutes that could be spent.
    """
    found: dict[str, float] = {}
    unplanted: dict[str, float] = {}
    false_alarms: list[str] = []
    for weakness, minute in zip(result.weaknesses, result.confirmed_min, strict=True):
        truth = compare(planted, [weakness.to_json()])
        for switch in truth["found"]:
            found.setdefault(switch, minute)
        unplanted |= dict.fromkeys(truth["unplanted"], minute)
        false_alarms += truth["false_alarms"]
    return Finds(
        policy=policy,
        start=start,
        seed=seed,
        planted=tuple(compare(planted, ())["planted"]),
        found=found,
        false_alarms=tuple(false_alarms),
        unplanted=unplanted,
        experiments=experiments,
        shams=result.shams,
        sham_alarms=result.sham_alarms,
        spent_min=result.spent_min,
        budget_min=budget_min,
        ended_by=result.ended_by,
    )


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean over campaigns, every start counting the same.

    Attributes:
        value: the mean.
        interval: its bootstrap interval, campaigns drawn anew within every start; None where a start has only one.
    """

    value: float
    interval: tuple[float, float] | None

    def __str__(self) -> str:
        return f"{self.value:.3f}" + (f" ({self.interval[0]:.3f} to {self.interval[1]:.3f})" if self.interval else "")


def mean_over_starts(finds: Sequence[Finds], seed: int) -> Mean | None:
    """Returns the mean area under the discovery curve; None where nothing was planted.

    Args:
        finds: of one policy.
        seed: of the bootstrap.
    """
    by_start: dict[int, list[float]] = {}
    for find in finds:
        if find.area is not None:
            by_start.setdefault(find.start, []).append(find.area)
    strata = [np.array(areas) for areas in by_start.values()]
    if not strata:
        return None
    value = _mean_of_means(*strata)
    if any(len(stratum) < 2 for stratum in strata):
        return Mean(float(value), None)
    # Each sample is drawn anew by itself: that is what a stratified bootstrap is.
    drawn = bootstrap(
        strata,
        _mean_of_means,
        n_resamples=_RESAMPLES,
        confidence_level=_CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return Mean(float(value), (float(drawn.confidence_interval.low), float(drawn.confidence_interval.high)))


def _mean_of_means(*strata: Any, axis: int = -1) -> Any:  # noqa: ANN401 (arrays or numbers, as SciPy asks)
    return np.mean([np.mean(stratum, axis=axis) for stratum in strata], axis=0)


def summed_up(finds: Iterable[Finds], seed: int) -> list[dict[str, Any]]:
    """Returns one row per policy, the best first.

    Args:
        finds: of all campaigns.
        seed: of the bootstrap.
    """
    by_policy: dict[str, list[Finds]] = {}
    for find in finds:
        by_policy.setdefault(find.policy, []).append(find)
    rows = [_row(policy, mine, mean_over_starts(mine, seed)) for policy, mine in by_policy.items()]
    return sorted(rows, key=lambda row: -(row["area"] or 0.0))


def _row(policy: str, finds: Sequence[Finds], area: Mean | None) -> dict[str, Any]:
    minutes: dict[str, list[float]] = {}
    for find in finds:
        for name, minute in [*find.found.items(), *find.unplanted.items()]:
            minutes.setdefault(name, []).append(minute)
    return {
        "policy": policy,
        "campaigns": len(finds),
        "area": None if area is None else area.value,
        "area_interval": None if area is None or area.interval is None else list(area.interval),
        "planted": sum(len(find.planted) for find in finds),
        "found": sum(len(find.found) for find in finds),
        "missed": sum(len(find.missed) for find in finds),
        "false_alarms": sum(len(find.false_alarms) for find in finds),
        "unplanted": sum(len(find.unplanted) for find in finds),
        "experiments": sum(find.experiments for find in finds),
        "shams": sum(find.shams for find in finds),
        "sham_alarms": sum(find.sham_alarms for find in finds),
        "spent_min": sum(find.spent_min for find in finds),
        "minutes_to": {name: {"mean": float(np.mean(of)), "times": len(of)} for name, of in sorted(minutes.items())},
    }


def lines_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the table, for people: per policy one line, then when it confirmed what."""
    headings = ("policy", "area", "found", "missed", "false", "unplanted", "experiments", "minutes", "campaigns")
    first = max(13, *(len(row["policy"]) + 1 for row in rows)) if rows else 13
    lines = [_line(headings, first)]
    for row in rows:
        mean = None if row["area"] is None else Mean(row["area"], row["area_interval"] and tuple(row["area_interval"]))
        counts = (f"{row['found']}/{row['planted']}", row["missed"], row["false_alarms"], row["unplanted"])
        effort = (f"{row['experiments']} ({row['shams']} shams)", f"{row['spent_min']:.1f}", row["campaigns"])
        lines.append(_line((row["policy"], "unknown" if mean is None else mean, *counts, *effort), first))
    for row in rows:
        when = [f"{name} {of['mean']:.1f} ({of['times']}x)" for name, of in row["minutes_to"].items()]
        lines.append(f"{row['policy']} confirmed after minutes, on average: {', '.join(when) or 'nothing'}")
    return lines


def _line(cells: Sequence[object], first: int) -> str:
    widths = (first, 25, 9, 8, 7, 11, 16, 9, 9)
    return "".join(f"{cell!s:<{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip()
