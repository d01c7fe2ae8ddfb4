"""A learned policy on disk: weights as safetensors, and beside them, as JSON, what they are and how they came about.

Nothing is unpickled. The JSON names the encoding's version, the inputs in their order and the weights' digest, so that
a policy of another version, and one that was cut off or changed, is refused in one line.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from actuators.errors import BadInput
from envs.encoding import VERSION

from .arms import ARM_INPUTS
from .posterior import ArmNetwork

FORMAT: Final = 1
_WIDEST = 4096


def store(network: ArmNetwork, path: Path, record: Mapping[str, Any]) -> None:
    """Writes a network to `path` and what it is to the JSON file beside it.

    Args:
        network: to keep.
        path: of the weights, ending in `.safetensors`.
        record: of its training: device, steps, minutes, results.
    """
    weights = save({name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()})
    described = {
        "format": FORMAT,
        "encoding": VERSION,
        "hidden": network.hidden,
        "inputs": list(ARM_INPUTS),
        "sha256": hashlib.sha256(weights).hexdigest(),
        "training": dict(record),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(weights)
    path.with_suffix(".json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")


def read(path: Path) -> ArmNetwork:
    """Returns the network that `store` wrote.

    Raises:
        BadInput: there is none, it is of another version, or it is damaged.
    """
    described = record_of(path)
    for key, ours in (("format", FORMAT), ("encoding", VERSION), ("inputs", list(ARM_INPUTS))):
        if described.get(key) != ours:
            shown = f"has other {key}" if key == "inputs" else f"is of {key} version {described.get(key)!r}"
            wanted = "those of this release" if key == "inputs" else f"version {ours}"
            raise BadInput(f"policy {path} {shown}; allowed are {wanted}")
    hidden = described.get("hidden")
    if not isinstance(hidden, int) or not 1 <= hidden <= _WIDEST:
        raise BadInput(f"policy {path} names {hidden!r} as its width; allowed is 1 to {_WIDEST}")
    try:
        weights = path.read_bytes()
    except OSError as error:
        raise BadInput(f"policy {path} cannot be read: {error.strerror}") from None
    if hashlib.sha256(weights).hexdigest() != described.get("sha256"):
        raise BadInput(
            f"policy {path} is not the one that {path.with_suffix('.json').name} describes: it was changed or cut off"
        )
    network = ArmNetwork(hidden)
    try:
        network.load_state_dict(load(weights))
    except (SafetensorError, RuntimeError) as error:
        raise BadInput(f"policy {path} does not hold this network: {str(error).splitlines()[0]}") from None
    if not all(bool(torch.isfinite(tensor).all()) for tensor in network.state_dict().values()):
        raise BadInput(f"policy {path} holds weights that are no numbers")
    return network


def record_of(path: Path) -> dict[str, Any]:
    """Returns what the JSON beside a policy says.

    Raises:
        BadInput: there is none, or it is no JSON object.
    """
    beside = path.with_suffix(".json")
    try:
        described = json.loads(beside.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"policy {path} has no {beside.name} beside it that can be read: {error.strerror}") from None
    except ValueError:
        raise BadInput(f"policy {path}: {beside.name} is not JSON") from None
    if not isinstance(described, dict):
        raise BadInput(f"policy {path}: {beside.name} is no JSON object")
    return described
