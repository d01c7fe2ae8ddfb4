"""The operations interface of the platform: a Unix socket, one JSON object per line.

    {"verb": "repair", "component": C, "action": A}    -> {"ok": true} | {"ok": false, "error": "..."}
    {"verb": "status"}                                 -> {"ok": true, "state": ..., "error": ..., "ready": {...}}

A repair is answered as soon as it is accepted. Whether it helped is for the metrics to tell.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPAIRS: Mapping[str, tuple[str, ...]] = {
    "trainer": ("restart", "reset"),
    "model-server": ("restart",),
    "gateway": ("restart",),
    "feature-store": ("restart",),
    "stream": ("restart",),
    "feature-pipeline": ("restart",),
}
"""Every component's repairs."""


@dataclass(frozen=True, slots=True)
class Repair:
    """One accepted repair."""

    component: str
    action: str


class ControlSocket:
    """Answers requests of those who operate the platform.

    Args:
        path: of the socket.
        status: returns the state of the platform as a JSON object.
        accept: is handed every valid repair; returns why it cannot be done now, or None.
    """

    def __init__(
        self, path: Path, status: Callable[[], Mapping[str, Any]], accept: Callable[[Repair], str | None]
    ) -> None:
        self._path = path
        self._status = status
        self._accept = accept

    async def serve(self) -> None:
        """Serves until cancelled."""
        server = await asyncio.start_unix_server(self._converse, self._path)
        self._path.chmod(0o600)
        async with server:
            await server.serve_forever()

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Carries out one request and returns its answer."""
        verb = request.get("verb")
        if verb == "status":
            return {"ok": True, **self._status()}
        if verb == "repair":
            error = self._repair(str(request.get("component")), str(request.get("action")))
            return {"ok": True} if error is None else {"ok": False, "error": error}
        return {"ok": False, "error": f"unknown verb {verb!r}; known are repair, status"}

    def _repair(self, component: str, action: str) -> str | None:
        if component not in REPAIRS:
            return f"unknown component {component!r}; known are {', '.join(REPAIRS)}"
        if action not in REPAIRS[component]:
            return f"unknown repair {action!r} of {component}; known are {', '.join(REPAIRS[component])}"
        return self._accept(Repair(component, action))

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(json.dumps(self._answer_line(line)).encode() + b"\n")
                await writer.drain()
        except (OSError, ValueError):
            pass  # a caller who leaves, or whose line has no end, gets no answer
        finally:
            writer.close()

    def _answer_line(self, line: bytes) -> dict[str, Any]:
        try:
            request = json.loads(line)
        except ValueError as error:
            return {"ok": False, "error": f"not JSON: {error}"}
        if not isinstance(request, dict):
            return {"ok": False, "error": "a request is a JSON object"}
        return self.answer(request)
