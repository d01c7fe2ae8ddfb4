"""Hops of requests as components write them, for tests that need no components."""

from __future__ import annotations

import json
from pathlib import Path

from envs.telemetry.traces import RequestTrace, Span

TRACE = "0af7651916cd43dd8448eb211c80319c"


def line(span: str, parent: str | None = None, *, trace: str = TRACE, **changes: object) -> str:
    """Returns one line of a component's file: a hop that has ended, unless `changes` say otherwise."""
    hop = {
        "trace": trace,
        "span": span,
        "parent": parent,
        "component": "client",
        "instance": "client/7",
        "name": "predict",
        "start_s": 100.0,
        "end_s": 100.5,
        "error": None,
        "attributes": {},
    }
    return json.dumps(hop | changes)


def write(folder: Path, *lines: str, name: str = "client-7.jsonl") -> None:
    """Writes one component's file."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("".join(f"{text}\n" for text in lines), encoding="utf-8")


def request(start_s: float, took_s: float | None, *, name: str = "a", error: str | None = None, **told: bool):
    """Returns a request of a single hop."""
    end_s = None if took_s is None else start_s + took_s
    attributes = {key.replace("_", "."): value for key, value in told.items()}
    return RequestTrace(name, (Span("1", None, "client", "client/7", "predict", start_s, end_s, error, attributes),))
