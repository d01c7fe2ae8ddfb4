"""Hours of continuous running, and what is left of it: leaks, orphans, growth.

    python -m agent.bench.soak [--cluster simulated|local] [--experiments N] [--minutes N] [--folder DIR]

Runs the service itself until so many experiments, or minutes, are over; one that was cut off goes on in its folder.
Prints and writes `soak.json`. Exit code 1 if anything leaked, stayed open, or was left running.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from scipy.stats import theilslopes

from actuators.clock import BootClock
from actuators.errors import BadInput
from envs.outcome import Outcome
from envs.scoring import Verdict

from ..build.state import open_state, require_free
from ..findings.weakness import Weakness
from ..service.runner import Service
from ..service.status import Status
from ..service.store import Store
from ..settings import PACKAGED, Settings, load
from .beside import in_one_line, machine_and_command, whole_from_1
from .remains import Remains

_SAMPLE_EVERY = 10
_WARM_UP = 0.25
"""The share of a process's samples in which it still takes what it will then keep."""

_LEAST_SAMPLES = 8
_MIB = 2**20


class Tally:
    """Counts what a soak shows, and keeps it on disk: whoever is killed goes on from there.

    Attributes:
        facts: as they stand in `soak.json`.

    Args:
        path: of that file.
        cluster: which sort of cluster.
        progress: shows how far it is.
        experiments: how many are wanted; None if minutes decide.
        minutes: how many are wanted; None if experiments decide.
        remains: looks at the cluster after every experiment.

    Raises:
        BadInput: the file is another soak's, or none.
    """

    def __init__(
        self,
        path: Path,
        cluster: str,
        progress: Progress,
        experiments: int | None,
        minutes: float | None,
        remains: Remains,
    ) -> None:
        self._path = path
        self._progress = progress
        self._experiments = experiments
        self._minutes = minutes
        self._process = psutil.Process()
        self._began_s = time.monotonic()
        self.facts: dict[str, Any] = self._kept(cluster)
        self._before_s = float(self.facts["seconds"])
        self._task = progress.add_task("experiments", total=experiments, completed=self.facts["experiments"])
        self.service: Service | None = None
        self.remains = remains

    def outcome(self, outcome: Outcome) -> None:
        """An experiment has been judged."""
        facts = self.facts
        self.remains.look()
        facts["experiments"] += 1
        facts["verdicts"] = dict(Counter(facts["verdicts"]) + Counter([str(outcome.verdict)]))
        if outcome.fault is None:
            facts["shams"] += 1
            facts["sham_alarms"] += outcome.verdict is Verdict.WEAKNESS
        facts["repairs"] += len(outcome.repaired)
        facts["quarantines"] += len(outcome.quarantined)
        facts["leaked"] += outcome.stop is not None and not outcome.stop.clean
        facts["seconds"] = self._before_s + time.monotonic() - self._began_s
        if facts["experiments"] % _SAMPLE_EVERY == 0:
            facts["samples"].append(self._sample())
            self.write()
        self._progress.advance(self._task)
        if self.is_over() and self.service is not None:
            self.service.end("the soak is over")

    def weakness(self, weakness: Weakness) -> None:
        """A weakness has been confirmed."""
        self.facts["weaknesses"] += 1

    def is_over(self) -> bool:
        """Tells whether all that was wanted has been done."""
        enough = self._experiments is not None and self.facts["experiments"] >= self._experiments
        return enough or (self._minutes is not None and self.facts["seconds"] >= 60.0 * self._minutes)

    def write(self) -> None:
        """Keeps the facts, in one step."""
        draft = self._path.with_suffix(".draft")
        draft.write_text(json.dumps(self.facts, indent=1) + "\n", encoding="utf-8")
        draft.replace(self._path)

    def _sample(self) -> list[float]:
        with self._process.oneshot():
            rss, fds, threads = self._process.memory_info().rss, self._process.num_fds(), self._process.num_threads()
        return [os.getpid(), self.facts["experiments"], rss / _MIB, fds, threads]

    def _kept(self, cluster: str) -> dict[str, Any]:
        if not self._path.exists():
            counts = ("experiments", "shams", "sham_alarms", "repairs", "quarantines", "leaked", "weaknesses")
            return {"cluster": cluster, **dict.fromkeys(counts, 0), "verdicts": {}, "seconds": 0.0, "samples": []}
        try:
            facts: dict[str, Any] = json.loads(self._path.read_text(encoding="utf-8"))
            theirs = facts["cluster"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadInput(f"{self._path} is no soak that could go on: {error}") from error
        if theirs != cluster:
            raise BadInput(f"{self._path} is of a {theirs} cluster; allowed here is {cluster}")
        return facts


def growth(samples: list[list[float]], column: int) -> float | None:
    """Returns how much something grows per thousand experiments, by Theil and Sen, once the newest process is warm.

    Args:
        samples: (pid, experiments, MiB, file handles, threads) each.
        column: which of them.

    Returns:
        None where there are too few to tell.
    """
    own = [sample for sample in samples if sample[0] == samples[-1][0]] if samples else []
    warm = own[int(len(own) * _WARM_UP) :]
    if len(warm) < _LEAST_SAMPLES:
        return None
    return 1000.0 * float(theilslopes([each[column] for each in warm], [each[1] for each in warm]).slope)


def soaked(settings: Settings, tally: Tally, console: Console) -> dict[str, Any]:
    """Runs the service until the tally is full; returns all facts, what was left behind included."""
    state = open_state(settings, BootClock(), f"soak {os.getpid()}")
    try:
        require_free(state.lever, "a soak on a cluster of its own")
        store = Store(state.folder / "service.db")
        tally.service = Service(
            settings,
            console,
            journal=state.journal,
            lever=state.lever,
            store=store,
            status=Status(),
            witnesses=(tally,),
        )
        tally.service.run()
        store.close()
        facts = tally.facts
        facts["open"] = len(state.journal.open_injections())
        facts["leaked"] = max(facts["leaked"], len(state.journal.leaked()))
        facts["orphans"] = tally.remains.running()
        columns = enumerate(("rss_mib", "file_handles", "threads"), start=2)
        facts["growth_per_1000"] = {name: growth(facts["samples"], column) for column, name in columns}
        tally.write()
        return facts
    finally:
        state.close()


def main() -> None:
    """Soaks, prints, and writes down."""
    parser = argparse.ArgumentParser(prog="python -m agent.bench.soak", description=__doc__.partition("\n")[0])
    parser.add_argument("--cluster", choices=("simulated", "local"), default="simulated")
    parser.add_argument("--experiments", type=whole_from_1, help="default: 10000 on simulated clusters")
    parser.add_argument("--minutes", type=float, help="default: 60 on the embedded one")
    parser.add_argument("--folder", type=Path, help="one that was cut off goes on there")
    chosen = parser.parse_args()
    simulated = chosen.cluster == "simulated"
    experiments = chosen.experiments or (10_000 if simulated and chosen.minutes is None else None)
    minutes = chosen.minutes or (None if simulated or chosen.experiments else 60.0)
    folder = chosen.folder or Path("runs") / f"soak-{chosen.cluster}"
    settings = load(
        PACKAGED / f"{chosen.cluster}.yaml",
        {
            "state_dir": str(folder / "state"),
            "runs_dir": str(folder / "runs"),
            "service.pause_s": 0.0,
            "service.campaign_min": 30.0 if simulated else 20.0,
            "service.daily.minutes": 1e9,
            "service.daily.harm_min": 1e9,
            "service.retention.runs": 20,
        },
    )
    folder.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
        console=console, refresh_per_second=2,
    )  # fmt: skip
    with bar:
        facts = soaked(
            settings,
            Tally(folder / "soak.json", chosen.cluster, bar, experiments, minutes, Remains(settings)),
            Console(quiet=simulated, stderr=True),
        )
    print(machine_and_command())  # noqa: T201
    for name, value in facts.items():
        if name != "samples":
            print(f"{name:>16}  {value}")  # noqa: T201
    sys.exit(bool(facts["leaked"] or facts["open"] or facts["orphans"]))


if __name__ == "__main__":
    in_one_line(main)
