"""How many replicas Ray Serve wants at the moment, where it scales by itself.

It is asked again and again and never waited for: a controller that does not answer must not keep the platform from its
other work. What it said last holds until it says something else.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import ray
from ray.actor import ActorHandle

_ASKED_EVERY_S = 0.5


class Scaling:
    """Follows the target of one deployment.

    Args:
        controller: Serve's own.
        deployment: its name, and that of its application.
        first: how many replicas there are to be before Serve has said anything.
    """

    def __init__(self, controller: ActorHandle[Any], deployment: str, first: int) -> None:
        self._deployment = deployment
        self._target = first
        self._controller = controller
        self._asked_s = float("-inf")
        self._answer: ray.ObjectRef[Any] | None = None

    def target(self) -> int:
        """Returns how many replicas there should be, as Serve last said."""
        if self._answer is not None and ray.wait([self._answer], timeout=0.0)[0]:
            self._take(self._answer)
            self._answer = None
        if self._answer is None and time.monotonic() - self._asked_s >= _ASKED_EVERY_S:
            self._asked_s = time.monotonic()
            self._answer = self._controller.get_serve_instance_details.remote()
        return self._target

    def _take(self, answer: ray.ObjectRef[Any]) -> None:
        try:
            details = ray.get(answer)
        except ray.exceptions.RayError:
            return
        self._target = target_in(details, self._deployment, self._target)


def target_in(details: Mapping[str, Any], deployment: str, otherwise: int) -> int:
    """Returns the target that Serve's details name for a deployment of the same name as its application.

    >>> details = {"applications": {"web": {"deployments": {"web": {"target_num_replicas": 3}}}}}
    >>> target_in(details, "web", 1), target_in({"applications": {}}, "web", 1)
    (3, 1)
    """
    application = details["applications"].get(deployment, {})
    target = application.get("deployments", {}).get(deployment, {}).get("target_num_replicas")
    return otherwise if target is None else int(target)
