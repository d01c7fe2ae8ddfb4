"""Choosing by what has broken elsewhere: incidents that were counted, and nothing that is learnt on the way."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from actuators.catalogue import CATALOGUE
from actuators.errors import BadInput
from envs.encoding import ROLES, observed

from ..complaint import one_line
from .policy import Mask, Observation
from .rivals import unconfirmed

ANY = "any"
_OTHER = "other"
_EVERYBODY = (*ROLES, _OTHER)


class Incident(BaseModel):
    """So many incidents of one sort."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: str
    role: str = ANY
    count: Annotated[float, Field(gt=0)]

    @field_validator("kind")
    @classmethod
    def _is_a_kind(cls, value: str) -> str:
        if value not in CATALOGUE:
            raise ValueError(f"unknown fault kind; allowed are {', '.join(CATALOGUE)}")
        return value

    @field_validator("role")
    @classmethod
    def _is_a_role(cls, value: str) -> str:
        if value not in {ANY, *_EVERYBODY}:
            raise ValueError(f"unknown role; allowed are {ANY}, {', '.join(_EVERYBODY)}")
        return value


class Incidents(BaseModel):
    """What a file of incidents says."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    incidents: Annotated[Sequence[Incident], Field(min_length=1)]


def incidents_in(path: Path) -> Sequence[Incident]:
    """Reads a file of incidents.

    Raises:
        BadInput: it cannot be read, or does not say something sensible.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"cannot read the incidents {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise BadInput(f"{path} holds {type(data).__name__}; expected a mapping with the key 'incidents'")
    try:
        return Incidents.model_validate(data).incidents
    except ValidationError as error:
        raise BadInput(f"{path}: {one_line(error, Incidents)}") from error


class IncidentPolicy:
    """Draws experiments as often as what they are like has happened elsewhere.

    Which component of a role, and how hard, is drawn; what was borne is not tried again before all else was. What has
    just shown a weakness is repeated at once until it is confirmed or borne, as every rival does.

    Args:
        incidents: what has happened.
        random: draws.
    """

    def __init__(self, incidents: Sequence[Incident], random: np.random.Generator) -> None:
        self._random = random
        self._counts = np.zeros((len(_EVERYBODY), len(CATALOGUE)))
        for incident in incidents:
            roles = range(len(_EVERYBODY)) if incident.role == ANY else [_EVERYBODY.index(incident.role)]
            for role in roles:
                self._counts[role, list(CATALOGUE).index(incident.kind)] += incident.count / len(roles)

    def choose(self, observation: Observation, mask: Mask) -> int:
        """Returns an allowed experiment; stops only when there is none."""
        again = unconfirmed(observation, mask)
        if again is not None:
            return again
        odds = self._odds(observation, mask)
        if not odds.any():
            allowed = np.flatnonzero(mask[:-1])
            return int(self._random.choice(allowed)) if len(allowed) else len(mask) - 1
        return int(self._random.choice(len(odds), p=odds / odds.sum()))

    def _odds(self, observation: Observation, mask: Mask) -> npt.NDArray[np.float64]:
        """Returns how often each allowed experiment's like has happened, shape (arms,), of those tried least."""
        roles = observation["components"][:, : len(_EVERYBODY)].argmax(1)
        shape = observation["arms"].shape[:3]
        allowed = mask[:-1].reshape(shape)
        tried = observed(observation, "tried")
        counts = np.broadcast_to(self._counts[roles][..., None], shape)
        open_arms = allowed & (observed(observation, "confirmed") == 0) & (counts > 0)
        if open_arms.any():
            open_arms = open_arms & (tried <= tried[open_arms].min())
        # All experiments of one role and kind together are as likely as the incidents they stand for.
        alike = np.zeros((len(_EVERYBODY), shape[1]))
        np.add.at(alike, roles, open_arms.sum(2))
        share = counts / np.maximum(1.0, alike[roles])[..., None]
        odds: npt.NDArray[np.float64] = np.where(open_arms, share, 0.0).reshape(-1)
        return odds
