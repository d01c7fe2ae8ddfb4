"""The known truth: entities with fixed features, and the rule that labels them.

Because the rule is known, accuracy is measured and never guessed. It is not linear (two of its parts are products) and
its four classes are balanced, so that an untrained model is right in about a quarter of all cases and a constant answer
in exactly a quarter.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FEATURES = 12
"""Length of a feature vector; the last six say nothing about the label, as in life."""

CLASSES = 4
"""Labels run from 0 to 3."""

ENTITIES = 512
"""How many entities there are."""

_MARGIN = 0.4
"""Entities keep this distance from both borders of their class: what is wrong is the model, not the border."""


@dataclass(frozen=True, slots=True)
class World:
    """All entities and their labels.

    Attributes:
        features: shape (ENTITIES, FEATURES), float32.
        labels: shape (ENTITIES,), int64, every class equally often.
    """

    features: NDArray[np.float32]
    labels: NDArray[np.int64]


def make_world(seed: int) -> World:
    """Returns the entities of one cluster; the same seed gives the same world in every process."""
    rng = np.random.default_rng(seed)
    drawn = _draw(rng, 16 * ENTITIES)
    clear = drawn[np.min(np.abs(_borders(drawn)), axis=0) > _MARGIN]
    labels = label_of(clear)
    per_class = ENTITIES // CLASSES
    chosen = np.concatenate([np.flatnonzero(labels == label)[:per_class] for label in range(CLASSES)])
    rng.shuffle(chosen)
    return World(clear[chosen], labels[chosen])


def label_of(features: NDArray[np.float32]) -> NDArray[np.int64]:
    """Applies the rule to features of shape (n, FEATURES); returns labels of shape (n,)."""
    first, second = _borders(features) > 0
    labels: NDArray[np.int64] = 2 * first.astype(np.int64) + second.astype(np.int64)
    return labels


def draw_examples(rng: np.random.Generator, count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Draws labelled examples from the same distribution as the entities, those near a border included."""
    features = _draw(rng, count)
    return features, label_of(features)


def _draw(rng: np.random.Generator, count: int) -> NDArray[np.float32]:
    return rng.standard_normal((count, FEATURES), dtype=np.float32)


def _borders(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns two scores, shape (2, n), each symmetric around 0; their signs make the label."""
    first = features[:, 0] + features[:, 1] * features[:, 2]
    second = features[:, 3] + features[:, 4] * np.abs(features[:, 5])
    return np.stack([first, second])
