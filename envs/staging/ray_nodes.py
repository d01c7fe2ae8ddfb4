"""The nodes of the Ray cluster: several raylets on this host, each with its own share of the work.

Serving and training have nodes of their own. The default niceness of every Ray worker is 15, serving included; here it
is 0 where requests are answered and 19 where models are trained, so that the restart of a rank (some ten CPU seconds
of imports) is not felt by those who wait for an answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ray
from ray.cluster_utils import Cluster

from .layout import Layout
from .ports import LOOPBACK

_MIB = 2**20
_OBJECT_STORE_BYTES = 80 * _MIB
"""Per node, and just above the least that Ray allows. The platform passes nothing large around."""


@dataclass(frozen=True, slots=True)
class Node:
    """One raylet.

    Attributes:
        name: what the platform calls it, and a resource that only this node offers, to place actors by.
        cpus: how many CPUs it offers; a promise to the scheduler, not a limit.
        niceness: of all its workers.
    """

    name: str
    cpus: int
    niceness: int


HEAD = Node("head", cpus=2, niceness=0)
# One slot more than replicas: the successor of a hung replica need not wait for its end.
SERVING = Node("serving", cpus=4, niceness=0)
# Three times what one job needs: the placement group of a job that died with its driver may stay for a while.
TRAINING = Node("training", cpus=8, niceness=19)


class RayCluster:
    """The raylets of one platform; made in the main thread, for Ray's own class sets signal handlers.

    Args:
        layout: where Ray's files go.
    """

    def __init__(self, layout: Layout) -> None:
        self._temp_dir = str(layout.ray)
        self._cluster = Cluster(shutdown_at_exit=False)  # the guard ends everything, and faster

    def start_head(self, agent_port: int) -> None:
        """Starts the head node; its agent listens on a port of ours, for the default is one for all of this host."""
        self._add(
            HEAD,
            temp_dir=self._temp_dir,
            dashboard_agent_listen_port=agent_port,
            no_monitor=True,
            include_log_monitor=False,
        )

    def add(self, node: Node) -> None:
        """Starts another node and waits until the head knows it."""
        self._add(node)

    def connect(self) -> None:
        """Makes this process a driver of the cluster."""
        ray.init(self._cluster.address, namespace="staging", log_to_driver=False, configure_logging=False)

    def _add(self, node: Node, **arguments: Any) -> None:  # noqa: ANN401 (Ray's own, of different types)
        self._cluster.add_node(
            node_ip_address=LOOPBACK,
            node_name=node.name,
            num_cpus=node.cpus,
            resources={node.name: 1.0},
            object_store_memory=_OBJECT_STORE_BYTES,
            include_dashboard=False,
            env_vars={"RAY_worker_niceness": str(node.niceness)},
            **arguments,
        )
