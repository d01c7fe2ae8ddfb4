"""`backburn benchmark --split`: policies on the frozen suite of simulated clusters, in tables, pictures and a file."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from actuators.errors import BadInput
from envs.simulator.structure import VERSION

from ..learning import suite
from ..learning.arena import Chooser, floored, greedily, knowing, one_by_one, randomly, statically
from ..learning.floor import RARELY
from ..learning.incident import IncidentPolicy, incidents_in
from ..learning.own import is_own, own_policy
from ..learning.policy import Policy
from ..learning.policy_file import PPO_SORT, SHIPPED, learnt_on, read, record_of
from ..learning.posterior import ArmNetwork
from ..learning.ppo.choosing import preferring
from ..learning.ppo.set_policy import SetPolicy
from ..learning.unlearned import UNLEARNED
from .curves import picture
from .sharing import done

SCHEMA_VERSION = 2
_BOUNDS = ("random", "oracle")
RIVALS: Final[Sequence[str]] = tuple(name for name in UNLEARNED if name not in _BOUNDS)

Maker = Callable[[int], Chooser]


def makers_of(names: Sequence[str]) -> dict[str, list[Maker]]:
    """Returns who makes each policy for so many clusters, one for every training of it.

    Args:
        names: of rivals or shipped policies, `module:function` of one's own, or files of incidents or that `backburn
            train` wrote, or folders of those:
            trainings of one policy that differ by their seeds. A policy that has learnt brings itself along with the
            head and the floor that it has on a real cluster (`as it ships`), and so does Thompson with its floor; a
            posterior-greedy one also as it would choose if it never learnt anything there (`static`).

    Raises:
        BadInput: a name is not known, or a file cannot be read.
    """

    def each(of: Callable[[np.random.Generator], Policy]) -> Maker:
        return lambda count: one_by_one([of(np.random.default_rng(seed)) for seed in range(count)])

    def by(path: Path) -> Maker:
        incidents = incidents_in(path)
        return each(lambda random: IncidentPolicy(incidents, random))

    def with_a_floor(make: Maker) -> Maker:
        return lambda count: floored(make(count))

    known: dict[str, Maker] = {
        **{name: each(make) for name, make in UNLEARNED.items()},
        "random": lambda count: randomly(0),
        "oracle": lambda count: knowing,
    }
    found: dict[str, list[Maker]] = {}
    for name in names:
        if is_path(name) or name in SHIPPED:
            file = SHIPPED.get(name, Path(name))
            trained = {file.stem: [by(file)]} if file.suffix == ".yaml" else _trained(file)
            if (found.keys() | known.keys()) & trained.keys():
                raise BadInput(f"two policies are called {file.stem!r}; allowed are files and folders of other names")
            found |= trained
        elif is_own(name):
            own_policy(name, Path.cwd())(np.random.default_rng(0))  # what cannot be made is said before anything begins
            found[name] = [partial(_own, name, Path.cwd())]
        elif name in known:
            found[name] = [known[name]]
            if name == "thompson":
                found[f"{name} as it ships"] = [with_a_floor(known[name])]
        else:
            raise BadInput(
                f"unknown policy {name!r}; allowed are {', '.join([*known, *SHIPPED])}, module:function of your own, "
                "files of incidents that end in .yaml, and files of `backburn train` or folders of them (with a slash)"
            )
    return {**found, **{name: [known[name]] for name in _BOUNDS}}


def is_path(name: str) -> bool:
    """Tells whether a policy is named by its file, one of incidents included, or by a folder of files."""
    return name.endswith((".safetensors", ".yaml")) or "/" in name


def _own(name: str, folder: Path, count: int) -> Chooser:
    make = own_policy(name, folder)
    return one_by_one([make(np.random.default_rng(seed)) for seed in range(count)])


def _trained(path: Path) -> dict[str, list[Maker]]:
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    if not files:
        raise BadInput(f"{path} holds no .safetensors file; allowed is a folder of trainings of one policy")
    trainings = [_learnt(file, path.stem) for file in files]
    if len({frozenset(variants) for variants in trainings}) > 1:
        raise BadInput(f"{path} holds policies of several sorts; allowed are trainings of one")
    return {name: [variants[name] for variants in trainings] for name in trainings[0]}


def informed(names: Sequence[str]) -> set[str]:
    """Returns which policies, by the names that `makers_of` gives them, have learnt on what the suite holds back."""
    found: set[str] = set()
    for path in (SHIPPED.get(name, Path(name)) for name in names if name in SHIPPED or is_path(name)):
        if path.suffix == ".yaml":
            continue
        for file in sorted(path.glob("*.safetensors")) if path.is_dir() else [path]:
            if suite.has_seen_what_is_held_back(learnt_on(file)):
                found |= _learnt(file, path.stem).keys()
    return found


def _learnt(file: Path, name: str) -> dict[str, Maker]:
    if record_of(file).get("sort") == PPO_SORT:
        policy = read(file, SetPolicy)
        return {
            name: lambda count: preferring(policy),
            f"{name} as it ships": lambda count: floored(preferring(policy, learns=True), RARELY),
        }
    network = read(file, ArmNetwork)
    return {
        name: lambda count: greedily(network),
        f"{name} as it ships": lambda count: floored(greedily(network, learns=True), RARELY),
        f"static {name}": lambda count: statically(network),
    }


def compare(
    names: Sequence[str],
    splits: Sequence[str],
    out: Path,
    console: Console,
    *,
    clusters: int | None,
    threads: int,
    workers: int = 1,
) -> None:
    """Runs policies on splits of the suite, prints a table for each, and writes `benchmark.json` and pictures.

    `benchmark.json` has the figures of every policy by split, `about.json` how they came about.

    Args:
        names: of policies; see `makers_of`. The first one is what all others are compared with.
        splits: names of splits.
        out: folder; made if missing.
        console: where tables go.
        clusters: how many of each split; as many as it says if not given.
        threads: of the processor, for each worker.
        workers: how many policies are tried at once, as tasks of a Ray on this host if more than one.

    Raises:
        BadInput: a policy or split is not known or named twice, or the folder holds a benchmark already or cannot be
            made.
        BackburnError: Ray did not start.
    """
    if not names or len(set(names)) < len(names):
        raise BadInput(f"--policies {', '.join(names) or 'names none'}; allowed is each of them once, and at least one")
    unknown = [name for name in splits if name not in suite.SPLITS]
    if unknown or not splits or len(set(splits)) < len(splits):
        named = ", ".join(unknown or splits) or "names none"
        raise BadInput(f"--split {named}; allowed are {', '.join(suite.SPLITS)}, each once")
    if (out / "benchmark.json").exists():
        raise BadInput(f"{out} holds a benchmark already; choose another folder, nothing was overwritten")
    makers, knowing_more = makers_of(names), informed(names)
    reference = next(iter(makers))
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"--run-dir {out}: cannot be made: {error.strerror}") from error
    machine = f"{len(os.sched_getaffinity(0))} cores, {platform.machine()}, torch {torch.__version__}"
    about = {"schema_version": SCHEMA_VERSION, "machine": machine, "command": " ".join(sys.argv), "simulator": VERSION}
    _write(out / "about.json", about | {"budget_min": suite.BUDGET_MIN})
    written: dict[str, Any] = {}
    works = [
        partial(_try, threads, suite.SPLITS[name], make, clusters)
        for name in splits
        for each in makers.values()
        for make in each
    ]
    trials = done(works, workers, out)
    for name in splits:
        split = suite.SPLITS[name]
        of_split = {who: [_told(next(trials), who, console) for _ in each] for who, each in makers.items()}
        result = suite.result_of(split, of_split, clusters, reference)
        written[name] = {
            policy: {
                **figure,
                **{what: int(figure[what]) for what in ("seeds", "clusters")},
                "held_back": policy not in knowing_more,
            }
            for policy, figure in result.figures.items()
        }
        console.print(_table(name, split, result, reference, knowing_more))
        (out / f"{name}.svg").write_text(picture(result.curves, f"{name}: differs {split.differs}"), encoding="utf-8")
        _write(out / "benchmark.json", written)
    if knowing_more:
        console.print("* has learnt on forms of graph and kinds of weakness that are new to others", style="dim")
    console.print(f"written to {out}")


def _write(path: Path, data: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def _try(threads: int, split: suite.Split, make: Maker, clusters: int | None) -> suite.Trial:
    torch.set_num_threads(threads)
    return suite.tried(split, make, clusters)


def _told(trial: suite.Trial, who: str, console: Console) -> suite.Trial:
    console.print(f"  {who}: {trial.seconds:.0f} s", style="dim")
    return trial


def _table(name: str, split: suite.Split, result: suite.Result, reference: str, knowing_more: Collection[str]) -> Table:
    title = f"{name}: differs {split.differs}; a random experiment shows something in {result.hit_rate:.1%}"
    columns = ("policy", "trained", "area (random 0, oracle 1)", "95 %", f"ahead of {reference}", "95 %")
    shown = Table(*columns, "severity", "weaknesses", "false", "masked", "ms", title=title)
    ordered: list[tuple[str, Mapping[str, float]]] = sorted(result.figures.items(), key=lambda item: -item[1]["auc"])
    for policy, of in ordered:
        shown.add_row(
            f"{policy} *" if policy in knowing_more else policy,
            f"{of['seeds']:.0f}x",
            f"{of['auc']:.3f}",
            f"{of['low']:.3f} to {of['high']:.3f}",
            *((f"{of['lead']:+.3f}", f"{of['lead_low']:+.3f} to {of['lead_high']:+.3f}") if "lead" in of else ("", "")),
            f"{of['severity']:.2f}",
            f"{of['discoveries']:.2f}",
            f"{of['fdr']:.1%}",
            f"{of['violations']:.0f}",
            f"{of['decision_ms']:.2f}",
        )
    return shown
