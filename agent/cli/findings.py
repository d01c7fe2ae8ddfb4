"""What was found: reports, and the ledger of weaknesses."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from ..settings import Settings, load
from .options import DEFAULT_CONFIG, AsJson, Config


def report(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    form: Annotated[str, typer.Option("--format", help="html, md or json.")] = "md",
) -> None:
    """Prints a run's report."""
    from ..findings.report import rendered

    typer.echo(rendered(run_folder, form), nl=False)


def list_weaknesses(config: Config = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Lists every weakness that was confirmed on this cluster."""
    found = from_ledger(load(config), lambda ledger: ledger.all())
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    for weakness in found:
        facts = f"{weakness['state']}, seen in {weakness['runs']} run(s), last {weakness['last_seen']}"
        typer.echo(f"{weakness['id']}  {weakness['severity']:<6}  {weakness['title']}  ({facts})")
    if not found:
        typer.echo("no weakness was confirmed on this cluster yet")


def show_weakness(
    identifier: Annotated[str, typer.Argument(metavar="ID")], config: Config = DEFAULT_CONFIG, as_json: AsJson = False
) -> None:
    """Shows one weakness with its evidence and remedy."""
    weakness = from_ledger(load(config), lambda ledger: ledger.get(identifier))
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


def from_ledger(settings: Settings, read: Callable[[Any], Any]) -> Any:  # noqa: ANN401
    """Returns what a callable reads from a cluster's ledger; from an empty one that nobody keeps if there is none."""
    from ..findings.ledger import Ledger

    path = settings.cluster_state_dir / "ledger.db"
    with tempfile.TemporaryDirectory() as nowhere:
        ledger = Ledger(path if path.exists() else Path(nowhere) / path.name)
        try:
            return read(ledger)
        finally:
            ledger.close()
