"""`backburn calibrate`: does the simulator believe of clusters what experiments on a real one have shown?

For every kind of fault on every role that was tried, how often it showed a weakness is set beside how often it would on
simulated clusters, and the two are ranked. A policy that has learnt where to look first on simulated clusters looks in
the right places on a real one as far as the ranks agree.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from scipy.stats import rankdata, spearmanr

from actuators.catalogue import LEVELS
from actuators.errors import BadInput
from envs.encoding import COMPONENT_FEATURES
from envs.protections import ALL_ROLES, OTHER
from envs.simulator.faults import KINDS
from envs.simulator.pool import Pool, pool_of
from envs.simulator.structure import Generator

from ..findings.report import load_run

_CLUSTERS = 1024
_FEWEST_CELLS = 5
_READY = COMPONENT_FEATURES.index("ready_share")


@dataclass(frozen=True, slots=True)
class Cell:
    """One kind of fault on one role.

    Attributes:
        kind: of the fault.
        role: of the component.
        tried: experiments on real clusters that showed something or nothing.
        real: share of them that showed a weakness, of every target and intensity first, and then of all of these: what
            showed one was repeated more often.
        simulated: share of simulated arms like it that are weak; None where none is offered.
    """

    kind: str
    role: str
    tried: int
    real: float
    simulated: float | None


@dataclass(frozen=True, slots=True)
class Realism:
    """How well the simulator agrees with what was recorded.

    Attributes:
        cells: every kind and role that was tried, the worst agreement of ranks first.
        rank_correlation: Spearman's, over the cells that the simulator offers; NaN where all are equal.
        p: of no correlation at all.
    """

    cells: Sequence[Cell]
    rank_correlation: float
    p: float


def realism(folders: Sequence[Path], *, seed: int = 0) -> Realism:
    """Compares the simulator with recorded runs.

    Raises:
        BadInput: a folder is not that of a finished run, or together they have tried too little.
    """
    runs = [load_run(folder) for folder in folders]
    for folder, run in zip(folders, runs, strict=True):
        if "topology" not in run["run"]:
            raise BadInput(f"{folder} is that of a run whose cluster never came up; there is nothing to compare")
    tried: dict[tuple[str, str], dict[Any, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for number, run in enumerate(runs):
        for role, outcome in _decided(run):
            fault = outcome["fault"]
            arm = number, fault["target"]["name"], fault["intensity"]
            tried[fault["kind"], role][arm].append(outcome["verdict"] == "weakness")
    simulated = _simulated(pool_of(Generator((6, 16)), _CLUSTERS, seed=seed))
    cells = [
        Cell(kind, role, sum(map(len, arms.values())), fmean(map(fmean, arms.values())), simulated.get((kind, role)))
        for (kind, role), arms in tried.items()
    ]
    offered = [cell for cell in cells if cell.simulated is not None]
    if len(offered) < _FEWEST_CELLS:
        raise BadInput(
            f"{len(folders)} run(s) tried {len(offered)} kind(s) of fault on roles that the simulator knows; "
            f"a comparison takes {_FEWEST_CELLS}"
        )
    real, believed = [cell.real for cell in offered], [cell.simulated or 0.0 for cell in offered]
    found = spearmanr(real, believed) if len(set(real)) > 1 else None
    ranks = {id(cell): abs(a - b) for cell, a, b in zip(offered, _ranks(real), _ranks(believed), strict=True)}
    ordered = sorted(cells, key=lambda cell: -ranks.get(id(cell), float("inf")))
    if found is None:
        return Realism(ordered, float("nan"), float("nan"))
    return Realism(ordered, float(found.statistic), float(found.pvalue))


def lines_of(told: Realism, worst: int = 8) -> list[str]:
    """Returns what a person reads of it."""
    experiments = sum(cell.tried for cell in told.cells)
    lines = [
        f"{experiments} experiments on {len(told.cells)} kinds of fault and roles; "
        f"rank correlation {told.rank_correlation:.2f} (p = {told.p:.3f}; at least 0.5 is wanted, 0.8 is the aim)",
        f"{'fault':<28}{'role':<18}{'tried':>6}{'real':>8}{'simulated':>11}",
    ]
    for cell in told.cells[:worst]:
        believed = "not offered" if cell.simulated is None else f"{cell.simulated:.0%}"
        lines.append(f"{cell.kind:<28}{cell.role:<18}{cell.tried:>6}{cell.real:>8.0%}{believed:>11}")
    return lines


def _decided(run: Mapping[str, Any]) -> Iterable[tuple[str, Mapping[str, Any]]]:
    """Yields the experiments of a run that told something, with the role of their target."""
    roles = {component["name"]: component["role"] for component in run["run"]["topology"]["components"]}
    for outcome in run["outcomes"]:
        if outcome["fault"] is not None and outcome["verdict"] in {"weakness", "resilient"}:
            role = roles[outcome["fault"]["target"]["name"]]
            yield role if role in ALL_ROLES else OTHER, outcome


def _simulated(pool: Pool) -> dict[tuple[str, str], float]:
    """Returns which share of the arms of each kind and role is weak; none where there are none."""
    shape = (len(pool), pool.places, len(KINDS), len(LEVELS))
    shows, available = pool.tells.view(shape), pool.available.view(shape)
    role = pool.components[..., : len(ALL_ROLES)].argmax(-1)
    inside = pool.components[..., _READY] > 0
    found = {}
    for r, name in enumerate(ALL_ROLES):
        of_role = (role == r) & inside
        for k, kind in enumerate(KINDS):
            offered = int(available[of_role][:, k].sum())
            if offered:
                found[kind, name] = float(shows[of_role][:, k].sum()) / offered
    return found


def _ranks(values: Sequence[float]) -> list[float]:
    return [float(rank) for rank in rankdata(values)]
