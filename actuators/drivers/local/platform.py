"""The platform as its handle shows it, and its own operations interface."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import RepairFailed, TargetNotFound
from ...fault import Target

ANSWER_WITHIN_S = 2.0


class Platform:
    """Reads the handle anew at every question: instances come and go.

    Args:
        handle: path of the platform's handle.
    """

    def __init__(self, handle: Path) -> None:
        self._handle = handle

    def read(self) -> dict[str, Any]:
        """Returns the handle.

        Raises:
            OSError: there is none.
            ValueError: it is not JSON.
        """
        handle: dict[str, Any] = json.loads(self._handle.read_text(encoding="utf-8"))
        return handle

    def component(self, target: Target) -> dict[str, Any]:
        """Returns one component's entry.

        Raises:
            TargetNotFound: there is no platform, or no such component in it.
        """
        try:
            components = self.read()["components"]
        except (OSError, ValueError) as error:
            raise TargetNotFound(f"{target}: the platform's handle cannot be read: {error}") from error
        if target.name not in components:
            raise TargetNotFound(f"there is no {target} on this cluster; known are {', '.join(components)}")
        component: dict[str, Any] = components[target.name]
        return component

    def repair(self, component: str, action: str) -> None:
        """Asks the platform's operations interface; see `actuators.actuator.Repairs`."""
        try:
            answer = ask(self.read()["control_socket"], {"verb": "repair", "component": component, "action": action})
        except (OSError, ValueError) as error:
            raise RepairFailed(f"the platform cannot be asked to {action} {component}: {error}") from error
        if not answer.get("ok"):
            raise RepairFailed(f"the platform will not {action} {component}: {answer.get('error')}")


def ask(address: str, request: Mapping[str, Any]) -> Mapping[str, Any]:
    """Sends one line of JSON to a Unix socket and returns the line of JSON that answers it.

    Raises:
        OSError: nobody listens, or no answer came in time.
        ValueError: the answer is not JSON.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(ANSWER_WITHIN_S)
        connection.connect(address)
        with connection.makefile("rw", encoding="utf-8") as stream:
            stream.write(json.dumps(request) + "\n")
            stream.flush()
            answer: Mapping[str, Any] = json.loads(stream.readline())
    return answer
