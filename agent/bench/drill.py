"""A weekend in two hours: the service on a real cluster, and everything that may happen to it meanwhile.

    python -m agent.bench.drill [--minutes N] [--switches hardened|weak] [--folder DIR]

A schedule that opens, closes and opens again; an alert that fires, a lever that is pulled, each in the middle of a
fault and each released by a person; a SIGKILL in the middle of a fault, and a start as after a power cut; SIGTERM at
the end. What the service did then is read from its journal: in a time in which nothing was allowed no fault may have
begun, what was in force at its beginning has to be gone within seconds, and at its end it has to go on.

Prints the timeline and writes `drill.json`. Exit code 1 if anything was not answered as it should be.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import yaml

from actuators.clock import BootClock
from envs.own_module import own_environment, own_module
from safety.journal import APPLIED, CLEAN, INTENDED, LEAKED, Entry, Journal

from ..findings.ground_truth import SWITCHES
from ..settings import PACKAGED, Settings, load
from .beside import in_one_line, machine_and_command
from .drilled import Ban, answered, moment_of, of_run, timeline
from .remains import Remains
from .soak import growth

_SAMPLE_EVERY_S = 10.0
_LOOK_EVERY_S = 0.1


@dataclass(slots=True)
class Drill:
    """One drill, step by step.

    Attributes:
        bans: the times in which nothing was allowed, so far.
        samples: (pid, experiments, MiB, file handles, threads) of the service, every few seconds.

    Args:
        settings: of the service; its schedule is left to the drill.
        folder: keeps its settings and what the service prints.
        minutes: of the whole drill.
        remains: looks at the cluster every few seconds.
    """

    settings: Settings
    folder: Path
    minutes: float
    remains: Remains
    bans: list[Ban] = field(default_factory=list)
    samples: list[list[float]] = field(default_factory=list)
    _process: subprocess.Popen[bytes] | None = None
    _sampled_s: float = 0.0

    def run(self) -> None:
        """Runs all of it; the service is ended whatever happens."""
        begins = datetime.now(UTC)

        def at(share: float) -> datetime:
            """Returns a moment of the drill; windows are told in whole seconds."""
            return (begins + timedelta(minutes=share * self.minutes)).replace(microsecond=0)

        self._schedule(((at(0.02), at(0.2)), (at(0.25), at(2.0))))
        self.bans.append(Ban("no window yet", begins, at(0.02), in_a_fault=False))
        self.bans.append(Ban("the window has closed", at(0.2), at(0.25), in_a_fault=False))
        try:
            self._start()
            self._until(at(0.35))
            self._forbid("an alert fires", self._alert, lambda: self._command("resume", "--reason", "alert looked at"))
            self._until(at(0.55))
            self._forbid(
                "a person pulls the lever",
                lambda: self._command("halt", "--reason", "a person wants quiet"),
                lambda: self._command("resume", "--reason", "quiet is over"),
            )
            self._until(at(0.75))
            self._forbid("SIGKILL", self._kill, self._start)
            self._until(at(1.0))
            self._in_the_middle_of_a_fault()
            self._stop()
        finally:
            if self._process is not None and self._process.poll() is None:
                self._process.kill()

    def facts(self) -> dict[str, Any]:
        """Returns what the drill has shown; see `drill.json`."""
        entries = self.entries()
        answers = [answered(ban, entries) for ban in self.bans]
        events = Counter(e.event for e in entries)
        standing = {e.injection for e in entries if e.event == INTENDED} - {
            e.injection for e in entries if e.event == CLEAN
        }
        left = self.remains.running()
        columns = enumerate(("rss_mib", "file_handles", "threads"), start=2)
        return {
            "minutes": self.minutes,
            "answers": [asdict(answer) for answer in answers],
            "faults": events[INTENDED],
            "applied": events[APPLIED],
            "repairs": events["repair"],
            "quarantines": events["quarantined"],
            "leaked": events[LEAKED],
            "not_clean": len(standing),
            "orphans": left,
            "runs": [of_run(folder) for folder in sorted(self.settings.runs_dir.glob("*/run.json"))],
            "growth_per_1000_experiments": {name: growth(self._longest(), column) for column, name in columns},
            "samples": self.samples,
            "well": all(answer.well for answer in answers) and not standing and not left and not events[LEAKED],
        }

    def _longest(self) -> list[list[float]]:
        """Returns the samples of the process that lived longest: by SIGKILL the last one has had least of the time."""
        lived = Counter(pid for pid, *_ in self.samples)
        return [sample for sample in self.samples if lived[sample[0]] == max(lived.values())]

    def entries(self) -> list[Entry]:
        """Returns the journal."""
        return list(self._journal().entries())

    # ---- what happens to the service ------------------------------------------------------------------------------

    def _schedule(self, windows: Sequence[tuple[datetime, datetime]]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        plain = self.settings.model_dump(mode="json")
        plain["service"]["schedule"] = {
            "timezone": "UTC",
            "windows": [{"begins": f"{begins:%H:%M:%S}", "ends": f"{ends:%H:%M:%S}"} for begins, ends in windows],
        }
        self._config.write_text(yaml.safe_dump(plain, sort_keys=False), encoding="utf-8")

    def _start(self) -> None:
        with (self.folder / "service.log").open("ab") as log:
            self._process = subprocess.Popen(
                own_module("agent", "serve", "--config", self._config),
                env=own_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def _forbid(self, why: str, begin: Callable[[], None], end: Callable[[], None]) -> None:
        """Forbids everything for a while, in the middle of a fault."""
        self._in_the_middle_of_a_fault()
        begins = datetime.now(UTC)
        begin()
        pulled = max((moment_of(e) for e in self.entries() if e.event == "lever"), default=begins)
        begins = max(begins, pulled)  # a command takes a while until it gets there
        self._until(begins + timedelta(minutes=0.025 * self.minutes))
        ends = datetime.now(UTC)
        self.bans.append(Ban(why, begins, ends))
        end()

    def _alert(self) -> None:
        port = self.settings.service.http.port
        alert = {"status": "firing", "labels": {"alertname": "CheckoutErrors"}, "fingerprint": "c0ffee"}
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/alertmanager",
            json.dumps({"version": "4", "alerts": [alert]}).encode(),
            {
                "Content-Type": "application/json",
                "Authorization": f"Bearer {(self.settings.cluster_state_dir / 'token').read_text('ascii').strip()}",
            },
        )
        with urllib.request.urlopen(request, timeout=10.0) as answer:  # noqa: S310 (loopback)
            if answer.status != 200:
                raise RuntimeError(f"the service answers an alert with {answer.status}")

    def _kill(self) -> None:
        assert self._process is not None  # noqa: S101 (it was started)
        self._process.kill()
        self._process.wait()

    def _stop(self) -> None:
        """Ends it as an operator does."""
        assert self._process is not None  # noqa: S101 (it was started)
        self._process.send_signal(signal.SIGTERM)
        self.bans.append(Ban("SIGTERM", datetime.now(UTC), None, resumes=False))
        self._process.wait(120.0)

    def _command(self, *words: str) -> None:
        command = own_module("agent", *words, "--config", self._config)
        subprocess.run(command, env=own_environment(), check=True, timeout=60.0)

    # ---- waiting --------------------------------------------------------------------------------------------------

    def _in_the_middle_of_a_fault(self) -> None:
        """Waits until a fault is in force; one that never comes must not keep the drill."""
        give_up = datetime.now(UTC) + timedelta(minutes=0.15 * self.minutes)
        journal = self._journal()
        try:
            while datetime.now(UTC) < give_up:
                self._look()
                if journal.open_injections():
                    return
        finally:
            journal.close()

    def _until(self, moment: datetime) -> None:
        while datetime.now(UTC) < moment:
            self._look()

    def _look(self) -> None:
        time.sleep(_LOOK_EVERY_S)
        process = self._process
        if process is None or time.monotonic() - self._sampled_s < _SAMPLE_EVERY_S:
            return
        self._sampled_s = time.monotonic()
        self.remains.look()
        if process.poll() is not None:
            if process.returncode != -signal.SIGKILL:
                raise RuntimeError(f"the service has ended with {process.returncode}; see {self.folder}/service.log")
            return
        seen = psutil.Process(process.pid)
        with seen.oneshot():
            taken = [seen.memory_info().rss / 2**20, seen.num_fds(), seen.num_threads()]
        experiments = sum(each.event == INTENDED for each in self.entries())
        self.samples.append([process.pid, experiments, *taken])

    def _journal(self) -> Journal:
        return Journal(self.settings.cluster_state_dir / "journal.db", BootClock(), "drill", checked=True)

    @property
    def _config(self) -> Path:
        return self.folder / "service.yaml"


def main() -> None:
    """Drills, prints, and writes down."""
    parser = argparse.ArgumentParser(prog="python -m agent.bench.drill", description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=120.0)
    parser.add_argument("--switches", choices=("hardened", "weak"), help="all of them; default: as the settings say")
    parser.add_argument("--folder", type=Path, help="a new one")
    chosen = parser.parse_args()
    folder = chosen.folder or Path("runs") / f"drill-{time.strftime('%Y-%m-%d-%H%M%S')}"
    overrides: dict[str, Any] = {
        "state_dir": str(folder / "state"),
        "runs_dir": str(folder / "runs"),
        "service.pause_s": 5.0,
        "service.daily.minutes": 1440.0,
        "service.daily.harm_min": 1440.0,
    }
    if chosen.switches is not None:
        overrides["cluster.switches"] = dict.fromkeys(SWITCHES, chosen.switches)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # ends the service, too
    settings = load(PACKAGED / "local.yaml", overrides)
    drill = Drill(settings, folder, chosen.minutes, Remains(settings))
    drill.run()
    facts = drill.facts()
    (folder / "drill.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    print("\n".join(timeline(drill.entries(), drill.bans)))  # noqa: T201
    print(f"\n{machine_and_command()}")  # noqa: T201
    for answer in facts["answers"]:
        print(  # noqa: T201
            f"  {'as it should be' if answer['well'] else 'NOT AS IT SHOULD BE'}: {answer['why']}; "
            f"in force {answer['in_force'] or 'nothing'}, gone after {answer['gone_s']} s, "
            f"began nonetheless {answer['began_nonetheless'] or 'nothing'}, goes on after {answer['resumed_s']} s"
        )
    for name, value in facts.items():
        if name not in {"answers", "samples"}:
            print(f"{name:>28}  {value}")  # noqa: T201
    sys.exit(not facts["well"])


if __name__ == "__main__":
    in_one_line(main)
