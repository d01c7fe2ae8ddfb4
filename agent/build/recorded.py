"""What is left of clusters that are gone: nothing on it can be broken, and everything else is as it was."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from actuators.clock import Clock

from ..progress import Silent
from ..settings import Settings
from .parts import experimenter_on
from .simulated import InProcess
from .state import State, open_state

if TYPE_CHECKING:
    from envs.clusters.base import Cluster
    from envs.experiment import Experimenter


class Nothing:
    """The means of repair of a cluster that is gone."""

    def repair(self, component: str, action: str) -> None:
        """Repairs nothing."""


class Archive:
    """Makes experimenters on recorded clusters, each behind a door of its own that leads nowhere.

    Args:
        settings: of the recorded run.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._open = ExitStack()

    def experimenter(self, cluster: Cluster, sort: Callable[..., Experimenter] | None = None) -> Experimenter:
        """Returns who sees what a recorded cluster shows; ends the one before.

        Args:
            cluster: the recorded one.
            sort: which sort of experimenter, as for `experimenter_on`.
        """
        self.close()
        return experimenter_on(
            cluster,
            self._state(cluster.clock),
            self._settings,
            actuators={},
            repairs=Nothing(),
            guardian=InProcess(),
            observer=Silent(),
            sort=sort,
        )

    def close(self) -> None:
        """Ends the present one."""
        self._open.close()

    def _state(self, clock: Clock) -> State:
        """Returns a state that is forgotten: what is replayed must not be mixed with what really happens."""
        folder = Path(self._open.enter_context(tempfile.TemporaryDirectory(prefix="backburn-")))
        state = open_state(self._settings.model_copy(update={"state_dir": folder}), clock, f"agent {os.getpid()}")
        self._open.callback(state.close)
        state.lever.release("what is gone cannot be harmed", "backburn")
        state.lease.acquire("a replay")
        return state
