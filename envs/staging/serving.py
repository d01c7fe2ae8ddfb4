"""Ray Serve as the platform runs it: one HTTP proxy on the head node, replicas on the serving node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ray
from ray import serve
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE
from ray.serve.config import HTTPOptions
from ray.serve.schema import ApplicationStatus, LoggingConfig

from .model_server import MODEL_SERVER, PREDICT_PATH, AnsweringModelServer, ModelServer, ModelServerSettings
from .ports import LOOPBACK
from .ray_nodes import SERVING
from .scaling import Scaling

_MOST_ONGOING_REQUESTS = 200
"""Per replica, where nothing is bounded: far above what a healthy one has."""

_BOUNDED_ONGOING_REQUESTS = 6
"""Of all ordered replicas together, where it is bounded: a slow one is then passed over as soon as it has its share."""

_AUTOSCALING = {
    "target_ongoing_requests": 3,
    "metrics_interval_s": 0.25,
    "look_back_period_s": 1.0,
    "upscale_delay_s": 0.25,
    "downscale_delay_s": 30.0,
}
"""In calm each replica has a fifth of a request. Who waits here leaves after two seconds, and a replica takes two to
start: Serve's own delays of half a minute and of ten are for other loads. Were it taken away sooner, the one replica
that is well would leave those that are starved alone again, and come and go for as long as they are."""

_MOST_ADDED = 2
"""One replica that was added for a burst may still be there when all are starved."""


@dataclass(frozen=True, slots=True)
class Serving:
    """The model server's application.

    Attributes:
        settings: of every replica.
        replicas: how many; where it scales by itself, how many at least.
        port: of the HTTP proxy.
        bounded: whether a replica takes on few requests at once.
        autoscaled: whether there may be more.
    """

    settings: ModelServerSettings
    replicas: int
    port: int
    bounded: bool
    autoscaled: bool

    def start(self) -> None:
        """Starts Serve and asks for the application, without waiting for its replicas."""
        logging = LoggingConfig(enable_access_log=False)
        serve.start(
            proxy_location="HeadOnly",
            http_options=HTTPOptions(host=LOOPBACK, port=self.port),
            logging_config=logging,
        )
        deployment = serve.deployment(
            name=MODEL_SERVER,
            max_ongoing_requests=_BOUNDED_ONGOING_REQUESTS // self.replicas if self.bounded else _MOST_ONGOING_REQUESTS,
            # Three failed checks make a replica dead; Serve's defaults would take minutes to see a hung one.
            health_check_period_s=1.0,
            health_check_timeout_s=2.0,
            graceful_shutdown_timeout_s=1.0,
            ray_actor_options={"num_cpus": 1, "resources": {SERVING.name: 0.1}},
            logging_config=logging,
            **self._number(),
        )(AnsweringModelServer if self.settings.answers_to_be_well else ModelServer)
        target = serve.RunTarget(deployment.bind(self.settings), name=MODEL_SERVER, route_prefix=PREDICT_PATH)
        serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)

    def _number(self) -> dict[str, Any]:
        if not self.autoscaled:
            return {"num_replicas": self.replicas}
        bounds = {"min_replicas": self.replicas, "max_replicas": self.replicas + _MOST_ADDED}
        return {"autoscaling_config": {**_AUTOSCALING, **bounds}}

    def scaling(self) -> Scaling | None:
        """Returns what tells how many replicas there should be; None where that never changes."""
        if not self.autoscaled:
            return None
        controller = ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
        return Scaling(controller, MODEL_SERVER, self.replicas)

    def failure(self) -> str | None:
        """Returns why the application could not be deployed, None while it may still be."""
        try:
            application = serve.status().applications.get(MODEL_SERVER)
        except ray.exceptions.RayError as error:
            return str(error)
        if application is None or application.status != ApplicationStatus.DEPLOY_FAILED:
            return None
        return application.message
