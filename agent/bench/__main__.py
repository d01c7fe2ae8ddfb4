"""What an experiment costs: a real run on the embedded cluster, measured from outside and inside.

    python -m agent.bench [--budget-min N]

Prints a table and writes `bench.json` into the runs folder: `{name: {value, unit, against, ratio}}`, where `against` is
what we aim for and `ratio` is value over aim, null where there is no aim.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from actuators.errors import BadInput

from ..build.local import handle_path
from ..run import Run
from ..settings import PACKAGED, Settings, load
from .beside import in_one_line, machine_and_command
from .rates import AIMS, growth, rates

_SAMPLE_EVERY_S = 5.0
_MB = 1e6
_MANY = 16384


class Memory:
    """Watches the memory of the agent and of the embedded platform: proportional set size, the fair share of each.

    Args:
        settings: of the run; say where the platform's handle is.
    """

    def __init__(self, settings: Settings) -> None:
        self._handle = handle_path(settings)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.agent_mb = 0.0
        self.platform_mb = 0.0
        self.processes = 0

    @contextmanager
    def watched(self) -> Iterator[Memory]:
        """Watches as long as the block lasts, and keeps the highest values."""
        self._thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(_SAMPLE_EVERY_S):
            self.agent_mb = max(self.agent_mb, _pss_mb(psutil.Process()))
            with suppress(OSError, ValueError, KeyError, psutil.Error):
                guard = psutil.Process(json.loads(self._handle.read_text(encoding="utf-8"))["guard"]["pid"])
                processes = [guard, *guard.children(recursive=True)]
                self.platform_mb = max(self.platform_mb, sum(map(_pss_mb, processes)))
                self.processes = max(self.processes, len(processes))


def _pss_mb(process: psutil.Process) -> float:
    try:
        return float(process.memory_full_info().pss) / _MB
    except psutil.Error:
        return 0.0


def measured(run: Mapping[str, Any], experiments: int, memory: Memory, host_cores: int) -> dict[str, dict[str, Any]]:
    """Returns every figure of a run.

    Args:
        run: the content of its `run.json`.
        experiments: how many it came to, shams included.
        memory: what was watched meanwhile.
        host_cores: processors that this process may use.

    Raises:
        BadInput: nothing was measured: there was no time for an experiment.
    """
    timings = run["timings"]
    if not experiments or not run["decision_s"]:
        raise BadInput(f"nothing was measured: {run['ended_by']}; --budget-min has to allow for an experiment")
    figures = {
        f"phase: {phase}": _figure(seconds / experiments, "s per experiment")
        for phase, seconds in timings["phases_s"].items()
        if phase != "ending everything"
    }
    figures["an experiment in all"] = _figure(timings["campaign_s"] / experiments, "s", against=42.0)
    figures["the agent's own share of the time"] = _figure(timings["agent_own_s"] / timings["campaign_s"], "", 0.02)
    figures["the agent's share of the processors"] = _figure(
        timings["agent_cpu_s"] / timings["campaign_s"] / host_cores, "", 0.02
    )
    figures["a decision, median"] = _figure(1000.0 * statistics.median(run["decision_s"]), "ms", 50.0)
    figures["a decision, longest"] = _figure(1000.0 * max(run["decision_s"]), "ms", 50.0)
    figures["memory of the agent, peak"] = _figure(memory.agent_mb, "MB", 1024.0)
    figures["memory of the platform, peak"] = _figure(memory.platform_mb, "MB", 6144.0)
    figures["processes of the platform"] = _figure(float(memory.processes), "")
    figures |= {
        f"start-up: {part} up after": _figure(seconds, "s", 50.0 if part == "ready" else None)
        for part, seconds in timings["startup_s"].items()
    }
    figures["start-up in all, watchdog included"] = _figure(timings["bring_up_s"], "s", 60.0)
    figures["calibration"] = _figure(timings["calibration_s"], "s")
    return figures


def _figure(value: float, unit: str, against: float | None = None) -> dict[str, Any]:
    ratio = None if against is None else round(value / against, 4)
    return {"value": round(value, 4), "unit": unit, "against": against, "ratio": ratio}


def main() -> None:
    """Runs and measures."""
    parser = argparse.ArgumentParser(prog="python -m agent.bench", description="what an experiment costs")
    parser.add_argument("--budget-min", type=float, default=5.0, help="minutes of the campaign that is measured")
    arguments = parser.parse_args()
    settings = load(PACKAGED / "local.yaml", {"campaign.budget_min": arguments.budget_min})
    console = Console()
    run = Run(settings, settings.runs_dir / f"bench-{time.strftime('%Y-%m-%d-%H%M%S')}", console)
    memory = Memory(settings)
    with memory.watched():
        run.execute()
    facts = json.loads((run.folder.path / "run.json").read_text(encoding="utf-8"))
    cores = len(os.sched_getaffinity(0))
    outcomes = run.folder.path / "outcomes.jsonl"
    experiments = len(outcomes.read_bytes().splitlines()) if outcomes.exists() else 0
    figures = measured(facts, experiments, memory, cores)
    for what, rate in rates(cores).items():
        figures[f"simulated, {what}"] = _figure(rate, "experiments/s", AIMS["cpu"].get(what))
    costs = growth()
    for cost in costs:
        name = f"simulated, {cost.campaigns} campaigns, {cost.components} components"
        figures[name] = _figure(cost.us, "us per experiment")
        figures[f"{name}: memory"] = _figure(cost.mib, "MiB", 4096.0 if cost.campaigns == _MANY else None)
    console.print(f"\n{machine_and_command()}", soft_wrap=True)
    for name, figure in figures.items():
        aim = "" if figure["against"] is None else f"aim {figure['against']:g}, ratio {figure['ratio']:.2f}"
        console.print(f"  {name:<42}{figure['value']:>10.3f} {figure['unit']:<18}{aim}", soft_wrap=True)
    path = Path(settings.runs_dir) / "bench.json"
    path.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    console.print(f"written to {path}", soft_wrap=True)


if __name__ == "__main__":
    in_one_line(main)
