"""`backburn benchmark --split`: policies on the frozen suite of simulated clusters, in tables, pictures and a file."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from actuators.errors import BadInput

from ..learning import suite
from ..learning.arena import Chooser, greedily, knowing, one_by_one, randomly, statically
from ..learning.incident import IncidentPolicy, incidents_in
from ..learning.policy import Policy, RoundRobinPolicy
from ..learning.policy_file import PPO_SORT, read, record_of
from ..learning.posterior import ArmNetwork
from ..learning.ppo.choosing import preferring
from ..learning.ppo.set_policy import SetPolicy
from ..learning.rivals import GeneticPolicy, UcbPolicy
from ..learning.thompson import ThompsonPolicy
from ..settings import PACKAGED
from .curves import picture

SCHEMA_VERSION = 1
_BOUNDS = ("random", "oracle")
RIVALS: Final[Sequence[str]] = ("round_robin", "ucb", "genetic", "incident", "thompson")

Maker = Callable[[int], Chooser]


def makers_of(names: Sequence[str]) -> dict[str, Maker]:
    """Returns who makes each policy for so many clusters.

    Args:
        names: of rivals, or files that `backburn train` wrote. A posterior-greedy policy brings itself along as it
            would choose if it never learnt anything on a cluster (`static`), and with the head that it has on a real
            one.

    Raises:
        BadInput: a name is not known, or a file cannot be read.
    """
    incidents = incidents_in(PACKAGED / "incidents.yaml")

    def each(of: Callable[[np.random.Generator], Policy]) -> Maker:
        return lambda count: one_by_one([of(np.random.default_rng(seed)) for seed in range(count)])

    known: dict[str, Maker] = {
        "random": lambda count: randomly(0),
        "oracle": lambda count: knowing,
        "round_robin": each(lambda random: RoundRobinPolicy()),
        "ucb": each(UcbPolicy),
        "genetic": each(GeneticPolicy),
        "incident": each(lambda random: IncidentPolicy(incidents, random)),
        "thompson": each(ThompsonPolicy),
    }
    found: dict[str, Maker] = {}
    for name in names:
        if name.endswith(".safetensors"):
            found |= _learnt(Path(name))
        elif name in known:
            found[name] = known[name]
        else:
            raise BadInput(f"unknown policy {name!r}; allowed are {', '.join(known)}, and files of `backburn train`")
    return {**found, **{name: known[name] for name in _BOUNDS}}


def _learnt(path: Path) -> dict[str, Maker]:
    if record_of(path).get("sort") == PPO_SORT:
        policy = read(path, SetPolicy)
        return {path.stem: lambda count: preferring(policy)}
    network = read(path, ArmNetwork)
    return {
        path.stem: lambda count: greedily(network),
        f"{path.stem} with its head": lambda count: greedily(network, learns=True),
        f"static {path.stem}": lambda count: statically(network),
    }


def compare(
    names: Sequence[str], splits: Sequence[str], out: Path, console: Console, *, clusters: int | None, threads: int
) -> None:
    """Runs policies on splits of the suite, prints a table for each, and writes `benchmark.json` and pictures.

    Args:
        names: of policies; see `makers_of`.
        splits: names of splits.
        out: folder; made if missing.
        console: where tables go.
        clusters: how many of each split; as many as it says if not given.
        threads: of the processor.

    Raises:
        BadInput: a policy or split is not known, or the folder holds a benchmark already.
    """
    unknown = [name for name in splits if name not in suite.SPLITS]
    if unknown or not splits:
        allowed = ", ".join(suite.SPLITS)
        raise BadInput(f"--split {', '.join(unknown) or 'names none'}; allowed are {allowed}")
    if (out / "benchmark.json").exists():
        raise BadInput(f"{out} holds a benchmark already; choose another folder, nothing was overwritten")
    makers = makers_of(names)
    torch.set_num_threads(threads)
    out.mkdir(parents=True, exist_ok=True)
    written: dict[str, Any] = {}
    for name in splits:
        split = suite.SPLITS[name]
        result = suite.tried(split, makers, lambda who, s: console.print(f"  {who}: {s:.0f} s", style="dim"), clusters)
        written[name] = {
            policy: {**figure, "seeds": 1, "clusters": int(figure["clusters"])}
            for policy, figure in result.figures.items()
        }
        console.print(_table(name, split, result))
        (out / f"{name}.svg").write_text(picture(result.curves, f"{name}: differs {split.differs}"), encoding="utf-8")
        machine = f"{len(os.sched_getaffinity(0))} cores, {platform.machine()}, torch {torch.__version__}"
        about = {"machine": machine, "command": " ".join(sys.argv), "budget_min": suite.BUDGET_MIN}
        text = json.dumps({"schema_version": SCHEMA_VERSION, **about, "splits": written}, indent=1)
        (out / "benchmark.json").write_text(text + "\n", encoding="utf-8")
    console.print(f"written to {out}")


def _table(name: str, split: suite.Split, result: suite.Result) -> Table:
    title = f"{name}: differs {split.differs}; a random experiment shows something in {result.hit_rate:.1%}"
    shown = Table(
        "policy", "area (random 0, oracle 1)", "95 %", "severity", "weaknesses", "false", "masked", "ms", title=title
    )
    ordered: list[tuple[str, Mapping[str, float]]] = sorted(result.figures.items(), key=lambda item: -item[1]["auc"])
    for policy, of in ordered:
        shown.add_row(
            policy,
            f"{of['auc']:.3f}",
            f"{of['low']:.3f} to {of['high']:.3f}",
            f"{of['severity']:.2f}",
            f"{of['discoveries']:.2f}",
            f"{of['fdr']:.1%}",
            f"{of['violations']:.0f}",
            f"{of['decision_ms']:.2f}",
        )
    return shown
