"""How far faults may reach, and how trust is earned: a dry run, one instance, all that the limits allow."""

from __future__ import annotations

from dataclasses import replace

from safety.limits import Limits

from .settings import Ladder
from .store import Rung

DRY_RUN, ONE_INSTANCE, ALL_ALLOWED = range(3)

NAMES = ("a dry run", "one instance", "all that the limits allow")


def limits_on(rung: int, limits: Limits) -> Limits:
    """Returns the limits that hold on a rung: never wider than those that were set."""
    if rung == ALL_ALLOWED:
        return limits
    return replace(limits, max_instances=min(1, limits.max_instances), max_share=0.0, whole_component=())


def after_campaign(rung: Rung, trouble: str | None, ladder: Ladder) -> Rung:
    """Returns where a cluster stands after a campaign.

    Args:
        rung: where it stood.
        trouble: what must not happen: a leak, an error of the tool, or in the middle of a fault lost service-level
            telemetry, a dead watchdog, a lost lease or a kill; None for a clean campaign. That a weakness was found is
            no trouble.
        ladder: how trust is earned.
    """
    if trouble is not None:
        return Rung(max(DRY_RUN, rung.rung - 1), 0)
    if rung.clean + 1 < ladder.promote_after or rung.rung >= ladder.highest:
        return Rung(min(rung.rung, ladder.highest), rung.clean + 1)
    return Rung(rung.rung + 1, 0)
