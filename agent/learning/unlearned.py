"""Policies that have learnt nothing elsewhere, by name: what anybody can compare a learned one with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np

from ..settings import PACKAGED
from .incident import IncidentPolicy, incidents_in
from .policy import Policy, RandomPolicy
from .rivals import GeneticPolicy, RoundRobinPolicy, UcbPolicy
from .thompson import ThompsonPolicy

UNLEARNED: Final[Mapping[str, Callable[[np.random.Generator], Policy]]] = {
    "random": RandomPolicy,
    "round_robin": lambda _: RoundRobinPolicy(),
    "ucb": UcbPolicy,
    "genetic": GeneticPolicy,
    "incident": lambda random: IncidentPolicy(incidents_in(PACKAGED / "incidents.yaml"), random),
    "thompson": ThompsonPolicy,
}
"""From a name to who makes the policy, given what it draws from."""
