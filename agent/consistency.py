"""What the sections of the settings must mean together, each of them being sound by itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from actuators.errors import BadInput
from envs.telemetry.snapshot import component_of

if TYPE_CHECKING:
    from .settings import Settings


def require_consistent(settings: Settings, path: Path) -> None:
    """Refuses settings with which no weakness could be seen, or no blindness be noticed.

    Args:
        settings: all of them.
        path: the file they come from, for the message.

    Raises:
        BadInput: one line with what, where and what is allowed.
    """
    _require_a_hypothesis(settings, path)
    _require_limits_outside_hypothesis(settings, path)
    _require_time_for_deadlines(settings, path)
    _require_sound_telemetry(settings, path)


def _require_a_hypothesis(settings: Settings, path: Path) -> None:
    """Refuses a hypothesis that nothing could break, and a gate that is over before it could open."""
    clauses = settings.hypothesis.clauses
    if not clauses:
        raise BadInput(f"{path}: hypothesis.clauses is empty; at least one promise is needed, or nothing can be weak")
    if max(clause.recover_within_s for clause in clauses) <= 0.0:
        raise BadInput(f"{path}: recover_within_s is 0 in every clause of the hypothesis; one has to be above 0")
    quiet_s, gate_s = settings.shape.quiet_s, settings.patience.gate_s
    if quiet_s >= gate_s:
        raise BadInput(
            f"{path}: patience.gate_s is {gate_s:g}; it has to exceed scoring.reference_windows x scoring.window_s, "
            f"{quiet_s:g}"
        )


def _require_limits_outside_hypothesis(settings: Settings, path: Path) -> None:
    """Refuses limits that would end an experiment before it can show anything."""
    clauses = {clause.series: clause for clause in settings.hypothesis.clauses if clause.must == "hold"}
    needed_s = settings.hypothesis.samples * settings.telemetry.period_s
    for series, limit in settings.limits.service_levels.items():
        clause = clauses.get(series)
        if clause is None:
            raise BadInput(f"{path}: limits.service_levels names {series}, on which no clause says `hold`")
        inside = (limit.at_most is not None and clause.at_most is not None and limit.at_most <= clause.at_most) or (
            limit.at_least is not None and clause.at_least is not None and limit.at_least >= clause.at_least
        )
        if inside or limit.for_s < needed_s:
            raise BadInput(
                f"{path}: limits.service_levels.{series} ({limit} for {limit.for_s:g} s) lies inside of the hypothesis "
                f"({clause} for {needed_s:g} s); it must be looser, or no weakness could ever be seen"
            )


def _require_time_for_deadlines(settings: Settings, path: Path) -> None:
    """Refuses a deadline that no permitted fault would last to see broken."""
    longest_s = settings.limits.max_duration_s
    for clause in settings.hypothesis.clauses:
        needed_s = settings.hypothesis.telling_s(component_of(clause.series))
        if clause.within_s is not None and needed_s > longest_s:
            raise BadInput(
                f"{path}: {clause.series} has a deadline of {clause.within_s:g} s; to see it broken takes "
                f"faults of {needed_s:g} s, and limits.max_duration_s allows {longest_s:g} s"
            )


def _require_sound_telemetry(settings: Settings, path: Path) -> None:
    """Refuses a Prometheus where there is nothing to scrape, and one whose silence the limits would notice too late."""
    if settings.telemetry.source != "prometheus":
        return
    if settings.cluster.kind == "simulated":
        raise BadInput(f"{path}: telemetry.source is prometheus; a simulated cluster allows scrape only")
    for name in ("timeout_s", "max_age_s"):
        value = getattr(settings.telemetry.prometheus, name)
        if value > settings.limits.stale_after_s:
            raise BadInput(
                f"{path}: telemetry.prometheus.{name} is {value:g}; "
                f"it must not exceed limits.stale_after_s, {settings.limits.stale_after_s:g}"
            )
