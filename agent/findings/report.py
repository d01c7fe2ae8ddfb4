"""The report of a run: HTML in one file, Markdown, JSON. Made from the run's folder alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import yaml
from markupsafe import Markup

from actuators.catalogue import CATALOGUE
from actuators.errors import BadInput
from envs.hypothesis import Mechanism
from envs.protections import Gap, gap_of

from .record import SCHEMA_VERSION, tallied
from .timeline import timeline
from .waterfall import as_text, waterfall

_SYMBOL = {
    "weakness": "✗ weak",
    "resilient": "✓ held",
    "inconclusive": "? unclear",
    "invalid": "- invalid",
    "tool_error": "! tool error",
    "untested": "untested",
    "absent": "·",
}
_WORST_FIRST = ("weakness", "tool_error", "inconclusive", "resilient", "invalid", "untested", "absent")
_SEVERITY_ORDER = {"high": 0, "medium": 1, "low": 2}

_NOT_OVER = frozenset({"started", "running"})
"""States of a run that goes on, or was killed."""

_UNKNOWN_YET: Mapping[str, Any] = {
    "ended_at": None,
    "ended_by": None,
    "timings": {"bring_up_s": None, "calibration_s": None, "campaign_s": None},
}
"""Facts that only the end of a run knows."""

_MALFORMED = (ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError, jinja2.UndefinedError)
"""What comes of files that hold something else than a run leaves."""


def load_run(folder: Path) -> dict[str, Any]:
    """Reads a run's folder; of a run that goes on or was killed, what is there, and None for what nobody knows.

    Raises:
        BadInput: it is not the folder of a run, or no experiment was ever recorded there.
    """
    if not (folder / "run.json").exists():
        raise BadInput(f"{folder} is not the folder of a run: it holds no run.json")
    try:
        run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        if run["schema_version"] != SCHEMA_VERSION:
            raise BadInput(
                f"{folder} was written in schema version {run['schema_version']}; this Backburn reads {SCHEMA_VERSION}"
            )
        outcomes, weaknesses = folder / "outcomes.jsonl", folder / "weaknesses.json"
        text = outcomes.read_text(encoding="utf-8") if outcomes.exists() else ""
        is_over = "ended_at" in run or run["state"] not in _NOT_OVER
        whole = text if is_over else text[: text.rfind("\n") + 1]  # the last line may be cut off
        experiments = [json.loads(line) for line in whole.splitlines()]
        none_yet = not is_over and bool(experiments) and not weaknesses.exists()
        truth = folder / "ground_truth.json"
        return {
            "name": folder.resolve().name,
            "run": run if is_over else {**_UNKNOWN_YET, **tallied(experiments), **run},
            "settings": yaml.safe_load((folder / "settings.yaml").read_text(encoding="utf-8")),
            "outcomes": experiments,
            "weaknesses": [] if none_yet else json.loads(weaknesses.read_text(encoding="utf-8")),
            "ground_truth": json.loads(truth.read_text(encoding="utf-8")) if truth.exists() else None,
        }
    except (OSError, *_MALFORMED) as error:
        raise BadInput(f"{folder} is not the folder of a finished run: {_said(error)}") from error


def write_reports(folder: Path) -> None:
    """Writes report.html, report.md and report.json into a run's folder."""
    data = load_run(folder)
    for name, form in FORMATS.items():
        (folder / f"report.{name}").write_text(form(data), encoding="utf-8")


def rendered(folder: Path, form: str) -> str:
    """Returns a run's report in one of the formats.

    Raises:
        BadInput: no such format, or not the folder of a run.
    """
    if form not in FORMATS:
        raise BadInput(f"unknown report format {form!r}; allowed are {', '.join(FORMATS)}")
    data = load_run(folder)
    try:
        return FORMATS[form](data)
    except _MALFORMED as error:
        raise BadInput(f"{folder} is not the folder of a finished run: {_said(error)}") from error


def _html(data: Mapping[str, Any]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("agent.findings"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = _number
    return environment.get_template("report.html").render(**_view(data))


def _markdown(data: Mapping[str, Any]) -> str:
    environment = jinja2.Environment(  # noqa: S701 (Markdown is no HTML; names are put into code spans)
        loader=jinja2.PackageLoader("agent.findings"), trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = _number
    return environment.get_template("report.md").render(**_view(data))


def _json(data: Mapping[str, Any]) -> str:
    outcomes = [{key: value for key, value in outcome.items() if key != "trace"} for outcome in data["outcomes"]]
    return (
        json.dumps({"schema_version": SCHEMA_VERSION, **data, "outcomes": outcomes}, indent=2, allow_nan=False) + "\n"
    )


FORMATS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {"html": _html, "md": _markdown, "json": _json}


def _view(data: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what the templates show."""
    topology = data["run"].get("topology", {"components": [], "observers": {}})
    names = [component["name"] for component in topology["components"]]
    everyone = [*names, *topology["observers"]]
    outcomes = [outcome for outcome in data["outcomes"] if outcome["refusal"] is None]
    shams = [outcome for outcome in outcomes if outcome["fault"] is None]
    roles = {component["name"]: component.get("role", "") for component in topology["components"]}
    earlier = data["run"].get("known", [])
    gaps = {weakness["id"]: _gap_of(weakness) for weakness in data["weaknesses"]}
    weaknesses = sorted(data["weaknesses"], key=lambda w: (_SEVERITY_ORDER[w["severity"]], gaps[w["id"]]))
    return {
        **data,
        "weaknesses": [_shown(weakness, outcomes, everyone, data["settings"], gaps) for weakness in weaknesses],
        "gaps": len(set(gaps.values())),
        "known": [{**each, "again": _shown_again(each, outcomes, roles)} for each in earlier],
        "unconfirmed": _unconfirmed(_without_known(outcomes, earlier, roles), weaknesses),
        "held": [outcome for outcome in outcomes if outcome["fault"] and outcome["verdict"] == "resilient"],
        "shams": shams,
        "unjudged": sum(outcome["verdict"] == "invalid" for outcome in shams),
        "refused": [outcome for outcome in data["outcomes"] if outcome["refusal"] is not None],
        "coverage": _coverage(outcomes, topology["components"]),
        "components": names,
        "symbol": _SYMBOL,
        "p_floor": min((outcome["evidence"]["p_floor"] for outcome in outcomes), default=None),
    }


def _gap_of(weakness: Mapping[str, Any]) -> Gap:
    try:
        kind, role, mechanism = weakness["fingerprint"].split("|")
        return gap_of(kind, role, Mechanism(mechanism))
    except ValueError:
        named = weakness["fingerprint"]
        raise BadInput(
            f"not the folder of a finished run: fingerprint {named!r}; allowed is KIND|ROLE|MECHANISM"
        ) from None


def _shown(
    weakness: Mapping[str, Any],
    outcomes: Sequence[Mapping[str, Any]],
    everyone: Sequence[str],
    settings: Mapping[str, Any],
    gaps: Mapping[str, Gap],
) -> dict[str, Any]:
    """Returns a weakness with its picture, with what is missing, and with who was looked at and not hit."""
    own = gaps[weakness["id"]]
    series = weakness["evidence"]["series"]
    replicates = [outcome for outcome in outcomes if _is_cell_of(outcome, weakness)]
    hit = {entry["component"] for entry in weakness["affected"]}
    tested = weakness.get("tested")  # older records do not say
    picture = timeline(replicates, series, _bound(series, settings), weakness["title"])
    shown_by = weakness.get("shown_by")  # nor do they say that: then it is told of the last one
    clearest = [one for one in replicates if one["injection_id"] == shown_by] if shown_by else replicates[-1:]
    requests = weakness.get("requests")
    drawn = waterfall(requests, f"Two requests: {weakness['title']}")
    return {
        **weakness,
        "picture": Markup(picture),  # noqa: S704 (drawn by us from numbers; every text in it is escaped)
        "waterfall": Markup(drawn),  # noqa: S704 (likewise)
        "requests_text": as_text(requests),
        "missing": str(own),
        "same_gap": [other for other, gap in gaps.items() if gap == own and other != weakness["id"]],
        "not_hit": [name for name in everyone if name in tested and name not in hit] if tested else None,
        "recovered": _recovered(weakness),
        "replicates": replicates,
        "aborted": next((one for one in clearest if one["aborted_by"]), None),
        "chosen": next((one["because"]["said"] for one in replicates if one.get("because")), None),
    }


def _recovered(weakness: Mapping[str, Any]) -> str:
    """Says when all promises were kept again; that nobody saw it is not the same as that it was too late."""
    if weakness["recovery_s"] is not None:
        return f"{_number(weakness['recovery_s'])} s after the injection"
    late = weakness.get("not_recovered") or weakness["mechanism"] == Mechanism.NOT_RECOVERED
    return "not within its deadline" if late else "not seen"


def _bound(series: str, settings: Mapping[str, Any]) -> float | None:
    clauses = [c for c in settings["hypothesis"]["clauses"] if c["series"] == series and c["must"] != "keep"]
    if not clauses:
        return None
    bound: float | None = clauses[0]["at_most"] if clauses[0]["at_most"] is not None else clauses[0]["at_least"]
    return bound


def _fingerprints(outcome: Mapping[str, Any], roles: Mapping[str, str]) -> list[str]:
    """Returns the weaknesses that an experiment's broken promises speak for, the most telling first."""
    if outcome["fault"] is None:
        return []
    kind, role = outcome["fault"]["kind"], roles.get(outcome["fault"]["target"]["name"], "")
    return [f"{kind}|{role}|{broken['mechanism']}" for broken in outcome["broken"]]


def _shown_again(known: Mapping[str, Any], outcomes: Sequence[Mapping[str, Any]], roles: Mapping[str, str]) -> int:
    """Returns how many experiments have shown a weakness that earlier campaigns had confirmed."""
    weak = [outcome for outcome in outcomes if outcome["verdict"] == "weakness"]
    return sum(known["fingerprint"] in _fingerprints(outcome, roles) for outcome in weak)


def _without_known(
    outcomes: Sequence[Mapping[str, Any]], known: Sequence[Mapping[str, Any]], roles: Mapping[str, str]
) -> list[Mapping[str, Any]]:
    """Returns the experiments but for those that speak most of all for what earlier campaigns had confirmed."""
    names = {weakness["fingerprint"] for weakness in known}
    return [o for o in outcomes if o["verdict"] == "tool_error" or names.isdisjoint(_fingerprints(o, roles)[:1])]


def _unconfirmed(
    outcomes: Sequence[Mapping[str, Any]], weaknesses: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """Returns experiments that showed or hinted at a weakness that was not confirmed, or in which the tool failed.

    Of those with one kind of fault on one component that broke promises in the same way, the last one.
    """
    confirmed = {(w["fault"]["kind"], w["fault"]["target"], w["mechanism"]) for w in weaknesses}
    last: dict[tuple[object, ...], Mapping[str, Any]] = {}
    for outcome in outcomes:
        if outcome["fault"] is None or outcome["verdict"] not in {"weakness", "inconclusive", "tool_error"}:
            continue
        shown = (outcome["fault"]["kind"], outcome["fault"]["target"]["name"], outcome["mechanism"])
        is_failure = outcome["verdict"] == "tool_error"
        if is_failure or shown not in confirmed:
            last[(*shown, is_failure)] = outcome
    return list(last.values())


def _coverage(
    outcomes: Sequence[Mapping[str, Any]], components: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, str]]:
    """Returns the worst verdict of every fault kind and component.

    `untested` is what could have been tried and was not; `absent` is what a component offers nothing for.
    """
    grid = {
        name: {c["name"]: "untested" if kind.capability in c["capabilities"] else "absent" for c in components}
        for name, kind in CATALOGUE.items()
    }
    for outcome in outcomes:
        if outcome["fault"] is not None:
            row, name = grid.setdefault(outcome["fault"]["kind"], {}), outcome["fault"]["target"]["name"]
            row[name] = min(row.get(name, "untested"), outcome["verdict"], key=_WORST_FIRST.index)
    return grid


def _is_cell_of(outcome: Mapping[str, Any], weakness: Mapping[str, Any]) -> bool:
    fault = outcome["fault"]
    wanted = weakness["fault"]
    return fault is not None and (fault["kind"], fault["target"]["name"], fault["intensity"]) == (
        wanted["kind"],
        wanted["target"],
        wanted["intensity"],
    )


def _said(error: Exception) -> str:
    """Says what is wrong with a file; a key alone would say nothing."""
    return f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)


def _number(value: float | None, digits: int = 3) -> str:
    """Shows a number for people; unknown is said, not shown as 0."""
    return "unknown" if value is None else f"{value:.{digits}g}"
