from __future__ import annotations

import numpy as np
import pytest

from envs.staging.model import HIDDEN, Model, fit_quickly, untrained
from envs.staging.world import CLASSES, ENTITIES, FEATURES, World, draw_examples, make_world

SEEDS = range(5)


def accuracy(model: Model, world: World) -> float:
    return float((model.predict(world.features).labels == world.labels).mean())


@pytest.mark.parametrize("seed", SEEDS)
def test_every_class_is_equally_often_right(seed: int) -> None:
    world = make_world(seed)
    assert world.features.shape == (ENTITIES, FEATURES)
    assert np.bincount(world.labels).tolist() == [ENTITIES // CLASSES] * CLASSES


def test_the_same_seed_gives_the_same_world_and_another_seed_another() -> None:
    assert (make_world(3).features == make_world(3).features).all()
    assert not (make_world(3).features == make_world(4).features).all()


def test_examples_are_about_balanced_too() -> None:
    _, labels = draw_examples(np.random.default_rng(0), 20_000)
    assert np.bincount(labels) / len(labels) == pytest.approx(np.full(CLASSES, 1 / CLASSES), abs=0.02)


@pytest.mark.parametrize("seed", SEEDS)
def test_an_untrained_model_is_right_in_at_most_60_percent_and_a_fitted_one_in_at_least_90(seed: int) -> None:
    world = make_world(seed)
    assert accuracy(untrained(seed), world) <= 0.6
    assert accuracy(fit_quickly(seed), world) >= 0.9


def test_the_rule_is_not_linear() -> None:
    world = make_world(0)
    inputs = np.hstack([world.features, np.ones((ENTITIES, 1), np.float32)])
    weights, *_ = np.linalg.lstsq(inputs, np.eye(CLASSES)[world.labels], rcond=None)
    assert ((inputs @ weights).argmax(axis=1) == world.labels).mean() < 0.85


def test_a_score_is_the_probability_of_the_label() -> None:
    prediction = fit_quickly(0).predict(make_world(0).features)
    assert (prediction.scores > 1 / CLASSES).all()
    assert (prediction.scores <= 1).all()


def test_a_model_with_other_shapes_is_refused() -> None:
    tensors = dict(untrained(0).tensors) | {"hidden.bias": np.zeros(HIDDEN + 1, np.float32)}
    with pytest.raises(ValueError, match=r"hidden\.bias"):
        Model(tensors)
