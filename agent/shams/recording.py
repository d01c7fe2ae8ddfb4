"""Recording starts of a cluster on which nothing is broken."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from envs.clusters.recorded import Recording
from envs.experiment import Experimenter
from envs.telemetry.snapshot import Snapshot

from ..findings.record import RunFolder
from ..interruption import Interruption
from ..progress import Display
from ..run import brought_up
from ..settings import Settings

RECORDING = "quiet.npz"


def record_starts(settings: Settings, folder: Path, starts: int, minutes: float, console: Console) -> None:
    """Records some starts of the cluster, beside those that a folder holds already.

    Raises:
        BadInput: a setting, port or folder cannot be used.
        Unsafe: going on could do harm that nobody allowed.
        BackburnError: the cluster did not start, or the end was asked for.
    """
    last = max(starts_in(folder), default=0)
    for number in range(last + 1, last + starts + 1):
        seed = settings.campaign.seed + number
        record(settings, RunFolder(folder / f"start-{number}"), minutes, seed, console)


def record(settings: Settings, folder: RunFolder, minutes: float, seed: int, console: Console) -> None:
    """Starts the cluster, keeps everything that is measured while nothing is broken, and ends it.

    Args:
        settings: of the cluster.
        folder: where the recording goes.
        minutes: how long to look.
        seed: of a simulated cluster.
        console: where progress is shown.

    Raises:
        BadInput: a setting, port or folder cannot be used.
        Unsafe: going on could do harm that nobody allowed.
        BackburnError: the cluster did not start, or the end was asked for; nothing was kept.
    """
    folder.settings(settings.model_dump(mode="json"))
    interruption, display = Interruption(), Display(console, minutes)
    with interruption.on_signals(), display:
        world = brought_up(
            settings, folder.path, observer=display, told=display.started, interrupted=interruption.asked
        )
        try:
            experimenter = world.start(seed)
            interruption.tell(experimenter.supervisor.interrupt)
            until_s = experimenter.lookout.now_s + 60.0 * minutes
            display.entered("recording", None, until_s)
            recording = _recorded(experimenter, until_s)
        finally:
            world.close()
    recording.save(folder.path / RECORDING)
    folder.note(state="recorded", minutes=minutes)


def _recorded(experimenter: Experimenter, until_s: float) -> Recording:
    """Returns everything that is measured from now on until a moment on the cluster's clock."""
    cluster, lookout = experimenter.cluster, experimenter.lookout
    snapshots: list[Snapshot] = []
    last_s = lookout.now_s
    while lookout.now_s < until_s:
        experimenter.poll()
        snapshots += lookout.since(last_s)
        last_s = snapshots[-1].at_s if snapshots else last_s
    return Recording(cluster.identity, cluster.topology(), cluster.period_s, tuple(cluster.series), snapshots)


def starts_in(folder: Path) -> dict[int, Path]:
    """Returns the folders of the starts that were recorded, by number."""
    numbers = {path.name.removeprefix("start-"): path for path in folder.glob("start-*")}
    return {int(number): path for number, path in sorted(numbers.items()) if number.isdecimal()}
