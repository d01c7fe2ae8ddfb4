"""`backburn train`: draws clusters, teaches a network on them, tries it on others, and writes it down."""

from __future__ import annotations

import platform
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from actuators.errors import BadInput
from envs import encoding
from envs.simulator.pool import Pool, pool_of
from envs.simulator.structure import VERSION, Generator

from ..alone import alone
from .arena import (
    Chooser,
    Tally,
    compared,
    floored,
    greedily,
    hit_rate,
    knowing,
    one_by_one,
    randomly,
    statically,
    tallied,
)
from .floor import RARELY
from .policy_file import Network, learnt_on, read, record_of, store
from .posterior import ArmNetwork
from .ppo.checkpoint import has_begun, require_same
from .ppo.choosing import preferring
from .ppo.practice import RULE, FolderKeeper, Practice, Standing, practised
from .ppo.set_policy import SetPolicy
from .suite import ASIDE_SEED, LUCK_SEED, SEED, has_seen_what_is_held_back
from .train import Lessons, Progress, taught
from .unlearned import UNLEARNED

_CLUSTERS = 4096
_HELD_OUT = 128
"""Clusters on which what has learnt is tried, drawn from `suite.SEED`."""

_ASIDE = 128
"""Clusters by which PPO's best policy is picked, drawn from `suite.ASIDE_SEED`."""

_BUDGET_MIN = 20.0


def train(lessons: Lessons, generator: Generator, path: Path, console: Console, *, device: str, threads: int) -> None:
    """Trains a network for the posterior-greedy policy and stores it with its record.

    Args:
        lessons: how.
        generator: of the clusters.
        path: of the policy; must not exist.
        console: where progress goes.
        device: to learn on.
        threads: of the processor.

    Raises:
        BadInput: the path is taken or of another kind, the device is not there, or the seed is one of the held-out.
    """
    _require(path, device, lessons.seed)
    torch.set_num_threads(threads)
    began_s = time.monotonic()
    pool = _pool(generator, lessons.seed, console)

    def tell(progress: Progress) -> None:
        left_s = (lessons.steps - progress.step) * lessons.batch / progress.steps_per_s
        _say(
            console,
            f"step {progress.step}/{lessons.steps}  loss {progress.loss:.4f}  found {progress.found:.2f} per campaign  "
            f"{progress.steps_per_s:,.0f} experiments/s  {left_s:.0f} s left",
        )

    network = taught(pool.to(device), lessons, tell).cpu()
    record = _machine(device, threads, began_s) | {
        "experiments": lessons.steps * lessons.batch,
        "lessons": asdict(lessons),
    }
    choosers = {
        "posterior": greedily(network),
        "posterior as it ships": floored(greedily(network, learns=True), RARELY),
        "static": statically(network),
    }
    _graduate(network, generator, path, console, record, choosers)


def train_ppo(
    practice: Practice,
    generator: Generator,
    path: Path,
    console: Console,
    *,
    teacher: Path,
    folder: Path,
    device: str,
    threads: int,
    workers: int = 1,
    ray_address: str | None = None,
) -> None:
    """Trains a policy by PPO, from a teacher on, and stores it with its record.

    Args:
        practice: how.
        generator: of the clusters.
        path: of the policy; must not exist.
        console: where progress goes.
        teacher: file of the posterior-greedy policy that it begins from.
        folder: of checkpoints and logs; a training that was cut off there goes on.
        device: to learn on; every worker has one of its own if it is a GPU.
        threads: of the processor, for each worker.
        workers: how many train together, over Ray Train.
        ray_address: of the Ray cluster that they run on; one of our own on this host if not given.

    Raises:
        BadInput: as `train`, or the teacher cannot be read or has seen what these clusters hold back, or the folder
            cannot be used, holds another training, or another process trains there.
    """
    network = read(teacher, ArmNetwork)
    if has_seen_what_is_held_back(learnt_on(teacher)) and not has_seen_what_is_held_back(asdict(generator)):
        raise BadInput(
            f"--teacher {teacher} has seen what --held-back holds back; "
            "allowed is one that `backburn train --held-back` wrote"
        )
    here = device if ray_address is None else "cpu"  # workers elsewhere have cards of their own
    _require(path, here, practice.seed, workers)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "lock").touch()
    except OSError as error:
        raise BadInput(f"--run-dir {folder}: cannot be made or written: {error.strerror}") from error
    torch.set_num_threads(threads)
    began_s = time.monotonic()
    origin = {
        "generator": _plain(asdict(generator)),
        "clusters": _CLUSTERS,
        "teacher": record_of(teacher)["sha256"],
        "simulator": VERSION,
        "encoding": encoding.VERSION,
        "rule": RULE,
    }
    with alone(folder / "lock", lambda pid: BadInput(f"a training (pid {pid}) is at work in {folder} already")):
        went_on = has_begun(folder)
        if workers > 1 or ray_address is not None:
            from .ppo.together import Group, practised_together

            group = Group(workers, threads, device, ray_address, generator, _CLUSTERS, _ASIDE, ASIDE_SEED)
            policy = practised_together(group, practice, network, folder, origin)
        else:
            policy = _alone(practice, generator, console, network, folder, device, origin).cpu()
    record = _machine(device, threads, began_s) | {
        "workers": workers,
        "went_on": went_on,  # after it was cut off; the seconds are those of the last start
        "experiments": practice.experiments * workers,
        "practice": asdict(practice),
        "teacher": origin["teacher"],
    }
    network = network.cpu()
    choosers = {
        "ppo": preferring(policy),
        "ppo as it ships": floored(preferring(policy, learns=True), RARELY),
        "posterior": greedily(network),
        "static": statically(network),
    }
    _graduate(policy, generator, path, console, record, choosers)


def _alone(
    practice: Practice,
    generator: Generator,
    console: Console,
    network: ArmNetwork,
    folder: Path,
    device: str,
    origin: Mapping[str, Any],
) -> SetPolicy:
    keeper = FolderKeeper(folder)
    require_same(folder, practice, origin)
    pool = _pool(generator, practice.seed, console)

    def tell(standing: Standing) -> None:
        _say(
            console,
            f"step {standing.step}/{practice.steps}  area {standing.area:.3f} (best {standing.best:.3f})  "
            f"{standing.steps_per_s:,.0f} experiments/s  {standing.left_s:.0f} s left",
        )

    return practised(
        pool.to(device),
        pool_of(generator, _ASIDE, seed=ASIDE_SEED).to(device),
        practice,
        network.to(device),
        keeper,
        origin,
        tell,
        lambda text: _say(console, text),
    )


def held_out(choosers: Mapping[str, Chooser], generator: Generator) -> dict[str, dict[str, float]]:
    """Returns the figures of policies and their rivals on clusters that nobody has learnt on; see `arena.compared`.

    Args:
        choosers: the policies that have learnt.
        generator: of the clusters.
    """
    pool = pool_of(generator, _HELD_OUT, seed=SEED)
    everybody: dict[str, Chooser] = {
        **{
            name: one_by_one([make(np.random.default_rng(seed)) for seed in range(_HELD_OUT)])
            for name, make in UNLEARNED.items()
        },
        "random": randomly(0),
        **choosers,
        "oracle": knowing,
    }
    tallies: dict[str, Tally] = {
        name: tallied(choose, pool, budget_min=_BUDGET_MIN, seed=LUCK_SEED) for name, choose in everybody.items()
    }
    return compared({name: [tally] for name, tally in tallies.items()})


def table(figures: dict[str, dict[str, float]]) -> Table:
    """Returns figures as a table, the best first."""
    shown = Table("policy", "area (random 0, oracle 1)", "95 %", "severity", "weaknesses", "false")
    for name, of in sorted(figures.items(), key=lambda item: -item[1]["auc"]):
        shown.add_row(
            name,
            f"{of['auc']:.3f}",
            f"{of['low']:.3f} to {of['high']:.3f}",
            f"{of['severity']:.2f}",
            f"{of['discoveries']:.2f}",
            f"{of['fdr']:.1%}",
        )
    return shown


def _plain(value: Any) -> Any:  # noqa: ANN401 (any JSON)
    """Returns sets as sorted lists, all the way down."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return sorted(value) if isinstance(value, frozenset) else value


def _require(path: Path, device: str, seed: int, workers: int = 1) -> None:
    if path.suffix != ".safetensors" or path.exists():
        raise BadInput(f"--out {path}: {'exists already' if path.exists() else 'has to end in .safetensors'}")
    beside = path.with_suffix(".json")
    if beside.exists() and "sha256" not in record_of(path):
        raise BadInput(f"--out {path}: would replace {beside}, which describes no policy; allowed is another name")
    if device == "cuda" and not torch.cuda.is_available():
        raise BadInput("--device cuda: PyTorch sees no GPU here; allowed is cpu")
    if device == "cuda" and torch.cuda.device_count() < workers:
        raise BadInput(f"--workers {workers}: PyTorch sees {torch.cuda.device_count()} GPU(s) here, and each needs one")
    if seed >= ASIDE_SEED:
        raise BadInput(f"--seed {seed}; allowed is 0 to {ASIDE_SEED - 1}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise BadInput(f"--out {path}: cannot write there: {error.strerror}") from error


def _pool(generator: Generator, seed: int, console: Console) -> Pool:
    pool = pool_of(generator, _CLUSTERS, seed=seed)
    _say(console, f"{len(pool)} clusters; choosing at random hits {hit_rate(pool):.1%}")
    return pool


def _machine(device: str, threads: int, began_s: float) -> dict[str, Any]:
    return {
        "device": f"{platform.machine()} CPU, {threads} thread(s)" if device == "cpu" else _card(),
        "torch": torch.__version__,
        "seconds": round(time.monotonic() - began_s, 1),
    }


def _card() -> str:
    """Returns the name of this machine's GPU; who learnt on other machines' has none here."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "GPUs of a Ray cluster"


def _graduate(
    network: Network,
    generator: Generator,
    path: Path,
    console: Console,
    record: Mapping[str, Any],
    choosers: Mapping[str, Chooser],
) -> None:
    """Tries what has learnt on clusters held out, and writes it down."""
    figures = held_out(choosers, generator)
    console.print(table(figures))
    tried = {"simulator": VERSION, "clusters": _HELD_OUT, "budget_min": _BUDGET_MIN, "figures": figures}
    store(network, path, {**record, "generator": _plain(asdict(generator)), "held_out": tried})
    _say(console, f"policy: {path}")


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True)
