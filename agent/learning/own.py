"""A policy of the user's own, named by what makes it: `module:function`."""

from __future__ import annotations

import importlib
import operator
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from actuators.errors import BackburnError, BadInput

from .policy import Mask, Observation, Policy

_NAME = re.compile(r"(?P<module>[A-Za-z_]\w*(\.\w+)*):(?P<function>[A-Za-z_]\w*)", re.ASCII)


class OwnPolicy:
    """Asks somebody's policy, and takes no answer that is none.

    An action that is masked is one: the door refuses it, and a comparison counts it.

    Args:
        name: as it was named.
        policy: theirs.
    """

    def __init__(self, name: str, policy: Policy) -> None:
        self._name = name
        self._policy = policy

    def choose(self, observation: Observation, mask: Mask) -> int:
        """Returns their action.

        Raises:
            BackburnError: they raise something themselves, or return what is no action.
        """
        try:
            action = operator.index(self._policy.choose(observation, mask))
        except Exception as error:  # of their code, anything; without their name it would pass for a defect of ours
            raise BackburnError(f"policy {self._name}: {type(error).__name__}: {error}") from error
        if not 0 <= action < len(mask):
            raise BackburnError(f"policy {self._name} chose {action}; allowed are 0 to {len(mask) - 1}")
        return action


def is_own(name: str) -> bool:
    """Tells whether a policy is named by what makes it."""
    return _NAME.fullmatch(name) is not None


def own_policy(name: str, folder: Path) -> Callable[[np.random.Generator], Policy]:
    """Returns what makes a policy, given the source of its luck.

    Args:
        name: `module:function`; the function is called with a `numpy.random.Generator` and returns a policy.
        folder: where the module is looked for if it is nowhere else.

    Raises:
        BadInput: there is no such module or function; from what is returned, that no policy comes of it.
    """
    parts = _NAME.fullmatch(name)
    if parts is None:
        raise BadInput(f"policy {name!r}; allowed is module:function")
    if str(folder) not in sys.path:
        sys.path.append(str(folder))  # last: nothing there takes the place of anybody else's module
    try:
        function: Any = getattr(importlib.import_module(parts["module"]), parts["function"])
    except Exception as error:  # of their module, anything
        raise BadInput(f"policy {name} cannot be imported: {type(error).__name__}: {error}") from error

    def make(random: np.random.Generator) -> Policy:
        try:
            policy = function(random)
        except Exception as error:  # likewise
            raise BadInput(f"policy {name} cannot be made: {type(error).__name__}: {error}") from error
        if not callable(getattr(policy, "choose", None)):
            raise BadInput(f"policy {name} is {type(policy).__name__}; allowed is what has choose(observation, mask)")
        return OwnPolicy(name, policy)

    return make
