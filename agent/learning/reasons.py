"""Why an experiment was chosen: what its policy believed, what it hoped for, and what others would have taken."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch

from .arms import Arms
from .floor import FlooredPolicy
from .policy import Mask, Observation, Policy
from .worth import lately_of, minutes_of


@runtime_checkable
class Believes(Protocol):
    """A policy that can say how likely it holds each arm to be weak, and what an experiment on it is worth to it."""

    def odds(self, observation: Observation, mask: Mask) -> npt.NDArray[np.float64]:
        """Returns the probability that an arm is weak, as the policy believes now, shape (arms,)."""
        ...

    def worth(self, observation: Observation, mask: Mask) -> npt.NDArray[np.float64]:
        """Returns the severity per minute that the policy hopes to confirm on an arm, shape (arms,)."""
        ...


@dataclass(frozen=True, slots=True)
class Reason:
    """Why one experiment was chosen.

    Attributes:
        odds: how likely the policy held it to show a weakness; None where it holds nothing.
        gain: severity that it hoped to confirm with this experiment; None likewise.
        minutes: what the experiment was expected to cost.
        rivals: what other policies would have taken, by name.
        new_kind: whether the policy gave way to a kind of fault that was never tried here; see `floor`.
    """

    odds: float | None
    gain: float | None
    minutes: float
    rivals: Mapping[str, str]
    new_kind: bool = False

    def to_json(self) -> dict[str, Any]:
        """Returns the reason as JSON."""
        return asdict(self) | {"rivals": dict(self.rivals), "said": str(self)}

    def __str__(self) -> str:
        believed = (
            "its turn"
            if self.odds is None or self.gain is None
            else f"held to be weak with a probability of {self.odds:.0%}, worth {self.gain:.2f}"
        )
        others = ", ".join(f"{name} would take {what}" for name, what in self.rivals.items())
        believed = f"never tried here, and so its turn; {believed}" if self.new_kind else believed
        return f"{believed}, for about {self.minutes:.1f} min" + (f"; {others}" if others else "")


class Explainer:
    """Says why a policy chose what it chose.

    Args:
        policy: chose.
        rivals: are asked what they would have taken; what they draw is no draw of the policy's.
        described: says what an action is.
    """

    def __init__(self, policy: Policy, rivals: Mapping[str, Policy], described: Callable[[int], str]) -> None:
        self._policy = policy
        self._rivals = rivals
        self._described = described

    def reason(self, observation: Observation, mask: Mask, action: int) -> Reason | None:
        """Returns why an action was chosen; None for `stop`."""
        if action == len(mask) - 1:
            return None
        rivals = {name: rival.choose(observation, mask) for name, rival in self._rivals.items()}
        others = {name: self._described(choice) if choice != action else "the same" for name, choice in rivals.items()}
        seen = {name: torch.as_tensor(values)[None] for name, values in observation.items()}
        arms = Arms.of(seen)
        minutes = float(minutes_of(arms, lately_of(arms)).flatten()[action])
        new_kind = isinstance(self._policy, FlooredPolicy) and self._policy.gives_way(observation, mask)
        if not isinstance(self._policy, Believes):
            return Reason(None, None, minutes, others, new_kind)
        odds, worth = (each(observation, mask)[action] for each in (self._policy.odds, self._policy.worth))
        return Reason(float(odds), float(worth) * minutes, minutes, others, new_kind)
