"""A learned policy on disk: weights as safetensors, and beside them, as JSON, what they are and how they came about.

Nothing is unpickled. The JSON names the encoding's version, the inputs in their order and the weights' digest, so that
a policy of another version, and one that was cut off or changed, is refused in one line.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from actuators.errors import BadInput
from envs.encoding import ARM_FEATURES, BUDGET_FEATURES, COMPONENT_FEATURES, VERSION
from envs.history import BY_KIND, HISTORY_FEATURES, IN_ROLE

from ..settings import PACKAGED
from .arms import ARM_INPUTS
from .policy import Policy
from .posterior import ArmNetwork, PosteriorPolicy
from .ppo.choosing import PpoPolicy, new_policy
from .ppo.looks import LATELY_MIN
from .ppo.set_policy import SetPolicy

FORMAT: Final = 4
Network: TypeAlias = ArmNetwork | SetPolicy

_PPO_INPUTS = (
    *COMPONENT_FEATURES,
    *(f"hit_within_{scale:g}_min" for scale in LATELY_MIN),
    *BUDGET_FEATURES,
    *BY_KIND,
    *IN_ROLE,
    *HISTORY_FEATURES,
    *ARM_FEATURES,
    *(f"teacher: {name}" for name in ARM_INPUTS),
)
PPO_SORT: Final = "ppo"
_SORTS: Final[Mapping[type[Network], tuple[str, tuple[str, ...]]]] = {
    ArmNetwork: ("posterior", ARM_INPUTS),
    SetPolicy: (PPO_SORT, _PPO_INPUTS),
}
SHIPPED: Final[Mapping[str, Path]] = {
    name: PACKAGED / "policies" / f"{name}.safetensors" for name in ("posterior", "ppo")
}
"""The policies that come with this package, by name."""

_WIDEST = 4096
_N = TypeVar("_N", ArmNetwork, SetPolicy)


def store(network: Network, path: Path, record: Mapping[str, Any]) -> None:
    """Writes a network to `path` and what it is to the JSON file beside it.

    Args:
        network: to keep.
        path: of the weights, ending in `.safetensors`.
        record: of its training: device, steps, minutes, results.
    """
    sort, inputs = _SORTS[type(network)]
    weights = save({name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()})
    described = {
        "format": FORMAT,
        "sort": sort,
        "encoding": VERSION,
        "hidden": network.hidden,
        "teacher": network.teacher_hidden if isinstance(network, SetPolicy) else None,
        "inputs": list(inputs),
        "sha256": hashlib.sha256(weights).hexdigest(),
        "training": dict(record),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    try:
        draft.write_bytes(weights)
        path.with_suffix(".json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
        # Last, and in one step: a policy that is there is whole, and a training that could not write it can try again.
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def policy_in(path: Path) -> Policy:
    """Returns what chooses by the network in a file, frozen.

    Raises:
        BadInput: as `read`.
    """
    if record_of(path).get("sort") == PPO_SORT:
        return PpoPolicy(read(path, SetPolicy))
    return PosteriorPolicy(read(path, ArmNetwork))


def read(path: Path, of: type[_N]) -> _N:
    """Returns the network that `store` wrote.

    Args:
        path: of the weights.
        of: the sort of network.

    Raises:
        BadInput: there is none, it is of another sort or version, or it is damaged.
    """
    described = record_of(path)
    sort, inputs = _SORTS[of]
    for key, ours in (("format", FORMAT), ("encoding", VERSION), ("sort", sort), ("inputs", list(inputs))):
        if described.get(key) != ours:
            raise BadInput(f"policy {path} {_complaint(key, described.get(key), ours)}")
    hidden: Any = described.get("hidden")
    teacher: Any = described.get("teacher")
    for width in (hidden, 1 if teacher is None else teacher):
        if not isinstance(width, int) or not 1 <= width <= _WIDEST:
            raise BadInput(f"policy {path} names {width!r} as its width; allowed is 1 to {_WIDEST}")
    try:
        weights = path.read_bytes()
    except OSError as error:
        raise BadInput(f"policy {path} cannot be read: {error.strerror}") from None
    if hashlib.sha256(weights).hexdigest() != described.get("sha256"):
        raise BadInput(
            f"policy {path} is not the one that {path.with_suffix('.json').name} describes: it was changed or cut off"
        )
    network: Any = ArmNetwork(hidden) if of is ArmNetwork else new_policy(hidden, teacher)
    try:
        network.load_state_dict(load(weights))
    except (SafetensorError, RuntimeError) as error:
        raise BadInput(f"policy {path} does not hold this network: {str(error).splitlines()[0]}") from None
    if not all(bool(torch.isfinite(tensor).all()) for tensor in network.state_dict().values()):
        raise BadInput(f"policy {path} holds weights that are no numbers")
    read_network: _N = network
    return read_network


def _complaint(key: str, theirs: object, ours: object) -> str:
    if key == "inputs":
        return "has other inputs; allowed are those of this release"
    if key == "sort":
        return f"is of sort {theirs!r}; allowed is {ours}"
    return f"is of {key} version {theirs!r}; allowed is version {ours}"


def learnt_on(path: Path) -> dict[str, Any]:
    """Returns how the clusters were drawn on which a policy has learnt, empty where its record does not say.

    Raises:
        BadInput: as `record_of`, or what the record says of that cannot be.
    """
    training = record_of(path).get("training")
    generator = training.get("generator") if isinstance(training, dict) else None
    if not isinstance(generator, dict):
        return {}
    for key in ("without", "families"):
        names = generator.get(key, [])
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise BadInput(f"policy {path} says that it learnt {key} {names!r}; allowed is a list of names")
    return generator


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
    except (ValueError, RecursionError):
        raise BadInput(f"policy {path}: {beside.name} is not JSON") from None
    if not isinstance(described, dict):
        raise BadInput(f"policy {path}: {beside.name} is no JSON object")
    return described
