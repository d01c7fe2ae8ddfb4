"""Our packages have generic names; make sure that what was imported under them is ours.

For a room called `safety`, this check is itself a guardrail: another distribution of that name in the environment could
stand in for it without a word.
"""

from __future__ import annotations

import importlib.util
from importlib import metadata
from pathlib import Path

from actuators.errors import Unsafe

_ROOMS = ("agent", "envs", "safety", "actuators")


def require_own_packages() -> None:
    """Checks that the four rooms come from one place, and that no other distribution claims their names.

    Raises:
        Unsafe: one of them does not.
    """
    root = Path(__file__).resolve().parent.parent
    owners = metadata.packages_distributions()
    for room in _ROOMS:
        spec = importlib.util.find_spec(room)
        place = Path(spec.origin).resolve().parent.parent if spec is not None and spec.origin else None
        if place != root:
            raise Unsafe(f"the package {room!r} is imported from {place}, not from {root}")
        strangers = [owner for owner in owners.get(room, ()) if owner != "backburn"]
        if strangers:
            raise Unsafe(f"the package {room!r} also belongs to {', '.join(strangers)}; uninstall that first")
