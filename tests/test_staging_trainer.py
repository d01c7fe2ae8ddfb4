"""The learner inside of every rank: real torch code, without Ray's cluster."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from envs.staging.checkpoints import Checkpoint, VerifiedCheckpoints
from envs.staging.model import Model
from envs.staging.world import draw_examples, make_world

trainer = pytest.importorskip("envs.staging.trainer")

STEPS_TO_THE_FIRST_PUBLISHED_MODEL = 300


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def learn(learner, steps: int, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        features, labels = draw_examples(rng, 512)
        learner.step(torch.from_numpy(features), torch.from_numpy(labels))


def accuracy(learner) -> float:
    world = make_world(0)
    return float((Model(learner.classifier.tensors()).predict(world.features).labels == world.labels).mean())


def test_the_first_published_model_is_already_a_trained_one() -> None:
    learner = trainer.Learner()
    assert accuracy(learner) <= 0.6
    learn(learner, STEPS_TO_THE_FIRST_PUBLISHED_MODEL)
    assert accuracy(learner) >= 0.9


def test_what_torch_trains_is_what_numpy_serves() -> None:
    learner = trainer.Learner()
    features = make_world(0).features
    with torch.no_grad():
        expected = torch.softmax(learner.classifier(torch.from_numpy(features)), dim=1).max(dim=1)
    prediction = Model(learner.classifier.tensors()).predict(features)
    assert prediction.labels.tolist() == expected.indices.tolist()
    assert prediction.scores == pytest.approx(expected.values.numpy(), abs=1e-5)


def test_a_job_that_resumes_goes_on_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    straight, first_half, second_half = trainer.Learner(), trainer.Learner(), trainer.Learner()
    first_half.resume(Checkpoint(0, straight.classifier.tensors()))
    learn(straight, 20, seed=1)
    learn(straight, 20, seed=2)
    learn(first_half, 20, seed=1)
    VerifiedCheckpoints(tmp_path).save(first_half.checkpoint())
    second_half.resume(VerifiedCheckpoints(tmp_path).load())
    learn(second_half, 20, seed=2)
    assert second_half.steps == straight.steps == 40
    for name, tensor in straight.classifier.tensors().items():
        assert (second_half.classifier.tensors()[name] == tensor).all()
