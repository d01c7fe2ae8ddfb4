"""The fault proxy as it is spoken to: what is in force on which route, and for how long."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...clock import Instant
from ...errors import InjectionFailed, RevertFailed
from .platform import Platform, ask


class FaultProxy:
    """The fault proxy of one platform; the protocol is in `actuators.proxy`.

    Args:
        platform: where it is found.
    """

    def __init__(self, platform: Platform) -> None:
        self._platform = platform

    def impair(self, route: str, effect: str, amount: float, injection_id: str, until: Instant) -> None:
        """Tells it what to do to a route; it forgets by itself at the deadline.

        Raises:
            InjectionFailed: it refused, or cannot be asked.
        """
        try:
            answer = self._ask(
                {
                    "verb": "impair",
                    "id": injection_id,
                    "route": route,
                    "effect": effect,
                    "amount": amount,
                    "boot_id": until.boot_id,
                    "boottime_s": until.boottime_s,
                }
            )
        except (OSError, ValueError) as error:
            raise InjectionFailed(f"the fault proxy cannot be asked: {error}") from error
        if not answer.get("ok"):
            raise InjectionFailed(f"the fault proxy refused: {answer.get('error')}")

    def clear(self, injection_id: str) -> None:
        """Tells it to forget an injection."""
        self._ask_if_there({"verb": "clear", "id": injection_id})

    def affected(self, injection_id: str) -> dict[str, int]:
        """Asks it how often an injection was felt, per route."""
        faults = self._ask_if_there({"verb": "list"}).get("faults", [])
        return {fault["route"]: fault["affected"] for fault in faults if fault["id"] == injection_id}

    def _ask_if_there(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Asks the proxy; none listening means no fault, one that does not answer means that nobody can tell."""
        try:
            return self._ask(request)
        except (FileNotFoundError, ConnectionRefusedError):
            return {}
        except (OSError, ValueError) as error:
            raise RevertFailed(f"the fault proxy cannot be asked: {error}") from error

    def _ask(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        return ask(self._platform.read()["proxy_socket"], request)
