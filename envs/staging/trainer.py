"""The training job: what runs inside of every rank.

A rank must be able to die at any moment: all it needs to go on lies on disk, and nothing in anybody's memory. Imported
by ranks only, for it imports torch.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import ray.train
import torch
from prometheus_client import Counter, Gauge
from ray.train.torch import prepare_model

from .announcements import announce
from .cards import card_of
from .checkpoints import Checkpoint, Checkpoints, InPlaceCheckpoints, VerifiedCheckpoints
from .exporter import export_in_thread, new_metrics
from .logs import log_to
from .model import HIDDEN, Tensors
from .registry import Registry
from .training_job import TRAINER, TrainingSettings
from .world import CLASSES, FEATURES, draw_examples

_BATCH = 256
_LEARNING_RATE = 0.01

_log = logging.getLogger(__name__)


class Classifier(torch.nn.Module):
    """The model that `model.Model` serves, as a torch module with the same tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = torch.nn.Linear(FEATURES, HIDDEN)
        self.output = torch.nn.Linear(HIDDEN, CLASSES)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Returns logits of shape (n, CLASSES) for features of shape (n, FEATURES)."""
        logits: torch.Tensor = self.output(torch.relu(self.hidden(features)))
        return logits

    def tensors(self) -> Tensors:
        """Returns the weights as the registry stores them."""
        return {name: tensor.numpy(force=True) for name, tensor in self.state_dict().items()}


class Learner:
    """A classifier together with the state of its optimizer.

    Args:
        device: where it learns; what it hands out is never on it.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self._device = device or torch.device("cpu")
        self.classifier = Classifier().to(self._device)
        self._optimizer = torch.optim.Adam(self.classifier.parameters(), lr=_LEARNING_RATE)
        self._replica: torch.nn.Module = self.classifier
        self.steps = 0

    def distribute(self) -> None:
        """From here on, gradients are averaged over all ranks."""
        self._replica = prepare_model(self.classifier, move_to_device=self._device)

    def step(self, features: torch.Tensor, labels: torch.Tensor) -> float:
        """Learns from one batch; returns its loss."""
        self._optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(self._replica(features.to(self._device)), labels.to(self._device))
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self.steps += 1
        return loss.item()

    def checkpoint(self) -> Checkpoint:
        """Returns everything that is needed to go on from here."""
        moments = {
            f"optimizer.{parameter}.{name}": value.numpy(force=True)
            for parameter, state in self._optimizer.state_dict()["state"].items()
            for name, value in state.items()
        }
        return Checkpoint(self.steps, {**self.classifier.tensors(), **moments})

    def resume(self, checkpoint: Checkpoint) -> None:
        """Goes on from a checkpoint."""
        weights: dict[str, torch.Tensor] = {}
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for name, array in checkpoint.tensors.items():
            tensor = torch.from_numpy(np.array(array))
            if name.startswith("optimizer."):
                _, parameter, moment = name.split(".")
                moments.setdefault(int(parameter), {})[moment] = tensor
            else:
                weights[name] = tensor
        self.classifier.load_state_dict(weights)
        self._optimizer.load_state_dict(self._optimizer.state_dict() | {"state": moments})
        self.steps = checkpoint.step


class Rank:
    """One rank of the job; the first one also writes checkpoints and publishes models."""

    def __init__(self, settings: TrainingSettings, number: int) -> None:
        self._settings = settings
        self._number = number
        self._checkpoints: Checkpoints = (
            VerifiedCheckpoints(settings.checkpoints)
            if settings.verified_checkpoints
            else InPlaceCheckpoints(settings.checkpoints)
        )
        self._registry = Registry(settings.registry)
        # Chosen once: who has lost a card does not go on without it in silence, but dies and is started again.
        device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
        self._learner = Learner(device)
        self._resume()
        self._rng = np.random.default_rng([settings.seed, number, self._learner.steps])
        metrics = new_metrics()
        self._steps = Counter("train_rank_steps", "Steps made by this process.", registry=metrics)
        self._step = Gauge("train_rank_step", "Step of the job that this rank is at.", registry=metrics)
        self._loss = Gauge("train_loss", "Loss of the newest batch.", registry=metrics)
        self._step.set(self._learner.steps)
        announce(settings.announcements, TRAINER, export_in_thread(metrics), place=number, card=card_of(device))

    def run(self) -> None:
        """Trains until killed, at a steady pace."""
        self._learner.distribute()
        period_s = 1 / self._settings.steps_per_s
        due = checkpoint_at = publish_at = time.monotonic()
        checkpoint_at += self._settings.checkpoint_every_s
        publish_at += self._settings.publish_every_s
        while True:
            self._make_step()
            now = time.monotonic()
            if self._number == 0 and now >= checkpoint_at:
                self._checkpoints.save(self._learner.checkpoint())
                checkpoint_at = now + self._settings.checkpoint_every_s
            if self._number == 0 and now >= publish_at:
                version = self._registry.publish(self._learner.classifier.tensors())
                _log.info("published model version %d at step %d", version, self._learner.steps)
                publish_at = now + self._settings.publish_every_s
            due = max(due + period_s, now)
            time.sleep(max(0.0, due - time.monotonic()))

    def _make_step(self) -> None:
        features, labels = draw_examples(self._rng, _BATCH)
        loss = self._learner.step(torch.from_numpy(features), torch.from_numpy(labels))
        self._steps.inc()
        self._step.set(self._learner.steps)
        self._loss.set(loss)

    def _resume(self) -> None:
        checkpoint = self._checkpoints.load()
        if checkpoint is not None:
            self._learner.resume(checkpoint)
        _log.info("rank %d begins at step %d", self._number, self._learner.steps)


def train(config: Mapping[str, Any]) -> None:
    """The training function that Ray Train calls in every rank; `config["settings"]` are `TrainingSettings`."""
    settings: TrainingSettings = config["settings"]
    log_to(settings.log)
    torch.set_num_threads(1)
    torch.manual_seed(settings.seed)
    try:
        Rank(settings, ray.train.get_context().get_world_rank()).run()
    except Exception:
        _log.exception("the rank failed")
        raise
