"""The same planted weaknesses and the same minutes for every policy, on clusters that are there.

Every campaign has a cluster of its own: a fresh start (local) or the cluster that the start's seed draws (simulated),
and learns its fault-free time anew, so that none is judged by more evidence than another. Who goes first is drawn. On
the embedded cluster the same switches are weak at every start, or some that are drawn for each.

A benchmark that was cut off goes on in the same folder: campaigns that are over stand, one in the middle is run again.
One that was cut short counts as little as one that was killed: it had fewer minutes than the others.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.console import Console

from actuators.errors import BackburnError, BadInput

from ..build.parts import policy_named
from ..campaign import Ending
from ..findings.ground_truth import SWITCHES
from ..findings.record import RunFolder
from ..run import Run
from ..settings import Settings
from . import evidence
from .figures import Finds, finds_of, summed_up
from .oracle import ORACLE, oracle_of

SCHEMA_VERSION = 1
SUMMARY = "benchmark.json"


def require_known(policies: Sequence[str]) -> None:
    """Checks the names of policies.

    Raises:
        BadInput: one is not known, named twice, or there is none.
    """
    if not policies or len(set(policies)) < len(policies):
        raise BadInput(f"policies are {', '.join(policies) or 'none'}; allowed is each of them once, and at least one")
    for name in policies:
        try:
            name == ORACLE or policy_named(name, np.random.default_rng())
        except BadInput as error:
            raise BadInput(f"{error}, {ORACLE}") from error


def summary_of(folder: Path) -> dict[str, Any]:
    """Returns what a benchmark has written down.

    Raises:
        BadInput: the folder holds no benchmark, or one of another version.
    """
    try:
        data: dict[str, Any] = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        version = data["schema_version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{folder} is not the folder of a benchmark: {error}") from error
    if version != SCHEMA_VERSION:
        raise BadInput(f"{folder} was written in schema version {version}; this Backburn reads {SCHEMA_VERSION}")
    return data


def planted(settings: Settings, count: int, seed: int) -> Settings:
    """Returns settings of an embedded cluster on which so many switches are weak, drawn by a seed.

    Raises:
        BadInput: the cluster has no switches, or not so many.
    """
    if settings.cluster.kind != "local":
        raise BadInput(f"--plant: a {settings.cluster.kind} cluster draws its own weaknesses; allowed is a local one")
    if not 0 < count <= len(SWITCHES):
        raise BadInput(f"--plant {count}; allowed is 1 to {len(SWITCHES)}")
    # A stream of its own: the campaign's policy draws from the seed itself.
    weak = np.random.default_rng([seed, 1]).choice(list(SWITCHES), count, replace=False).tolist()
    switches = {name: "weak" if name in weak else "hardened" for name in SWITCHES}
    cluster = settings.cluster.model_copy(update={"switches": switches})
    return settings.model_copy(update={"cluster": cluster})


class Benchmark:
    """Runs campaigns of several policies, one after the other.

    Args:
        settings: of every campaign; the seed is that of the first start.
        policies: their names.
        starts: campaigns of each.
        out: the benchmark's folder; holds nothing yet, or a benchmark with the same settings, which goes on.
        console: where progress is shown.
        plant: how many switches are weak at each start, drawn by its seed; those of the settings if not given.

    Raises:
        BadInput: something that was asked for cannot be done; nothing was started.
    """

    def __init__(
        self,
        settings: Settings,
        policies: Sequence[str],
        starts: int,
        out: Path,
        console: Console,
        *,
        plant: int | None = None,
    ) -> None:
        require_known(policies)
        if plant is not None:
            planted(settings, plant, 0)
        self._settings = settings
        self._plant = plant
        self._policies = policies
        self._starts = starts
        self._console = console
        self._clusters: dict[int, dict[str, Any]] = {}
        self._finds: list[Finds] = []
        if out.exists():
            self._folder = RunFolder.reopened(out)
            self._take_up(out)
        else:
            self._folder = RunFolder(out)
            self._folder.settings(settings.model_dump(mode="json"))
            self._written("started")

    def _take_up(self, folder: Path) -> None:
        """Takes what a benchmark that was cut off has come to."""
        data = summary_of(folder)
        try:
            before = yaml.safe_load((folder / "settings.yaml").read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise BadInput(f"{folder} is not the folder of a benchmark: {error}") from error
        if before != self._settings.model_dump(mode="json") or data.get("plant") != self._plant:
            raise BadInput(f"{folder} holds a benchmark with other settings; choose another --run-dir")
        try:
            self._finds = [Finds.from_json(campaign) for campaign in data["campaigns"]]
            self._clusters = {int(start): cluster for start, cluster in data["clusters"].items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadInput(f"{folder} is not the folder of a benchmark: {error}") from error

    def execute(self) -> list[dict[str, Any]]:
        """Runs all campaigns, or as many as there is time for before somebody asks for the end.

        Returns:
            One row per policy, the best first.

        Raises:
            BackburnError: a campaign could not be run, or was cut short; what was found before is kept.
        """
        first_seed = self._settings.campaign.seed
        order = np.random.default_rng(first_seed)
        over = {(find.start, find.policy) for find in self._finds}
        for start in range(1, self._starts + 1):
            for policy in order.permutation(list(self._policies)).tolist():
                if (start, policy) not in over and self._campaign(start, policy, first_seed + start - 1).interrupted:
                    return self._written("interrupted")
        return self._written("done")

    def _campaign(self, start: int, policy: str, seed: int) -> Run:
        chosen = self._settings.campaign.model_copy(update={"policy": policy, "seed": seed})
        settings = self._settings if self._plant is None else planted(self._settings, self._plant, seed)
        path = self._path(f"start-{start}-{policy}")
        run = Run(
            settings.model_copy(update={"campaign": chosen}),
            path,
            self._console,
            policy=(lambda env: oracle_of(env, run.planted)) if policy == ORACLE else None,
            afresh=True,
        )
        self._console.print(f"\nstart {start}, {policy}", style="bold", highlight=False)
        result = run.execute()
        if run.interrupted:
            return run
        if result.ending is not Ending.COMPLETE:
            raise BackburnError(
                f"the campaign in {path} was cut short: {result.ended_by}; "
                f"with --run-dir {self._folder.path} the benchmark goes on from there"
            )
        experiments = evidence.append(self._folder.path, path, policy=policy, start=start, seed=seed)
        self._clusters[start] = {"planted": dict(run.planted), "topology": dict(run.topology)}
        self._finds.append(
            finds_of(
                result,
                run.planted,
                policy=policy,
                start=start,
                seed=seed,
                experiments=experiments,
                budget_min=self._settings.campaign.budget_min,
            )
        )
        self._written("running")
        return run

    def _path(self, name: str) -> Path:
        """Returns where a campaign goes; what was cut off stays beside it."""
        tries = (self._folder.path / (name if n == 1 else f"{name}-try-{n}") for n in count(1))
        return next(path for path in tries if not path.exists())

    def _written(self, state: str) -> list[dict[str, Any]]:
        rows = summed_up(self._finds, self._settings.campaign.seed)
        self._folder.note(state=state)
        self._folder.json(
            SUMMARY,
            {
                "schema_version": SCHEMA_VERSION,
                "state": state,
                "cluster": self._settings.cluster.kind,
                "budget_min": self._settings.campaign.budget_min,
                "seed": self._settings.campaign.seed,
                "plant": self._plant,
                "policies": rows,
                "campaigns": [find.to_json() for find in self._finds],
                "clusters": {str(start): cluster for start, cluster in self._clusters.items()},
            },
        )
        return rows
