"""The rival that knows what was planted. Only a benchmark may ask it.

It runs the first sign of every planted switch, the strongest level that tells something about it first, each as often
as its confirmation needs, the cheapest switch first. What nobody planted it does not look for, nor for another sign of
a switch whose first one other weaknesses hide: a policy that sees through that may find what it does not.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from envs.chaos import ChaosEnv

from ..findings.ground_truth import SWITCHES, Sign
from ..learning.planned import PlannedPolicy

ORACLE = "oracle"


def oracle_of(env: ChaosEnv, planted: Mapping[str, str]) -> PlannedPolicy:
    """Returns the oracle of one cluster.

    Args:
        env: the environment on it, already reset.
        planted: every switch and whether it is weak.
    """
    plan = [_actions(env, signs[0]) for switch, signs in SWITCHES.items() if planted.get(switch) == "weak"]
    return PlannedPolicy(sorted(filter(None, plan), key=lambda actions: _duration_s(env, actions[0])))


def _actions(env: ChaosEnv, sign: Sign) -> list[int]:
    """Returns the actions that could show a sign, the strongest first."""
    offered = np.flatnonzero(env.state.available[0].numpy().reshape(-1)).tolist()
    faults = [(action, fault) for action in offered if (fault := env.code.decode(action)) is not None]
    fitting = [
        (action, fault.intensity)
        for action, fault in faults
        if fault.kind == sign.kind
        and fault.intensity <= sign.at_most
        and env.topology.component(fault.target.name).role == sign.role
    ]
    return [action for action, _ in sorted(fitting, key=lambda found: -found[1])]


def _duration_s(env: ChaosEnv, action: int) -> float:
    fault = env.code.decode(action)
    return 0.0 if fault is None else fault.duration_s
