"""Ray Train where there is no dashboard, and ranks that meet on one host.

Ray Train's second version is named in full: which one `ray.train` means is decided as it is imported, and no type
checker can follow that.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

import ray
import torch.distributed
from ray.train._internal.base_worker_group import BaseWorkerGroup
from ray.train.backend import BackendConfig
from ray.train.torch.config import TorchConfig, _TorchBackend
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.context import TrainRunContext
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2.api.callback import RayTrainCallback
from ray.train.v2.torch.torch_trainer import TorchTrainer


class OwnTrainer(TorchTrainer):
    """Ray's trainer of as many workers as were asked for, less helpers that have nothing to do here.

    Its cleaner of placement groups asks the dashboard whether the job still lives. Without a dashboard it never learns
    of a job's end, and every job would leave one more process behind; who has started the job removes stale groups.
    Two more processes, of 120 MB each, would hand out datasets, of which there are none, and speak for the job where
    several want a cluster to grow.
    """

    def _create_default_callbacks(self) -> list[RayTrainCallback]:
        callbacks = super()._create_default_callbacks()
        idle = (PlacementGroupCleanerCallback, DatasetsCallback)
        return [callback for callback in callbacks if not isinstance(callback, idle)]

    def _initialize_and_run_controller(self, **settings: Any) -> Any:  # noqa: ANN401 (theirs)
        settings["scaling_policy"] = _Fixed(settings["scaling_policy"].scaling_config)
        return super()._initialize_and_run_controller(**settings)


class _Fixed(FixedScalingPolicy):
    """Ray's own, but for its word to the autoscaler; that sees the placement group that waits."""

    def after_controller_start(self, train_run_context: TrainRunContext) -> None:
        pass

    def _maybe_send_resource_request(self) -> None:
        pass


@dataclass
class LocalTorchConfig(TorchConfig):
    """Ranks that meet over a file: torch's own meeting point listens on every address of the host.

    Attributes:
        folder: where the file is made.
    """

    folder: str = ""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        """Ray's torch backend, but for the meeting."""
        return _LocalBackend


class _LocalBackend(_TorchBackend):
    def on_start(self, worker_group: BaseWorkerGroup, backend_config: BackendConfig) -> None:
        assert isinstance(backend_config, LocalTorchConfig)  # noqa: S101 (it names this class as its own)
        meeting = f"{backend_config.folder}/{uuid.uuid4().hex}"
        ranks = len(worker_group)
        backend = backend_config.backend or "gloo"
        joined: list[Any] = [
            worker_group.execute_single_async(i, _meet, meeting, i, ranks, backend) for i in range(ranks)
        ]
        ray.get(joined)


def _meet(file: str, number: int, ranks: int, backend: str) -> None:
    torch.distributed.init_process_group(backend, init_method=f"file://{file}", rank=number, world_size=ranks)
