"""PPO from a teacher on: a critic that learns first, then PPO on a leash, judged on clusters set aside.

What is kept in the end is the policy that did best on clusters that are neither learnt on nor used to compare policies.
A training that was cut off goes on where its last checkpoint was. Several may learn one network together (`together`):
each plays campaigns of its own, and they average what they learn.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Protocol, cast

import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.utils import LinearSchedule

from envs.simulator.campaigns import Campaigns
from envs.simulator.pool import Pool

from ..arena import Chooser, knowing, randomly, tallied
from ..posterior import ArmNetwork
from . import checkpoint
from .choosing import new_policy, preferring
from .device import DevicePPO
from .event_file import EventFile
from .set_policy import SetPolicy

RULE: Final = 2
"""Version of how is learnt: a training goes on by the same rule only. 2: workers average once per rollout."""

_ASIDE_MIN = 20.0
_SEEDS_APART = 1000


@dataclass(frozen=True, slots=True)
class Practice:
    """How a policy is trained.

    Attributes:
        steps: experiments on each cluster of the batch.
        batch: clusters at once, of every worker.
        rollout: experiments on each cluster between two updates.
        minibatch: experiments per gradient.
        epochs: passes over a rollout.
        critic_first: rollouts from which only the value is learnt.
        rate: learning rate at first; it falls in a line, and is nothing at the last rollout.
        leash: price of straying from the teacher, per nat.
        discount: of rewards, per experiment.
        trace: lambda of GAE: how far the critic is distrusted. One that is privileged deserves trust.
        clip: of PPO.
        hurries: see `device.DevicePPO`.
        hidden: width of the network.
        judged_every: rollouts between two looks at the clusters set aside, and between two checkpoints.
        budget_min: least and most minutes of a campaign.
        seed: of every draw.
    """

    steps: int = 6400
    batch: int = 512
    rollout: int = 32
    minibatch: int = 1024
    epochs: int = 6
    critic_first: int = 3
    rate: float = 2e-3
    leash: float = 0.01
    discount: float = 0.99
    trace: float = 0.5
    clip: float = 0.15
    hurries: bool = True
    hidden: int = 16
    judged_every: int = 5
    budget_min: tuple[float, float] = (10.0, 60.0)
    seed: int = 0

    @property
    def experiments(self) -> int:
        """How many one worker plays: rollouts are whole."""
        return math.ceil(self.steps / self.rollout) * self.rollout * self.batch


@dataclass(frozen=True, slots=True)
class Standing:
    """How far training is.

    Attributes:
        step: experiments on each cluster of the batch.
        area: of the policy on the clusters set aside, random 0 and oracle 1.
        best: the highest so far.
        steps_per_s: experiments per second, all clusters together, since it began or went on.
        left_s: seconds that it will still take.
    """

    step: int
    area: float
    best: float
    steps_per_s: float
    left_s: float


class Keeper(Protocol):
    """Keeps checkpoints.

    Attributes:
        folder: for logs.
        rank: which of those that learn together this is; the first one judges.
    """

    folder: Path
    rank: int

    def last(self) -> Path | None:
        """Returns the newest checkpoint, None if there is none."""

    def keep(self, write: Callable[[Path], None], figures: Mapping[str, float]) -> None:
        """Keeps a checkpoint in the place of the last one.

        Args:
            write: writes it to a path.
            figures: how training stands.
        """


class FolderKeeper:
    """Keeps the checkpoint of a training that learns alone in a folder; see `Keeper`."""

    rank = 0

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder

    def last(self) -> Path | None:
        """See `Keeper`."""
        path = self.folder / checkpoint.NAME
        return path if path.exists() else None

    def keep(self, write: Callable[[Path], None], figures: Mapping[str, float]) -> None:
        """See `Keeper`."""
        write(self.folder / checkpoint.NAME)


def practised(
    pool: Pool,
    aside: Pool,
    practice: Practice,
    teacher: ArmNetwork,
    keeper: Keeper,
    origin: Mapping[str, Any],
    tell: Callable[[Standing], None] = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
) -> SetPolicy:
    """Returns a policy that was trained on a pool's clusters.

    Args:
        pool: clusters, on the device to learn on.
        aside: clusters by which the best policy is picked, on the same device.
        practice: how.
        teacher: what it begins as; see `SetPolicy`.
        keeper: of checkpoints; a training that was cut off goes on from its last one.
        origin: which clusters and which teacher these are, JSON; a training goes on with the same ones only.
        tell: hears of the progress now and then.
        say: is told what begins.

    Raises:
        BadInput: the checkpoint is damaged or of another training.
    """
    model, last = _model(pool, practice, teacher, keeper.rank), keeper.last()
    beside = {name: new_policy(practice.hidden, teacher.hidden) for name in ("usual", "best")}
    aim = Aim(aside) if keeper.rank == 0 else None
    settings = {"practice": asdict(practice), "origin": dict(origin)}
    if last is not None:
        best = checkpoint.restore(model, beside, last, settings)["best"]
        say(f"goes on after {model.num_timesteps // practice.batch} of {practice.steps} steps")
    else:
        best = aim.area(model.policy) if aim is not None else 0.0
        say(f"begins as its teacher; area {best:.3f}")
        for policy in beside.values():
            policy.load_state_dict(model.policy.acting())
    model.policy.leashed_to(beside["usual"].to(model.device))
    left = practice.steps * practice.batch - model.num_timesteps
    if left > 0:
        log = str(keeper.folder / f"log-{model.num_timesteps}")
        model.set_logger(configure(log, ["csv"] if aim is not None else []))
        if aim is not None:
            model.logger.output_formats.append(EventFile(log))
        watch = _Watch(practice, aim, beside, keeper, settings, best, tell)
        try:
            model.learn(left, callback=watch, reset_num_timesteps=False)
            watch.look()
            model.logger.record("time/total_timesteps", model.num_timesteps, exclude="tensorboard")
            model.logger.dump(model.num_timesteps)  # SB3 does so before it learns from a rollout, and not at the end
        finally:
            model.logger.close()
    return beside["best"].eval()


def _model(pool: Pool, practice: Practice, teacher: ArmNetwork, rank: int) -> DevicePPO:
    seed = practice.seed + _SEEDS_APART * rank
    model = DevicePPO(
        Campaigns(pool, practice.batch, budget_min=practice.budget_min),
        critic_first=practice.critic_first,
        weak_epochs=0,  # the teacher knows how likely arms are weak, and nobody asks that head
        hurries=practice.hurries,
        n_steps=practice.rollout,
        batch_size=practice.minibatch,
        n_epochs=practice.epochs,
        learning_rate=LinearSchedule(practice.rate, 0.0, 1.0),
        clip_range=practice.clip,
        gamma=practice.discount,
        gae_lambda=practice.trace,
        ent_coef=practice.leash,
        seed=practice.seed,
        policy_kwargs={
            "hidden": practice.hidden,
            "teacher": teacher.hidden,
            "privileged": True,
        },
    )
    model.policy.network.teacher.load_state_dict(teacher.state_dict())
    # All begin as the same network, and then have luck of their own: SB3 has seeded the campaigns with its own seed.
    torch.manual_seed(seed)
    model.campaigns.begin(torch.arange(practice.batch, device=model.device), seed=seed + 2)
    return model


class Aim:
    """What is aimed at: the area under the discovery curve on clusters set aside.

    Args:
        aside: the clusters.
    """

    def __init__(self, aside: Pool) -> None:
        self._aside = aside
        self._chance, self._truth = (self._mean(choose) for choose in (randomly(0), knowing))

    def area(self, policy: SetPolicy) -> float:
        """Returns a policy's area, 0 for chance and 1 for the oracle."""
        return (self._mean(preferring(policy)) - self._chance) / (self._truth - self._chance)

    def _mean(self, choose: Chooser) -> float:
        return float(tallied(choose, self._aside, budget_min=_ASIDE_MIN, seed=0).area.mean())


class _Watch(BaseCallback):
    """Looks at the clusters set aside, keeps the best policy, and has checkpoints kept between two rollouts."""

    def __init__(
        self,
        practice: Practice,
        aim: Aim | None,
        beside: Mapping[str, SetPolicy],
        keeper: Keeper,
        settings: Mapping[str, Any],
        best: float,
        tell: Callable[[Standing], None],
    ) -> None:
        super().__init__()
        self._practice, self._aim, self._beside, self._tell = practice, aim, beside, tell
        self._keeper, self._settings, self._best = keeper, settings, best
        self._rollouts, self._began_s, self._began_at = 0, time.monotonic(), 0

    def _on_training_start(self) -> None:
        self._began_s, self._began_at = time.monotonic(), self.model.num_timesteps

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        if self._rollouts and self._rollouts % self._practice.judged_every == 0:
            self.look()
        self._rollouts += 1

    def look(self) -> None:
        """Judges the policy as it is now, and writes a checkpoint."""
        model = cast("DevicePPO", self.model)
        area = self._best if self._aim is None else self._aim.area(model.policy)
        if area > self._best:
            self._best = area
            self._beside["best"].load_state_dict(model.policy.acting())
        self.logger.record("aside/area", area)
        self._keeper.keep(
            lambda path: checkpoint.store(model, self._beside, path, self._settings, best=self._best),
            {"area": area, "best": self._best, "timesteps": float(model.num_timesteps)},
        )
        per_s = (model.num_timesteps - self._began_at) / (time.monotonic() - self._began_s)
        left = self._practice.steps * self._practice.batch - model.num_timesteps
        self._tell(Standing(model.num_timesteps // self._practice.batch, area, self._best, per_s, max(0, left) / per_s))
