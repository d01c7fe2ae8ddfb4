"""A small training of two workers, for tests to run and to harm.

python -m tests.training_group FOLDER [--nodes 2] [--steps N]
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from agent.learning.local_ray import OBJECT_STORE_BYTES, own_ground
from agent.learning.policy_file import read
from agent.learning.posterior import ArmNetwork
from agent.learning.ppo.practice import Practice
from agent.learning.ppo.together import Group, practised_together
from agent.settings import PACKAGED
from envs.simulator.structure import Generator

PRACTICE = Practice(
    steps=96, batch=16, rollout=8, minibatch=64, epochs=1, critic_first=1, judged_every=2, hidden=8, seed=5
)


def trained(folder: Path, practice: Practice, address: str | None) -> None:
    teacher = read(PACKAGED / "policies" / "posterior.safetensors", ArmNetwork)
    group = Group(2, 1, "cpu", address, Generator((6, 8)), clusters=64, aside=8, aside_seed=1)
    practised_together(group, practice, teacher, folder, {"of": "a test"})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--steps", type=int, default=PRACTICE.steps)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    practice = replace(PRACTICE, steps=chosen.steps)
    if chosen.nodes == 1:
        trained(chosen.folder, practice, None)
    else:
        on_nodes(chosen.folder, practice, chosen.nodes)
    print("done", flush=True)


def on_nodes(folder: Path, practice: Practice, nodes: int) -> None:
    """Trains on a Ray cluster in which no node has room for two workers."""
    folder.mkdir(parents=True, exist_ok=True)
    with own_ground(folder) as root:
        from ray.cluster_utils import Cluster

        cluster = Cluster(shutdown_at_exit=False)
        for number in range(nodes):
            cluster.add_node(
                node_ip_address="127.0.0.1",
                num_cpus=1,
                object_store_memory=OBJECT_STORE_BYTES,
                include_dashboard=False,
                **({"temp_dir": str(root / "ray")} if number == 0 else {}),
            )
        trained(folder, practice, cluster.address)


if __name__ == "__main__":
    main()
