"""The model: two dense layers, in numpy.

Serving never needs torch, whose import alone would cost a replica two seconds and 200 MB. The trainer's torch module
has the same tensors under the same names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from .world import CLASSES, FEATURES, draw_examples

HIDDEN = 64
"""Width of the hidden layer."""

Tensors: TypeAlias = Mapping[str, NDArray[np.float32]]
"""Named arrays, as they are stored."""

_SHAPES = {
    "hidden.weight": (HIDDEN, FEATURES),
    "hidden.bias": (HIDDEN,),
    "output.weight": (CLASSES, HIDDEN),
    "output.bias": (CLASSES,),
}


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model thinks of n entities.

    Attributes:
        labels: shape (n,), the likeliest class.
        scores: shape (n,), the probability given to it.
    """

    labels: NDArray[np.int64]
    scores: NDArray[np.float32]


class Model:
    """A classifier that is ready to answer.

    Args:
        tensors: `hidden.weight`, `hidden.bias`, `output.weight`, `output.bias`.

    Raises:
        ValueError: a tensor is missing or has another shape.
    """

    def __init__(self, tensors: Tensors) -> None:
        shapes = {name: tensor.shape for name, tensor in tensors.items()}
        if shapes != _SHAPES:
            raise ValueError(f"a model has tensors {_SHAPES}, not {shapes}")
        self.tensors = tensors

    def predict(self, features: NDArray[np.float32]) -> Prediction:
        """Classifies features of shape (n, FEATURES)."""
        probabilities = _softmax(_logits(self.tensors, _hidden(self.tensors, features)))
        labels = probabilities.argmax(axis=1)
        return Prediction(labels, probabilities[np.arange(len(labels)), labels])


def untrained(seed: int) -> Model:
    """Returns a model with random weights."""
    return Model(_random_tensors(np.random.default_rng(seed)))


def fit_quickly(seed: int, steps: int = 500, batch: int = 256) -> Model:
    """Fits a model in a blink (about 0.15 s), so that a new platform has something to serve."""
    rng = np.random.default_rng(seed)
    tensors = _random_tensors(rng)
    optimizer = _Adam(tensors)
    for _ in range(steps):
        optimizer.step(_gradients(tensors, *draw_examples(rng, batch)))
    return Model(tensors)


class _Adam:
    """The optimizer of that name, on arrays that it updates in place."""

    _RATE, _FIRST_DECAY, _SECOND_DECAY, _EPSILON = 0.01, 0.9, 0.999, 1e-8

    def __init__(self, tensors: Tensors) -> None:
        self._tensors = tensors
        self._first = {name: np.zeros_like(tensor) for name, tensor in tensors.items()}
        self._second = {name: np.zeros_like(tensor) for name, tensor in tensors.items()}
        self._steps = 0

    def step(self, gradients: Tensors) -> None:
        """Moves every tensor against its gradient."""
        self._steps += 1
        first_scale = 1 / (1 - self._FIRST_DECAY**self._steps)
        second_scale = 1 / (1 - self._SECOND_DECAY**self._steps)
        for name, gradient in gradients.items():
            first, second = self._first[name], self._second[name]
            first += (1 - self._FIRST_DECAY) * (gradient - first)
            second += (1 - self._SECOND_DECAY) * (gradient * gradient - second)
            step = self._RATE * first * first_scale / (np.sqrt(second * second_scale) + self._EPSILON)
            self._tensors[name][...] -= step


def _random_tensors(rng: np.random.Generator) -> dict[str, NDArray[np.float32]]:
    return {
        name: (rng.standard_normal(shape, dtype=np.float32) / np.float32(np.sqrt(shape[-1])))
        if name.endswith("weight")
        else np.zeros(shape, np.float32)
        for name, shape in _SHAPES.items()
    }


def _hidden(tensors: Tensors, features: NDArray[np.float32]) -> NDArray[np.float32]:
    hidden: NDArray[np.float32] = np.maximum(
        features @ tensors["hidden.weight"].T + tensors["hidden.bias"], np.float32(0)
    )
    return hidden


def _logits(tensors: Tensors, hidden: NDArray[np.float32]) -> NDArray[np.float32]:
    logits: NDArray[np.float32] = hidden @ tensors["output.weight"].T + tensors["output.bias"]
    return logits


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    normalised: NDArray[np.float32] = raised / raised.sum(axis=1, keepdims=True)
    return normalised


def _gradients(tensors: Tensors, features: NDArray[np.float32], labels: NDArray[np.int64]) -> Tensors:
    """Returns the gradients of the mean cross entropy."""
    hidden = _hidden(tensors, features)
    error = _softmax(_logits(tensors, hidden))
    error[np.arange(len(labels)), labels] -= 1
    error /= len(labels)
    hidden_error = (error @ tensors["output.weight"]) * (hidden > 0)
    return {
        "hidden.weight": hidden_error.T @ features,
        "hidden.bias": hidden_error.sum(axis=0),
        "output.weight": error.T @ hidden,
        "output.bias": error.sum(axis=0),
    }
