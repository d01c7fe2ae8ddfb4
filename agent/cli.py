"""The `backburn` command.

Exit codes: 0 done; 1 weaknesses at or above `--fail-on`; 2 bad input; 3 unsafe; 4 the tool itself failed.
Every error is one line: what, where, and what is allowed.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console

from actuators.errors import BackburnError, BadInput, Unsafe
from actuators.fault import Fault, Target

from .ownership import require_own_packages
from .settings import PACKAGED, Settings, load

if TYPE_CHECKING:
    from .run import Run

app = typer.Typer(name="backburn", add_completion=False, pretty_exceptions_enable=False, no_args_is_help=False)
weaknesses_app = typer.Typer(help="What was found on this cluster, across runs.")
app.add_typer(weaknesses_app, name="weaknesses")

Config = Annotated[Path, typer.Option("--config", help="Settings file.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DEFAULT_CONFIG = PACKAGED / "local.yaml"


# Typer carries a click of its own; its usage error is the base of the one that it exports.
_UsageError: Any = typer.BadParameter.__mro__[1]


class FailOn(StrEnum):
    """From which severity on a run fails."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    NEVER = "never"


class Device(StrEnum):
    """Where a policy learns."""

    CPU = "cpu"
    CUDA = "cuda"


class Algorithm(StrEnum):
    """How a policy learns."""

    POSTERIOR = "posterior"
    PPO = "ppo"


class ClusterKind(StrEnum):
    """Which sort of cluster."""

    LOCAL = "local"
    SIMULATED = "simulated"


@app.command()
def run(
    config: Config = DEFAULT_CONFIG,
    budget_min: Annotated[float | None, typer.Option(help="Minutes from the first gate to the last revert.")] = None,
    experiments: Annotated[int | None, typer.Option(help="Most experiments that the policy may choose.")] = None,
    policy: Annotated[
        str | None, typer.Option(help="random, round_robin, ucb, genetic, incident, thompson, posterior, or a file.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seeds every random choice.")] = None,
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
    from .run import Run

    campaign = Run(settings, _run_folder(settings, out), Console(), dry_run=dry_run)
    _finish(campaign, fail_on)


@app.command()
def replay(
    identifier: Annotated[str, typer.Argument(metavar="ID", help="A weakness, such as W-1a2b3c4d.")],
    config: Config = DEFAULT_CONFIG,
    times: Annotated[int, typer.Option(min=1, help="How often.")] = 2,
    out: Annotated[Path | None, typer.Option(help="The run's folder; must not exist.")] = None,
    fail_on: Annotated[FailOn, typer.Option(help="Exit with 1 if a weakness is at least this severe.")] = FailOn.NEVER,
) -> None:
    """Repeats the mildest experiment that showed a weakness."""
    weakness = _ledger(load(config), lambda ledger: ledger.get(identifier))
    settings = load(config, {"campaign.experiments": times})
    from .learning.replay import ReplayPolicy
    from .run import Run

    campaign = Run(
        settings,
        _run_folder(settings, out),
        Console(),
        policy=lambda env: ReplayPolicy(env.code.encode(_reproducer(weakness)), times),
    )
    _finish(campaign, fail_on)


@app.command()
def report(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    form: Annotated[str, typer.Option("--format", help="html, md or json.")] = "md",
) -> None:
    """Prints a run's report."""
    from .findings.report import rendered

    typer.echo(rendered(run_folder, form), nl=False)


@weaknesses_app.command("list")
def list_weaknesses(config: Config = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Lists every weakness that was confirmed on this cluster."""
    found = _ledger(load(config), lambda ledger: ledger.all())
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    for weakness in found:
        facts = f"{weakness['state']}, seen in {weakness['runs']} run(s), last {weakness['last_seen']}"
        typer.echo(f"{weakness['id']}  {weakness['severity']:<6}  {weakness['title']}  ({facts})")
    if not found:
        typer.echo("no weakness was confirmed on this cluster yet")


@weaknesses_app.command("show")
def show_weakness(
    identifier: Annotated[str, typer.Argument(metavar="ID")], config: Config = DEFAULT_CONFIG, as_json: AsJson = False
) -> None:
    """Shows one weakness with its evidence and remedy."""
    weakness = _ledger(load(config), lambda ledger: ledger.get(identifier))
    if as_json:
        typer.echo(json.dumps(weakness, indent=2))
        return
    confidence, evidence = weakness["confidence"], weakness["evidence"]
    lines = (
        f"{weakness['id']} [{weakness['severity']}] {weakness['title']}",
        f"promised    {weakness['hypothesis']}",
        f"observed    {evidence['series']} reached {evidence['observed']:.3g} ({weakness['mechanism']})",
        f"evidence    reproduced {confidence['reproduced']} of {confidence['attempts']}, "
        f"e-value {confidence['e_value']:.3g}, largest p {confidence['p']:.3g}",
        f"seen        {weakness['first_seen']} to {weakness['last_seen']}, in {weakness['runs']} run(s)",
        f"reproduce   {weakness['reproducer']['command']}",
        f"remedy      {weakness['remedy']['text']}",
        f"            {weakness['remedy']['source']}",
    )
    typer.echo("\n".join(lines))


@app.command()
def benchmark(
    cluster: Annotated[ClusterKind, typer.Option(help="Whose packaged settings are taken.")] = ClusterKind.LOCAL,
    config: Annotated[Path | None, typer.Option(help="Settings file, in place of a packaged one.")] = None,
    policies: Annotated[
        str | None, typer.Option(help="Names or files, separated by commas; random, round-robin, thompson and oracle.")
    ] = None,
    minutes: Annotated[float | None, typer.Option(help="Minutes of each campaign.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Campaigns of each policy: 1, or 20 with --replay.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the first campaign; seeds every random choice.")] = None,
    run_dir: Annotated[Path | None, typer.Option(help="The benchmark's folder; one that was cut off goes on.")] = None,
    again: Annotated[Path | None, typer.Option("--replay", help="Draw from this benchmark's evidence.")] = None,
    split: Annotated[
        str | None, typer.Option(help="Splits of the frozen suite of simulated clusters, separated by commas.")
    ] = None,
    clusters: Annotated[int | None, typer.Option(min=2, help="With --split: how many of each.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="With --split: of the processor.")] = 1,
) -> None:
    """Compares policies: the same planted weaknesses, the same minutes."""
    if split is not None:
        from .benchmark.splits import RIVALS, compare

        asked = [name.strip() for name in policies.split(",")] if policies is not None else list(RIVALS)
        asked = [name if name.endswith(".safetensors") else name.replace("-", "_") for name in asked if name]
        wanted = [name.strip() for name in split.split(",") if name.strip()]
        out = run_dir or Path("runs") / f"{datetime.now():%Y-%m-%d-%H%M%S}-suite"
        compare(asked, wanted, out, Console(), clusters=clusters, threads=threads)
        return
    policies = policies or "random,round-robin,thompson,oracle"
    from .benchmark.figures import lines_of
    from .benchmark.live import Benchmark
    from .benchmark.replay import replayed

    names = [name.strip().replace("-", "_") for name in policies.split(",") if name.strip()]
    if again is not None:
        told = replayed(again, names, seeds=seeds or 20, budget_min=minutes, first_seed=seed or 0)
        typer.echo("\n".join(lines_of(told.rows)))
        typer.echo(
            f"unknown: {told.unknown} of {told.offered} experiments; nobody ever tried them, and no policy could"
        )
        return
    settings = load(config or PACKAGED / f"{cluster}.yaml", {"campaign.budget_min": minutes, "campaign.seed": seed})
    folder = run_dir or settings.runs_dir / f"{datetime.now():%Y-%m-%d-%H%M%S}-benchmark-{settings.cluster.id}"
    rows = Benchmark(settings, names, seeds or 1, folder, Console()).execute()
    typer.echo(f"\nevidence: {folder}")
    typer.echo("\n".join(lines_of(rows)))


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="The policy's file, ending in .safetensors; must not exist.")],
    algorithm: Annotated[Algorithm, typer.Option(help="How it learns.")] = Algorithm.POSTERIOR,
    steps: Annotated[int, typer.Option(min=1, help="Experiments on each cluster of the batch.")] = 3000,
    batch: Annotated[int, typer.Option(min=1, help="Clusters at once.")] = 256,
    components: Annotated[tuple[int, int], typer.Option(help="Fewest and most components of a cluster.")] = (6, 24),
    seed: Annotated[int, typer.Option(min=0, help="Seeds every random choice.")] = 0,
    device: Annotated[Device, typer.Option(help="Where to learn.")] = Device.CPU,
    threads: Annotated[int, typer.Option(min=1, help="Of the processor.")] = 1,
    teacher: Annotated[Path, typer.Option(help="With ppo: the posterior policy that it begins from.")] = PACKAGED
    / "policies"
    / "posterior.safetensors",
    held_back: Annotated[
        bool, typer.Option("--held-back", help="On the training clusters of `benchmark --split` alone.")
    ] = False,
    run_dir: Annotated[
        Path | None, typer.Option(help="With ppo: its checkpoints and logs; a training that was cut off goes on.")
    ] = None,
) -> None:
    """Trains a policy on simulated clusters, and tries it on others."""
    from envs.simulator.structure import Generator

    from .learning import school, suite
    from .learning.train import Lessons

    generator = suite.TRAINING if held_back else Generator(components)
    if algorithm is Algorithm.PPO:
        from .learning.ppo.practice import Practice

        practice = Practice(steps=steps, batch=batch, seed=seed)
        school.train_ppo(
            practice,
            generator,
            out,
            Console(),
            teacher=teacher,
            folder=run_dir or out.with_suffix(".training"),
            device=device,
            threads=threads,
        )
        return
    lessons = Lessons(steps=steps, batch=batch, seed=seed)
    school.train(lessons, generator, out, Console(), device=device, threads=threads)


@app.command()
def calibrate(runs: Annotated[list[Path], typer.Argument(help="Folders of finished runs on a real cluster.")]) -> None:
    """Says how well simulated clusters agree with what runs on a real one have shown."""
    from .learning.realism import lines_of, realism

    typer.echo("\n".join(lines_of(realism(runs))))


@app.command()
def shams(
    config: Config = DEFAULT_CONFIG,
    starts: Annotated[int, typer.Option(min=1, help="Starts of the cluster to record.")] = 2,
    minutes: Annotated[float, typer.Option(min=1, help="Minutes to record after each start.")] = 15.0,
    run_dir: Annotated[Path | None, typer.Option(help="Where recordings go, beside those that are there.")] = None,
    score: Annotated[Path | None, typer.Option(help="Judge what was recorded there; record nothing.")] = None,
) -> None:
    """Measures how often fault-free time alarms."""
    settings = load(config)
    from .shams.measuring import measure
    from .shams.recording import record_starts

    folder = score or run_dir or settings.runs_dir / "shams"
    if score is None:
        record_starts(settings, folder, starts, minutes, Console())
    measure(folder, Console())


@app.command()
def recover(
    config: Config = DEFAULT_CONFIG,
    as_json: AsJson = False,
    watch: Annotated[
        int | None, typer.Option(help="Watch the agent at the other end of this pipe.", hidden=True)
    ] = None,
) -> None:
    """Takes out whatever a dead run has left in force, and says what could not be taken out."""
    settings = load(config)
    from .build import local

    if watch is not None:
        local.watch(settings, watch, ready=lambda: print("watching", flush=True))  # noqa: T201 (the agent waits for it)
        return
    still_open, leaked = local.recover_all(settings)
    if as_json:
        typer.echo(json.dumps({"open": still_open, "leaked": leaked}))
    else:
        typer.echo(
            "clean" if not still_open + leaked else f"still in force or unknown: {', '.join(still_open + leaked)}"
        )
    if still_open or leaked:
        raise Unsafe(f"{len(still_open)} open and {len(leaked)} leaked fault(s); see `backburn recover --json`")


@app.command()
def serve(
    config: Config = DEFAULT_CONFIG,
    host: Annotated[str | None, typer.Option(help="Where to listen; loopback if not said.")] = None,
    port: Annotated[int | None, typer.Option(help="0: any free port.")] = None,
    campaigns: Annotated[int | None, typer.Option(min=1, help="Ends after so many.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Everything happens but the harm.")] = False,
) -> None:
    """Runs campaign after campaign whenever the schedule allows, and answers on a web address."""
    settings = load(config, {"service.http.host": host, "service.http.port": port})
    _serve(settings, web=True, dry_run=dry_run, campaigns=campaigns)


@app.command()
def doctor(config: Config = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Says whether everything is in order; changes nothing."""
    settings = load(config)
    from .service.doctor import examine

    findings = examine(settings)
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            typer.echo(f"{'ok ' if finding.ok else 'BAD'}  {finding.what:<9} {finding.said}")
    bad = [finding.what for finding in findings if not finding.ok]
    if bad:
        raise Unsafe(f"not in order: {', '.join(bad)}")


@app.command()
def journal(
    config: Config = DEFAULT_CONFIG,
    as_json: AsJson = False,
    last: Annotated[int | None, typer.Option(min=1, help="Only so many of the newest entries.")] = None,
) -> None:
    """Prints what was done to the cluster, and what the service did: the audit, oldest first."""
    settings = load(config)
    from .build.state import journal_of

    with journal_of(settings) as book:
        entries = list(book.entries())[-(last or 0) :]
    for entry in entries:
        if as_json:
            typer.echo(json.dumps(asdict(entry)))
        else:
            typer.echo(f"{entry.at[:19]}  {entry.event:<11} {entry.by:<16} {entry.injection or '-':<16} {entry.reason}")


@app.command()
def halt(
    reason: Annotated[str, typer.Option(help="Why.")] = "halted from the command line", config: Config = DEFAULT_CONFIG
) -> None:
    """Engages the lever: what runs is reverted, and nothing new starts."""
    settings = load(config)
    from .build.state import journal_of, lever_of

    lever_of(settings).engage(reason, _person())
    typer.echo(f"engaged: {reason}")
    with journal_of(settings) as book:
        book.note("lever", f"engaged: {reason}")


@app.command()
def resume(reason: Annotated[str, typer.Option(help="Why it is safe again.")], config: Config = DEFAULT_CONFIG) -> None:
    """Releases the lever."""
    settings = load(config)
    from .build.state import journal_of, lever_of

    lever_of(settings).release(reason, _person())
    typer.echo(f"released: {reason}")
    with journal_of(settings) as book:
        book.note("lever", f"released: {reason}")


def main() -> NoReturn:
    """Runs the command line; every error is one line and an exit code."""
    try:
        require_own_packages()
        sys.exit(app(standalone_mode=False) or 0)
    except _UsageError as error:
        _end(2, error.format_message())
    except BadInput as error:
        _end(2, str(error))
    except Unsafe as error:
        _end(3, f"unsafe: {error}")
    except BackburnError as error:
        _end(4, str(error))
    except (typer.Abort, KeyboardInterrupt):
        _end(4, "interrupted")


def _serve(settings: Settings, *, web: bool, dry_run: bool, campaigns: int | None = None) -> None:
    from .service.serve import serve as go_on

    go_on(settings, Console(), web=web, dry_run=dry_run, campaigns=campaigns)


def _finish(campaign: Run, fail_on: FailOn) -> None:
    from .findings.ground_truth import described

    result = campaign.execute()
    found = len(result.weaknesses)
    typer.echo(f"\n{found} confirmed weakness{'' if found == 1 else 'es'}; it ended because {result.ended_by}")
    if campaign.truth is not None:
        typer.echo(described(campaign.truth))
    typer.echo(f"report: {campaign.folder.path / 'report.html'}")
    ranks = list(FailOn)
    if any(ranks.index(FailOn(weakness.severity)) >= ranks.index(fail_on) for weakness in result.weaknesses):
        raise typer.Exit(1)


def _run_folder(settings: Settings, out: Path | None) -> Path:
    return out or settings.runs_dir / f"{datetime.now():%Y-%m-%d-%H%M%S}-{settings.cluster.id}"


def _ledger(settings: Settings, read: Callable[[Any], Any]) -> Any:  # noqa: ANN401
    from .findings.ledger import Ledger

    ledger = Ledger(settings.cluster_state_dir / "ledger.db")
    try:
        return read(ledger)
    finally:
        ledger.close()


def _reproducer(weakness: dict[str, Any]) -> Fault:
    """Returns the mildest fault that was seen to show a weakness."""
    fault = weakness["fault"]
    return Fault(fault["kind"], Target(fault["target"]), weakness["reproducer"]["intensity"], fault["duration_s"])


def _person() -> str:
    return os.environ.get("USER", "unknown person")


def _end(code: int, message: str) -> NoReturn:
    typer.echo(f"backburn: {' '.join(message.split())}", err=True)
    sys.exit(code)
