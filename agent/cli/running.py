"""Running: one campaign, a replay, campaign after campaign."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from actuators.errors import BackburnError, BadInput, Unsafe
from actuators.fault import Fault, Target

from ..settings import Settings, load
from .findings import from_ledger
from .options import DEFAULT_CONFIG, Config, FailOn, Lasting, run_folder

if TYPE_CHECKING:
    from envs.chaos import ChaosEnv

    from ..run import Run


_REPEAT_MIN = 3.0
"""Minutes that one repeat of an experiment gets, gates and shams included."""


def run(
    config: Config = DEFAULT_CONFIG,
    budget_min: Annotated[float | None, typer.Option(help="Minutes from the first gate to the last revert.")] = None,
    experiments: Annotated[int | None, typer.Option(help="Most experiments that the policy may choose.")] = None,
    policy: Annotated[
        str | None,
        typer.Option(
            help="random, round_robin, ucb, genetic, incident, thompson, posterior, ppo, a file, or module:function."
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seeds every random choice; with --continuous, each campaign's beside the time.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder; must not exist.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Everything happens but the harm.")] = False,
    fail_on: Annotated[FailOn, typer.Option(help="Exit with 1 if a weakness is at least this severe.")] = FailOn.NEVER,
    continuous: Annotated[bool, typer.Option("--continuous", help="Campaign after campaign; see `serve`.")] = False,
) -> None:
    """Runs a campaign and leaves a report."""
    if continuous:
        alone = {"--budget-min": budget_min, "--experiments": experiments, "--out": out}
        for option, value in alone.items():
            if value is not None:
                raise BadInput(f"{option} is for a single run; with --continuous, the section `service` says how long")
        if fail_on is not FailOn.NEVER:
            raise BadInput("--fail-on is for a single run; --continuous has no end")
        _serve(load(config, {"campaign.policy": policy, "campaign.seed": seed}), web=False, dry_run=dry_run)
        return
    overrides = {
        "campaign.budget_min": budget_min,
        "campaign.experiments": experiments,
        "campaign.policy": policy,
        "campaign.seed": seed,
    }
    settings = load(config, overrides)
    # Torch and the rest take seconds to import: nobody waits for them to hear of a misspelt key.
    from ..run import Run

    campaign = Run(settings, run_folder(settings, out), Lasting(), dry_run=dry_run)
    _finish(campaign, fail_on)


def replay(
    identifier: Annotated[str, typer.Argument(metavar="ID", help="A weakness, such as W-1a2b3c4d.")],
    config: Config = DEFAULT_CONFIG,
    times: Annotated[int, typer.Option(min=1, help="How often.")] = 2,
    out: Annotated[Path | None, typer.Option(help="The run's folder; must not exist.")] = None,
    fail_on: Annotated[FailOn, typer.Option(help="Exit with 1 if a weakness is at least this severe.")] = FailOn.NEVER,
) -> None:
    """Repeats the mildest experiment that showed a weakness when it was last confirmed."""
    settings = load(config)
    weakness = from_ledger(settings, lambda ledger: ledger.get(identifier))
    minutes = max(settings.campaign.budget_min, _REPEAT_MIN * times)
    overrides = {
        "campaign.experiments": times,
        "campaign.budget_min": minutes,
        "campaign.policy": f"replay {identifier}",
        "campaign.seed": weakness["seed"],  # draws the cluster, where it is a simulated one
    }
    settings = load(config, overrides)
    from ..learning.replay import ReplayPolicy
    from ..run import Run

    campaign = Run(
        settings,
        run_folder(settings, out),
        Lasting(),
        policy=lambda env: ReplayPolicy(_prepared(env, weakness), times),
    )
    _replayed(campaign, weakness, times, fail_on)


def serve(
    config: Config = DEFAULT_CONFIG,
    host: Annotated[str | None, typer.Option(help="Where to listen, if not service.http.host.")] = None,
    port: Annotated[int | None, typer.Option(help="0: any free port.")] = None,
    campaigns: Annotated[int | None, typer.Option(min=1, help="Ends after so many.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Everything happens but the harm.")] = False,
) -> None:
    """Runs campaign after campaign whenever the schedule allows, and answers on a web address."""
    settings = load(config, {"service.http.host": host, "service.http.port": port})
    _serve(settings, web=True, dry_run=dry_run, campaigns=campaigns)


def _serve(settings: Settings, *, web: bool, dry_run: bool, campaigns: int | None = None) -> None:
    from ..service.serve import serve as go_on

    go_on(settings, Lasting(), web=web, dry_run=dry_run, campaigns=campaigns)


def _finish(campaign: Run, fail_on: FailOn) -> None:
    from ..findings.ground_truth import described

    result = campaign.execute()
    found = len(result.weaknesses)
    typer.echo(f"\n{found} confirmed weakness{'' if found == 1 else 'es'}; it ended because {result.ended_by}")
    if campaign.truth is not None:
        typer.echo(described(campaign.truth))
    typer.echo(f"report: {campaign.folder.path / 'report.html'}")
    _end(campaign, [weakness.severity for weakness in result.weaknesses], fail_on)


def _replayed(campaign: Run, weakness: dict[str, Any], times: int, fail_on: FailOn) -> None:
    """Says what repeats have shown; no weakness in them is good news only if all of them could be judged.

    One that breaks promises in other ways shows another weakness: that counts once repeats have confirmed it.
    """
    from envs.scoring import Verdict

    result = campaign.execute()
    judged = zip(result.verdicts, result.broken, strict=True)
    weak = [broken for verdict, broken in judged if verdict is Verdict.WEAKNESS]
    shown = sum(weakness["mechanism"] in broken for broken in weak)
    other, borne = len(weak) - shown, result.verdicts.count(Verdict.RESILIENT)
    beside = f", of which {other} broke another promise" if other else ""
    typer.echo(f"\n{weakness['id']} was shown again by {shown} of {times} repeats, and not by {borne + other}{beside}")
    typer.echo(f"report: {campaign.folder.path / 'report.html'}")
    others = [found.severity for found in result.weaknesses if found.id != weakness["id"]]
    _end(campaign, [weakness["severity"], *others] if shown else others, fail_on)
    if not shown and borne + other < times:
        reason = result.ended_by if len(result.verdicts) < times else "the others could not be judged"
        raise BackburnError(f"only {borne + other} of {times} repeats say anything: {reason}")


def _end(campaign: Run, severities: Sequence[str], fail_on: FailOn) -> None:
    """Ends a command by what a run has come to; who asked for the end gets what was found by then.

    Raises:
        Unsafe: lever, lease, watchdog or a leak has ended it.
        typer.Exit: with 1, something was found that is severe enough.
        BackburnError: the cluster was not ready for experiments.
    """
    from ..campaign import Ending

    result = campaign.result
    if result.ending is Ending.FORBIDDEN and not campaign.interrupted:
        raise Unsafe(result.ended_by)
    if leaked := campaign.leaked():  # whoever asked for the end asked for none of that
        raise Unsafe(f"{len(leaked)} fault(s) leaked, first {leaked[0]}; see `backburn recover`")
    ranks = list(FailOn)
    if any(ranks.index(FailOn(severity)) >= ranks.index(fail_on) for severity in severities):
        raise typer.Exit(1)
    if result.ending is Ending.NOT_STEADY:
        raise BackburnError(result.ended_by)


def _prepared(env: ChaosEnv, weakness: dict[str, Any]) -> int:
    """Returns the action that repeats a weakness, and has it last for as long as when it was found."""
    fault = _reproducer(weakness)
    env.code = replace(env.code, lasts_s={(fault.target.name, fault.kind): fault.duration_s})
    try:
        return env.code.encode(fault)
    except ValueError as error:
        offered = ", ".join(component.name for component in env.topology.components)
        raise BadInput(f"{weakness['id']} needs {fault}; this cluster has {offered}") from error


def _reproducer(weakness: dict[str, Any]) -> Fault:
    """Returns the mildest fault that was seen to show a weakness since it was last confirmed."""
    fault = weakness["fault"]
    return Fault(fault["kind"], Target(fault["target"]), weakness["reproducer"]["intensity"], fault["duration_s"])
