"""Posterior-greedy: a network says how likely each arm is weak given all that was seen; the best bet is next.

Where weaknesses are independent and costs are equal, nothing does much better (Golovin and Krause, "Adaptive
submodularity: theory and applications in active learning and stochastic optimization", JAIR 42, 2011). The network
learns on simulated clusters, whose truth is known (`agent.learning.train`), and is frozen on a real one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from .arms import ARM_INPUTS, Surroundings
from .head import Head
from .policy import Mask, Observation, require_sense
from .worth import worth_on

_BLOCK = 4096
"""Arms that a processor looks at together: as many as its caches hold. A GPU looks at all of them."""


class Odds(NamedTuple):
    """What is believed of arms, shape (B, A) each.

    Attributes:
        weak: how likely they are weak; 0 where they are masked.
        new: how likely it is, if they are, that nobody knows yet what they show to be missing; 1 where they are masked.
    """

    weak: torch.Tensor
    new: torch.Tensor


class ArmNetwork(nn.Module):
    """Log-odds that an arm is weak, and that this would be new, from its inputs alone, whatever the cluster's size.

    Args:
        hidden: width.
    """

    def __init__(self, hidden: int = 64) -> None:
        super().__init__()
        self.hidden = hidden
        self.layers = nn.Sequential(
            nn.Linear(len(ARM_INPUTS), hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, 2),
        )

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Returns log-odds, shape (N, 2), for inputs of shape (N, len(ARM_INPUTS)): weak, and new if so."""
        odds: torch.Tensor = self.layers(inputs)
        return odds


def odds_of(network: ArmNetwork, around: Surroundings, masks: torch.Tensor) -> Odds:
    """Returns what a network believes of arms.

    Args:
        network: knows.
        around: what is seen.
        masks: of arms, without `stop`, shape (B, A), bool.
    """
    rows, arms = masks.nonzero(as_tuple=True)
    weak, new = torch.zeros(masks.shape, device=masks.device), torch.ones(masks.shape, device=masks.device)
    block = _BLOCK if masks.device.type == "cpu" else max(1, len(rows))
    for row, arm in zip(torch.split(rows, block), torch.split(arms, block), strict=True):
        weak[row, arm], new[row, arm] = network(around.inputs(row, arm)).sigmoid().unbind(-1)
    return Odds(weak, new)


def believed(network: ArmNetwork, around: Surroundings, masks: torch.Tensor, head: Head | None = None) -> Odds:
    """Returns the same as `odds_of`, how likely arms are weak corrected by a head if there is one."""
    odds = odds_of(network, around, masks)
    return odds if head is None else odds._replace(weak=head.corrected(around, odds.weak))


def best_bets(network: ArmNetwork, around: Surroundings, masks: torch.Tensor, head: Head | None = None) -> torch.Tensor:
    """Returns for every cluster the arm that is worth most per minute, int64, shape (B,); `stop` where none is allowed.

    Args:
        network: knows how likely arms are weak, and show something new.
        around: what is seen.
        masks: of all actions, shape (B, A + 1), bool.
        head: corrects what the network thinks of these clusters; learns from what is seen.
    """
    allowed = masks[:, :-1]
    odds = believed(network, around, allowed, head)
    worth = worth_on(around, *odds).flatten(1)
    best = worth.masked_fill(~allowed, -1.0).argmax(1)
    return torch.where(allowed.any(1), best, masks.shape[1] - 1)


class PosteriorPolicy:
    """Takes the best bet; what it knows is in the network, in the observation, and in a head for this cluster alone.

    Args:
        network: trained; is not changed.
    """

    def __init__(self, network: ArmNetwork) -> None:
        self._network = network.eval().requires_grad_(requires_grad=False)
        self._head = Head()

    def choose(self, observation: Observation, mask: Mask) -> int:
        """Returns the allowed experiment that is worth most per minute; stops where none is allowed.

        Raises:
            BadInput: the observation holds something that is no number.
        """
        seen, masks = batch_of_one(observation, mask)
        return int(best_bets(self._network, Surroundings.of(seen), masks, self._head)[0])

    def odds(self, observation: Observation, mask: Mask) -> npt.NDArray[np.float64]:
        """Returns how likely each arm is weak, shape (A,); 0 where it is masked."""
        seen, masks = batch_of_one(observation, mask)
        odds = believed(self._network, Surroundings.of(seen), masks[:, :-1], self._head)
        known: npt.NDArray[np.float64] = odds.weak[0].double().numpy()
        return known

    def worth(self, observation: Observation, mask: Mask) -> npt.NDArray[np.float64]:
        """Returns what each arm is worth per minute, shape (A,); 0 where it is masked."""
        seen, masks = batch_of_one(observation, mask)
        return worth_of_one(self._network, seen, masks, self._head)


def worth_of_one(
    network: ArmNetwork, seen: Mapping[str, torch.Tensor], masks: torch.Tensor, head: Head | None
) -> npt.NDArray[np.float64]:
    """Returns what arms of one cluster are worth per minute to whoever believes a network, shape (A,)."""
    around = Surroundings.of(seen)
    worth = worth_on(around, *believed(network, around, masks[:, :-1], head))
    numbers: npt.NDArray[np.float64] = worth.flatten().double().numpy()
    return numbers


def batch_of_one(observation: Observation, mask: Mask) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Returns an observation and a mask as a batch.

    Raises:
        BadInput: see `require_sense`.
    """
    require_sense(observation, mask)
    seen = {name: torch.as_tensor(values)[None] for name, values in observation.items()}
    return seen, torch.as_tensor(mask)[None]
