"""Checkpoints of training: all that it takes to go on as if nothing had happened, as safetensors; nothing is unpickled.

One is written beside the last and takes its place in one step, so a kill in the middle leaves the last one.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from actuators.errors import BadInput

from .device import DevicePPO
from .set_policy import SetPolicy

if TYPE_CHECKING:
    from .practice import Practice

NAME: Final = "checkpoint.safetensors"
_SETTINGS: Final = "training.json"
_COUNTS: Final = ("num_timesteps", "_n_updates")


def store(
    model: DevicePPO, beside: Mapping[str, SetPolicy], path: Path, settings: Mapping[str, Any], **more: float
) -> None:
    """Writes a checkpoint.

    Args:
        model: between two rollouts.
        beside: other policies that training cannot go on without, by name.
        path: of the checkpoint.
        settings: of the training, JSON; only the same may go on from it.
        more: numbers to be handed back.
    """
    tensors = {f"policy.{name}": value for name, value in model.policy.state_dict().items()}
    for whose, policy in beside.items():
        tensors |= {f"{whose}.{name}": value for name, value in policy.state_dict().items()}
    tensors |= {f"campaigns.{name}": value for name, value in model.campaigns.saved().items()}
    tensors |= {"earned": model._earned, "lasted": model._lasted, "luck": torch.get_rng_state()}
    if model.campaigns.device.type == "cuda":
        tensors["luck_cuda"] = torch.cuda.get_rng_state(model.campaigns.device)
    for index, state in model.policy.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
    numbers: dict[str, Any] = {name: getattr(model, name) for name in _COUNTS} | more
    draft = path.with_suffix(".draft")
    save_file(
        {name: value.detach().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()},
        draft,
        {"settings": _digest(settings), "numbers": json.dumps(numbers)},
    )
    with draft.open("rb") as file:
        os.fsync(file.fileno())
    draft.replace(path)


def restore(
    model: DevicePPO, beside: Mapping[str, SetPolicy], path: Path, settings: Mapping[str, Any]
) -> dict[str, float]:
    """Makes a model and the policies beside it what they were, and returns the numbers that were stored with them.

    Args:
        model: made as the one that was stored.
        beside: policies to be changed, by name.
        path: of the checkpoint.
        settings: of this training.

    Raises:
        BadInput: the file is damaged, or of a training with other settings.
    """
    try:
        with safe_open(path, "pt", device=str(model.campaigns.device)) as file:
            described = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    except (OSError, SafetensorError) as error:
        raise BadInput(f"checkpoint {path} cannot be read: {str(error).splitlines()[0]}") from None
    if described.get("settings") != _digest(settings):
        raise BadInput(f"checkpoint {path} is of a training with other settings; allowed is to go on with the same")
    try:
        numbers: dict[str, float] = json.loads(described["numbers"])
        for name in _COUNTS:
            setattr(model, name, int(numbers.pop(name)))
        model.policy.load_state_dict(under("policy", tensors))
        for whose, policy in beside.items():
            policy.load_state_dict(under(whose, tensors))
        model.campaigns.restore(under("campaigns", tensors))
        model._earned, model._lasted = tensors["earned"], tensors["lasted"]
        optimizer = model.policy.optimizer.state_dict()
        states: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in under("optimizer", tensors).items():
            index, _, name = key.partition(".")
            # Adam counts its steps on the host.
            states.setdefault(int(index), {})[name] = value.cpu() if name == "step" else value
        model.policy.optimizer.load_state_dict({"state": states, "param_groups": optimizer["param_groups"]})
        torch.set_rng_state(tensors["luck"].cpu())
        if "luck_cuda" in tensors:
            torch.cuda.set_rng_state(tensors["luck_cuda"].cpu(), model.campaigns.device)
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise BadInput(f"checkpoint {path} does not fit this training: {str(error).splitlines()[0]}") from None
    return numbers


def under(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns the tensors of one of those in a checkpoint, under their own names."""
    return {name[len(prefix) + 1 :]: value for name, value in tensors.items() if name.startswith(f"{prefix}.")}


def require_same(
    folder: Path, practice: Practice, origin: Mapping[str, Any], *, workers: int = 1, over_ray: bool = False
) -> None:
    """Writes down whose folder it is.

    Args:
        folder: of checkpoints.
        practice: of the training.
        origin: which clusters it learns on and which teacher it begins as, JSON.
        workers: that learn together.
        over_ray: whether they do so over Ray Train: checkpoints of a group, even of one, are none of one alone.

    Raises:
        BadInput: it is another training's.
    """
    settings = {"practice": asdict(practice), "origin": dict(origin), "workers": workers, "over_ray": over_ray}
    path, text = folder / _SETTINGS, (json.dumps(settings, sort_keys=True, indent=1) + "\n").encode()
    if not path.exists():
        draft = path.with_suffix(".draft")
        draft.write_bytes(text)
        draft.replace(path)
    elif path.read_bytes() != text:
        raise BadInput(f"{path} is of a training with other settings; allowed is to go on with the same")


def has_begun(folder: Path) -> bool:
    """Tells whether a folder holds a checkpoint, of one alone or of a group."""
    return any(folder.rglob(f"*{NAME}"))


def _digest(settings: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
