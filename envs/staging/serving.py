"""Ray Serve as the platform runs it: one HTTP proxy on the head node, replicas on the serving node."""

from __future__ import annotations

from dataclasses import dataclass

import ray
from ray import serve
from ray.serve.config import HTTPOptions
from ray.serve.schema import ApplicationStatus, LoggingConfig

from .model_server import MODEL_SERVER, PREDICT_PATH, AnsweringModelServer, ModelServer, ModelServerSettings
from .ports import LOOPBACK
from .ray_nodes import SERVING

_MOST_ONGOING_REQUESTS = 200
"""Per replica. Far above what a healthy one has, so that a slow dependency is felt and not hidden in a queue."""


@dataclass(frozen=True, slots=True)
class Serving:
    """The model server's application.

    Attributes:
        settings: of every replica.
        replicas: how many.
        port: of the HTTP proxy.
    """

    settings: ModelServerSettings
    replicas: int
    port: int

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
            num_replicas=self.replicas,
            max_ongoing_requests=_MOST_ONGOING_REQUESTS,
            # Three failed checks make a replica dead; Serve's defaults would take minutes to see a hung one.
            health_check_period_s=1.0,
            health_check_timeout_s=2.0,
            graceful_shutdown_timeout_s=1.0,
            ray_actor_options={"num_cpus": 1, "resources": {SERVING.name: 0.1}},
            logging_config=logging,
        )(AnsweringModelServer if self.settings.answers_to_be_well else ModelServer)
        target = serve.RunTarget(deployment.bind(self.settings), name=MODEL_SERVER, route_prefix=PREDICT_PATH)
        serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)

    def failure(self) -> str | None:
        """Returns why the application could not be deployed, None while it may still be."""
        try:
            application = serve.status().applications.get(MODEL_SERVER)
        except ray.exceptions.RayError as error:
            return str(error)
        if application is None or application.status != ApplicationStatus.DEPLOY_FAILED:
            return None
        return application.message
