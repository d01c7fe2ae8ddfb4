"""Importing this module registers `backburn/Chaos-v0` with Gymnasium.

Gymnasium no longer looks for entry points of other packages; it imports the module that stands before the colon:

    gymnasium.make("agent.environments:backburn/Chaos-v0")
"""

import gymnasium

gymnasium.register(id="backburn/Chaos-v0", entry_point="agent.build.simulated:chaos_env")
