"""The models of a simulated cluster: what the registry offers, what servers believe, how often they are right."""

from __future__ import annotations

import hashlib
from typing import Final

import numpy as np

from .document import Document, alive

_WEIGHTS: Final = b"\x00\x00\x80\x3f" * 64
_MODEL: Final = (2).to_bytes(8, "little") + b"{}" + _WEIGHTS
_GOOD, _GUESSED = 0.97, 0.25
_LEAST_AGREEMENT = 0.8


def first_registry() -> Document:
    """Returns a registry that holds one sound version."""
    return {
        "current": 1,
        "withheld": {},
        "versions": {"1": {"content": _MODEL.hex(), "sha256": _checksum(_MODEL.hex())}},
    }


class Models:
    """What model servers have loaded.

    Args:
        weak: which mechanisms are absent.
    """

    def __init__(self, weak: frozenset[str]) -> None:
        self._weak = weak
        self._accuracy_of: dict[str, float | None] = {}

    def load(self, world: Document) -> tuple[float, float]:
        """Returns how often model servers are right with the models they have, and which share of them has one."""
        offered, refused = self._offered(world["registry"])
        loaded: dict[str, float | None] = {}
        for name in alive(world, "model-server"):
            stable = self._accuracy_of.get(name)
            # Who starts has nothing to compare with: it serves what it is given, or the version before.
            tried_out = stable is not None and "canary_gate" not in self._weak
            if offered is None or (tried_out and offered < _LEAST_AGREEMENT):
                loaded[name] = stable
            else:
                loaded[name] = (_GOOD if stable is None else stable) if refused else offered
        self._accuracy_of = loaded
        known = [accuracy for accuracy in loaded.values() if accuracy is not None]
        return (float(np.mean(known)), len(known) / len(loaded)) if known else (0.0, 0.0)

    def _offered(self, registry: Document) -> tuple[float | None, bool]:
        """Returns how often the version to serve is right, and whether a look at its checksum refuses it."""
        if registry["current"] is None:
            return None, False
        current = registry["versions"][str(registry["current"])]
        refused = _checksum(current["content"]) != current["sha256"] and "verify" not in self._weak
        return _accuracy_of(current["content"]), refused


def _accuracy_of(content: str) -> float:
    """Returns how often a model is right, by the share of its weights that are what they should be."""
    weights = bytes.fromhex(content)[-len(_WEIGHTS) :]
    share = float(np.mean(np.frombuffer(weights, np.uint32) == np.frombuffer(_WEIGHTS, np.uint32)))
    return _GUESSED + (_GOOD - _GUESSED) * share


def _checksum(content: str) -> str:
    return hashlib.sha256(bytes.fromhex(content)).hexdigest()
