"""Training over Ray Train: each worker plays campaigns of its own, and all learn one network (`averaging`).

A worker that is lost ends the group; Ray Train starts all of it anew, and everybody goes on from the last checkpoint,
to which each had brought its part. So does a training that was cut off as a whole and is started again in its folder.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from actuators.errors import BackburnError, BadInput
from envs.simulator.pool import pool_of
from envs.simulator.structure import Generator

from ..local_ray import local_ray
from ..posterior import ArmNetwork
from . import checkpoint
from .choosing import new_policy
from .practice import Practice, Standing, practised
from .set_policy import SetPolicy

_RESTARTS = 20
_RUN = "group"


@dataclass(frozen=True, slots=True)
class Group:
    """Who trains together, and on what.

    Attributes:
        workers: how many.
        threads: of the processor, each.
        device: cpu or cuda, one card each.
        address: of a Ray cluster to run on; one of our own on this host if not given.
        generator: of the clusters.
        clusters: how many to learn on; everybody draws the same ones.
        aside: how many to judge by.
        aside_seed: of these.
    """

    workers: int
    threads: int
    device: str
    address: str | None
    generator: Generator
    clusters: int
    aside: int
    aside_seed: int


class RayKeeper:
    """Keeps every worker's part of a checkpoint in one of Ray Train's; see `practice.Keeper`.

    Args:
        folder: for logs.
        scratch: for what is on its way.
    """

    def __init__(self, folder: Path, scratch: Path) -> None:
        from ray.train.v2.api import train_fn_utils

        self._train = train_fn_utils
        self.folder = folder
        self.rank = int(train_fn_utils.get_context().get_world_rank())
        self._scratch = scratch

    def last(self) -> Path | None:
        """See `practice.Keeper`."""
        found = self._train.get_checkpoint()
        return None if found is None else Path(found.to_directory(str(self._scratch / "last"))) / _part(self.rank)

    def keep(self, write: Callable[[Path], None], figures: Mapping[str, float]) -> None:
        """See `practice.Keeper`; waits for all others."""
        from ray.train import Checkpoint

        with tempfile.TemporaryDirectory(dir=self._scratch) as place:
            write(Path(place) / _part(self.rank))
            self._train.report(dict(figures), checkpoint=Checkpoint.from_directory(place))


def practised_together(
    group: Group, practice: Practice, teacher: ArmNetwork, folder: Path, origin: Mapping[str, Any]
) -> SetPolicy:
    """Returns a policy that a group of workers has trained; see `practice.practised`.

    Args:
        group: who, and on what.
        practice: how; steps and batch are those of every worker.
        teacher: what it begins as.
        folder: of checkpoints and logs; on a Ray cluster of several hosts they have to share it.
        origin: which clusters and which teacher these are, JSON.

    Raises:
        BadInput: the folder holds another training.
        BackburnError: Ray did not start, or training failed again and again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    folder = folder.absolute()
    checkpoint.require_same(folder, practice, origin, workers=group.workers, over_ray=True)
    settings = {
        "group": group,
        "practice": practice,
        "teacher": (teacher.hidden, {name: value.cpu() for name, value in teacher.state_dict().items()}),
        "folder": str(folder),
        "origin": dict(origin),
    }
    if group.address is not None:
        last = _joined(group, settings, folder)
    else:
        gpus = group.workers if group.device == "cuda" else 0
        with local_ray(folder, cpus=group.workers * group.threads, gpus=gpus):
            last = _fitted(group, settings, folder)
    best = new_policy(practice.hidden, teacher.hidden)
    best.load_state_dict(checkpoint.under("best", load_file(last / _part(0))))
    return best.eval()


def _joined(group: Group, settings: Mapping[str, Any], folder: Path) -> Path:
    import ray

    try:
        ray.init(group.address, configure_logging=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise BadInput(f"--ray-address {group.address}: {str(error).splitlines()[0]}") from error
    try:
        return _fitted(group, settings, folder)
    finally:
        ray.shutdown()


def _fitted(group: Group, settings: Mapping[str, Any], folder: Path) -> Path:
    """Runs the group to its end; returns the folder of its last checkpoint."""
    from ray.train.torch.config import TorchConfig
    from ray.train.v2.api.config import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig

    from envs.staging.own_ray_train import LocalTorchConfig, OwnTrainer

    backend = "nccl" if group.device == "cuda" else "gloo"
    meetings = folder / "meetings"
    meetings.mkdir(exist_ok=True)
    trainer = OwnTrainer(
        _work,
        train_loop_config=dict(settings),
        torch_config=LocalTorchConfig(backend=backend, folder=str(meetings))
        if group.address is None
        else TorchConfig(backend=backend),
        scaling_config=ScalingConfig(
            num_workers=group.workers,
            use_gpu=group.device == "cuda",
            resources_per_worker={"CPU": group.threads},
        ),
        run_config=RunConfig(
            name=_RUN,
            storage_path=str(folder),
            # A cluster that has no room for them is a failure of its own kind, tried again without end if not told.
            failure_config=FailureConfig(max_failures=_RESTARTS, controller_failure_limit=_RESTARTS),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    )
    try:
        result = trainer.fit()
    except Exception as error:  # its own error holds those of all workers, of any type
        raise BackburnError(
            f"training failed, in spite of up to {_RESTARTS} restarts: {str(error).strip().splitlines()[-1]}"
        ) from error
    if result.checkpoint is None:
        raise BackburnError(f"training left no checkpoint in {folder}")
    return Path(result.checkpoint.path)


def _work(settings: dict[str, Any]) -> None:
    """What every worker does."""
    group: Group = settings["group"]
    torch.set_num_threads(group.threads)
    # Ray Train says something at every checkpoint, in the name of a file: its own log level does not reach that.
    logging.getLogger().setLevel(logging.WARNING)
    hidden, weights = settings["teacher"]
    teacher = ArmNetwork(hidden)
    teacher.load_state_dict(weights)
    pool = pool_of(group.generator, group.clusters, seed=settings["practice"].seed)
    aside = pool_of(group.generator, group.aside, seed=group.aside_seed)
    # Among the files of a Ray of ours, where it ends with them: who is killed removes nothing.
    with tempfile.TemporaryDirectory(prefix="bb-", dir=os.environ.get("RAY_TMPDIR")) as scratch:
        keeper = RayKeeper(Path(settings["folder"]), Path(scratch))

        def say(text: str) -> None:
            if keeper.rank == 0:
                print(text, flush=True)  # noqa: T201 (Ray brings it to the driver)

        def tell(standing: Standing) -> None:
            say(
                f"step {standing.step}/{settings['practice'].steps}  area {standing.area:.3f} "
                f"(best {standing.best:.3f})  {standing.steps_per_s:,.0f} experiments/s of each of {group.workers}  "
                f"{standing.left_s:.0f} s left"
            )

        practised(
            pool.to(group.device),
            aside.to(group.device),
            settings["practice"],
            teacher.to(group.device),
            keeper,
            settings["origin"],
            tell,
            say,
        )


def _part(rank: int) -> str:
    """Returns the name of a worker's part of a checkpoint."""
    return f"{rank}-{checkpoint.NAME}"
