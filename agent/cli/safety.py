"""The lever, the journal, and taking out what was left."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Annotated

import typer

from actuators.errors import Unsafe

from ..settings import Settings, load
from .options import DEFAULT_CONFIG, AsJson, Config


def halt(
    reason: Annotated[str, typer.Option(help="Why.")] = "halted from the command line", config: Config = DEFAULT_CONFIG
) -> None:
    """Engages the lever: what runs is reverted, and nothing new starts."""
    settings = load(config)
    from ..build.state import journal_of, lever_of, person

    is_new = not settings.cluster_state_dir.exists()
    with _or_unsafe("nothing was halted"):
        lever_of(settings).engage(reason, person())
    typer.echo(f"engaged: {reason}")
    if is_new:
        typer.echo(_nothing_ran(settings), err=True)
    with journal_of(settings) as book:
        book.note("lever", f"engaged: {reason}")


def resume(reason: Annotated[str, typer.Option(help="Why it is safe again.")], config: Config = DEFAULT_CONFIG) -> None:
    """Releases the lever."""
    settings = load(config)
    from ..build.state import journal_of, lever_of, person

    with _or_unsafe("nothing was released"):
        lever_of(settings).release(reason, person())
    typer.echo(f"released: {reason}")
    with journal_of(settings) as book:
        book.note("lever", f"released: {reason}")


def recover(
    config: Config = DEFAULT_CONFIG,
    as_json: AsJson = False,
    watch: Annotated[
        int | None, typer.Option(help="Watch the agent at the other end of this pipe.", hidden=True)
    ] = None,
    keepalive: Annotated[
        int | None, typer.Option(help="Only the platform on this pipe is the agent's.", hidden=True)
    ] = None,
) -> None:
    """Takes out whatever a dead run has left in force, and says what could not be taken out."""
    settings = load(config)
    from ..build import local

    if watch is not None:
        from ..watchdog_process import BEAT, WATCHING, teller

        tell = teller(sys.stdout.fileno())
        local.watch(settings, watch, lambda: tell(WATCHING), keepalive_fd=keepalive, beat=lambda: tell(BEAT))
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


def doctor(config: Config = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Says whether everything is in order; changes nothing but what a run would make anyway."""
    settings = load(config)
    from ..service.doctor import examine

    findings = examine(settings)
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            typer.echo(f"{'ok ' if finding.ok else 'BAD'}  {finding.what:<9} {finding.said}")
    bad = [finding.what for finding in findings if not finding.ok]
    if bad:
        raise Unsafe(f"not in order: {', '.join(bad)}")


def journal(
    config: Config = DEFAULT_CONFIG,
    as_json: AsJson = False,
    last: Annotated[int | None, typer.Option(min=1, help="Only so many of the newest entries.")] = None,
) -> None:
    """Prints what was done to the cluster, and what the service did: the audit, oldest first."""
    settings = load(config)
    from ..build.state import journal_of

    if not settings.cluster_state_dir.exists():
        typer.echo(_nothing_ran(settings), err=True)
        return
    with journal_of(settings) as book:
        entries = list(book.entries())[-(last or 0) :]
    for entry in entries:
        if as_json:
            typer.echo(json.dumps(asdict(entry)))
        else:
            typer.echo(f"{entry.at[:19]}  {entry.event:<11} {entry.by:<16} {entry.injection or '-':<16} {entry.reason}")


@contextmanager
def _or_unsafe(outcome: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unsafe(f"{outcome}: {error}") from error


def _nothing_ran(settings: Settings) -> str:
    place = settings.cluster_state_dir.resolve()
    return f"nothing has ever run on a cluster whose state is in {place}: right --config, right folder?"
