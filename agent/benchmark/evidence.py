"""Raw evidence of a benchmark: one line per experiment, enough to draw it again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actuators.catalogue import CATALOGUE
from actuators.errors import BadInput
from actuators.fault import Fault
from envs.hypothesis import Broken, Mechanism
from envs.outcome import Outcome
from envs.scoring import Score

from ..findings.weakness import evidence_of

_NAME = "evidence.jsonl"


@dataclass(frozen=True, slots=True)
class Experiment:
    """One experiment of a benchmark.

    Attributes:
        start: number of the cluster start that it was run on.
        outcome: what it came to by itself.
    """

    start: int
    outcome: Outcome


def append(folder: Path, campaign: Path, **whose: object) -> int:
    """Adds the experiments of a campaign to a benchmark's evidence, in one step and in place of what was there of it.

    Args:
        folder: of the benchmark.
        campaign: the folder of the campaign's run.
        whose: policy, start and seed of the campaign.

    Returns:
        How many there were.
    """
    outcomes = campaign / "outcomes.jsonl"
    lines = outcomes.read_text(encoding="utf-8").splitlines() if outcomes.exists() else []
    path, draft = folder / _NAME, folder / f".{_NAME}.draft"
    kept = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    kept = [line for line in kept if not whose.items() <= json.loads(line).items()]
    for line in lines:
        outcome = {key: value for key, value in json.loads(line).items() if key != "trace"}
        kept.append(json.dumps(whose | {"minutes": outcome["evidence"]["cost_min"]} | outcome))
    draft.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
    draft.replace(path)
    return len(lines)


def read(folder: Path) -> Iterator[Experiment]:
    """Yields all experiments of a benchmark that were permitted.

    Raises:
        BadInput: there is no evidence, or a line of it cannot be read.
    """
    path = folder / _NAME
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{folder} holds no {_NAME} of a benchmark: {error}") from error
    for number, line in enumerate(lines, 1):
        try:
            data = json.loads(line)
            known = data["fault"] is None or data["fault"]["kind"] in CATALOGUE
            if data["refusal"] is None and known:
                yield Experiment(int(data["start"]), outcome_of(data))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadInput(f"{path}, line {number} is not an experiment of a benchmark: {error}") from error


def outcome_of(data: Mapping[str, Any]) -> Outcome:
    """Returns an experiment as it was judged by itself, without its traces.

    Args:
        data: as `findings.record.outcome_json` made it.
    """
    alone = data["alone"] or data
    broken = [Broken(**entry | {"mechanism": Mechanism(entry["mechanism"])}) for entry in data["broken"]]
    return Outcome(
        fault=None if data["fault"] is None else Fault.from_json(data["fault"]),
        score=Score(
            evidence_of(alone["evidence"]),
            tuple(broken),
            alone["reason"],
            data["recovery_s"],
            tuple((series, move) for series, move in data["moved"]),
            tuple(data.get("tested", ())),  # what was written before does not say
        ),
        injection_id=data["injection_id"],
        repaired=tuple(data["repaired"]),
        quarantined=tuple(data["quarantined"]),
    )
