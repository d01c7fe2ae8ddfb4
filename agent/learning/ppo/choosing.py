"""The PPO policy as one that chooses: for all simulated campaigns at once, and for one cluster."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces

from envs.simulator.campaigns import Campaigns

from ..arena import Chooser
from ..arms import Surroundings
from ..head import Head
from ..policy import Mask, Observation
from ..posterior import batch_of_one, believed, worth_of_one
from ..worth import worth_per_minute
from .set_policy import SetPolicy


def new_policy(hidden: int, teacher: int | None = None) -> SetPolicy:
    """Returns a policy that knows nothing yet; spaces say nothing of its network, which serves any size.

    Args:
        hidden: its width.
        teacher: that of its teacher; see `SetPolicy`.
    """
    anything = spaces.Dict({"budget": spaces.Box(0.0, 1.0, (1,))})
    return SetPolicy(anything, spaces.Discrete(2), lambda _: 0.0, hidden=hidden, teacher=teacher)


def preferring(policy: SetPolicy, *, learns: bool = False) -> Chooser:
    """Returns the policy's likeliest choices.

    Args:
        policy: chooses.
        learns: as in `arena.greedily`.
    """
    head = Head() if learns else None

    def choose(campaigns: Campaigns) -> torch.Tensor:
        return policy.choose(policy.looks_on(campaigns, head), deterministic=True)[0]

    return choose


class PpoPolicy:
    """Takes the likeliest choice of a frozen network, whose teacher has a head for this cluster alone.

    Args:
        network: trained; is not changed.
    """

    def __init__(self, network: SetPolicy) -> None:
        self._policy = network.eval().requires_grad_(requires_grad=False)
        self._head = Head()

    def choose(self, observation: Observation, mask: Mask) -> int:
        """Returns the experiment that the network prefers; stops where it prefers that, or where none is allowed.

        Raises:
            BadInput: the observation holds something that is no number.
        """
        seen, masks = batch_of_one(observation, mask)
        return int(self._policy.choose(self._policy.looks_at(seen, masks, self._head), deterministic=True)[0][0])

    def odds(self, observation: Observation, mask: Mask) -> npt.NDArray[np.float64]:
        """Returns how likely each arm is weak, shape (A,); 0 where it is masked."""
        seen, masks = batch_of_one(observation, mask)
        if self._policy.teacher_hidden is not None:
            teacher, around = self._policy.network.teacher, Surroundings.of(seen)
            known: npt.NDArray[np.float64] = (
                believed(teacher, around, masks[:, :-1], self._head).weak[0].double().numpy()
            )
            return known
        looks = self._policy.looks_at(seen, masks)
        _, components, per_component = looks.open.shape
        each = torch.arange(components)
        everywhere = looks._replace(
            **{
                name: values.expand(components, *values.shape[1:])
                for name, values in looks._asdict().items()
                if values is not None
            }
        )
        weak = self._policy.weak(everywhere.at(each), each * per_component)
        odds: npt.NDArray[np.float64] = (weak.sigmoid() * looks.open[0]).flatten().double().numpy()
        return odds

    def worth(self, observation: Observation, mask: Mask) -> npt.NDArray[np.float64]:
        """Returns what each arm is worth per minute by these odds, shape (A,); 0 where it is masked."""
        seen, masks = batch_of_one(observation, mask)
        if self._policy.teacher_hidden is not None:
            return worth_of_one(self._policy.network.teacher, seen, masks, self._head)
        odds = torch.as_tensor(self.odds(observation, mask)).view(seen["arms"].shape[:4])
        worth: npt.NDArray[np.float64] = worth_per_minute(seen, odds).flatten().double().numpy()
        return worth
