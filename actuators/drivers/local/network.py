"""Impairment of real bytes, in the fault proxy on every dependency edge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...clock import Instant
from ...errors import InjectionFailed, RevertFailed
from ...fault import Target
from ...network import Impairment
from .platform import Platform, ask


class LocalNetwork:
    """The dependency edges of the embedded cluster; see `actuators.network.Network`.

    Args:
        platform: where the fault proxy is found.
    """

    def __init__(self, platform: Platform) -> None:
        self._platform = platform

    def routes_into(self, target: Target) -> Sequence[str]:
        """Returns the fault proxy's routes that lead to the target."""
        routes: list[str] = self._platform.component(target)["routes_in"]
        return routes

    def impair(self, route: str, impairment: Impairment, injection_id: str, until: Instant) -> None:
        """Tells the fault proxy what to do to a route; it forgets by itself at the deadline."""
        try:
            answer = self._ask(
                {
                    "verb": "impair",
                    "id": injection_id,
                    "route": route,
                    "effect": impairment.effect,
                    "amount": impairment.amount,
                    "boot_id": until.boot_id,
                    "boottime_s": until.boottime_s,
                }
            )
        except (OSError, ValueError) as error:
            raise InjectionFailed(f"the fault proxy cannot be asked: {error}") from error
        if not answer.get("ok"):
            raise InjectionFailed(f"the fault proxy refused: {answer.get('error')}")

    def clear(self, injection_id: str) -> None:
        """Tells the fault proxy to forget the injection."""
        self._ask_if_there({"verb": "clear", "id": injection_id})

    def affected(self, injection_id: str) -> dict[str, int]:
        """Asks the fault proxy how often the injection was felt, per route."""
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
