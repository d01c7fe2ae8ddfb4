"""Importing this module registers `backburn/Chaos-v0` and `backburn/SimulatedChaos-v0` with Gymnasium.

Gymnasium no longer looks for entry points of other packages; it imports the module that stands before the colon:

    gymnasium.make("agent.environments:backburn/Chaos-v0")

The first is a cluster with every part of a real one, down to its telemetry, in virtual time; the second only what an
experiment on it shows, and thousands of them at once.
"""

import gymnasium

gymnasium.register(id="backburn/Chaos-v0", entry_point="agent.build.simulated:chaos_env")
gymnasium.register(
    id="backburn/SimulatedChaos-v0",
    entry_point="envs.simulator.gym_env:SimulatedChaosEnv",
    vector_entry_point="envs.simulator.gym_env:SimulatedChaosVectorEnv",
)
