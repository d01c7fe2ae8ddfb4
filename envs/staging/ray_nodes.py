"""The nodes of the Ray cluster: several raylets on this host, each with its own share of the work.

Ray starts its nodes once and lets a lost one be lost. Every real platform has somebody who brings machines back; here
it is the control loop, which tends the nodes as it tends plain processes.

Serving and training have nodes of their own. The default niceness of every Ray worker is 15, serving included; here it
is 0 where requests are answered and 19 where models are trained, so that the restart of a rank (some ten CPU seconds
of imports) is not felt by those who wait for an answer.
"""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray._private.ray_constants import PROCESS_TYPE_RAYLET
from ray.cluster_utils import Cluster

from .layout import Layout
from .ports import LOOPBACK
from .processes import ProcessId, identify

_MIB = 2**20
_OBJECT_STORE_BYTES = 80 * _MIB
"""Per node, and just above the least that Ray allows. The platform passes nothing large around."""

_log = logging.getLogger(__name__)


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
# One slot more than replicas at most: the successor of a hung replica need not wait for its end.
SERVING = Node("serving", cpus=5, niceness=0)
# Three times what one job needs: the placement group of a job that died with its driver may stay for a while.
TRAINING = Node("training", cpus=8, niceness=19)


class RayCluster:
    """The raylets of one platform; used in the main thread, for Ray's own class sets signal handlers.

    Args:
        layout: where Ray's files go.
        restart_delay_s: time from the loss of a worker node to its restart, seconds.
    """

    def __init__(self, layout: Layout, restart_delay_s: float) -> None:
        self._temp_dir = str(layout.ray)
        self._restart_delay_s = restart_delay_s
        self._cluster = Cluster(shutdown_at_exit=False)  # the guard ends everything, and faster
        self._raylets: dict[Node, subprocess.Popen[bytes]] = {}
        self._restart_at_s: dict[Node, float] = {}

    @property
    def raylets(self) -> Mapping[str, ProcessId]:
        """The raylets of the worker nodes that are up, by the node's name. The head is nobody's place of work."""
        # Once one was waited for, its number may be anybody's.
        found = {node.name: identify(raylet.pid) for node, raylet in self._raylets.items() if raylet.poll() is None}
        return {name: process for name, process in found.items() if process is not None}

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
        """Starts a worker node and waits until the head knows it."""
        started = self._add(node)
        self._raylets[node] = started.all_processes[PROCESS_TYPE_RAYLET][0].process

    def connect(self) -> None:
        """Makes this process a driver of the cluster."""
        ray.init(self._cluster.address, namespace="staging", log_to_driver=False, configure_logging=False)

    def tend(self, now_s: float) -> None:
        """Looks after the worker nodes: notices the loss of one, and brings it back when its delay is over."""
        for node, raylet in list(self._raylets.items()):
            if raylet.poll() is None:
                continue
            if node not in self._restart_at_s:
                self._restart_at_s[node] = now_s + self._restart_delay_s
                _log.warning("node %s is lost: its raylet ended with status %s", node.name, raylet.returncode)
            if now_s >= self._restart_at_s[node]:
                self.add(node)
                del self._restart_at_s[node]
                _log.info("node %s is back", node.name)

    def _add(self, node: Node, **arguments: Any) -> Any:  # noqa: ANN401 (Ray's own, of different types)
        return self._cluster.add_node(
            node_ip_address=LOOPBACK,
            node_name=node.name,
            num_cpus=node.cpus,
            resources={node.name: 1.0},
            object_store_memory=_OBJECT_STORE_BYTES,
            include_dashboard=False,
            env_vars={"RAY_worker_niceness": str(node.niceness)},
            **arguments,
        )
