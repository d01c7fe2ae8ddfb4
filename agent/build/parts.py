"""What all backends have in common: who experiments on a cluster, and who chooses."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from actuators.actuator import Actuator, Repairs
from actuators.dry_run import leashed
from actuators.errors import BadInput
from safety.supervisor import Guardian, Supervisor

from ..settings import Settings
from .state import State

if TYPE_CHECKING:
    import numpy as np

    from envs.clusters.base import Cluster
    from envs.experiment import Experimenter, Observer

    from ..learning.policy import Policy


def experimenter_on(
    cluster: Cluster,
    state: State,
    settings: Settings,
    *,
    actuators: Mapping[str, Actuator],
    repairs: Repairs,
    guardian: Guardian,
    observer: Observer,
    new_id: Callable[[], str] = lambda: f"bb-{secrets.token_hex(6)}",
    dry_run: bool = False,
    sort: Callable[..., Experimenter] | None = None,
) -> Experimenter:
    """Puts the parts together that experiments on one cluster take.

    Args:
        cluster: what is measured.
        state: what outlives runs of it.
        settings: of the run.
        actuators: by family.
        repairs: the cluster's own means of healing.
        guardian: reverts in our place when we die.
        observer: is told about phases.
        new_id: names injections, uniquely.
        dry_run: everything happens but the harm.
        sort: which sort of experimenter; one that runs experiments if not given.

    Raises:
        BadInput: the hypothesis speaks of a series that the cluster does not have.
    """
    _require_series(settings, cluster.series)
    from envs.experiment import Experimenter
    from envs.scoring import Scorer
    from envs.windows import Calibration

    supervisor = Supervisor(
        limits=settings.limits,
        journal=state.journal,
        lever=state.lever,
        lease=state.lease,
        guardian=guardian,
        actuators=leashed(actuators) if dry_run else actuators,
        repairs=repairs,
        declared_repairs={} if dry_run else settings.repairs,  # a repair kills and starts anew: that is harm, too
        clock=cluster.clock,
        new_id=new_id,
        by=f"agent {os.getpid()}",
    )
    scorer = Scorer(Calibration(cluster.series, settings.shape), settings.hypothesis, settings.scoring.alpha)
    return (sort or Experimenter)(cluster, supervisor, scorer, settings.hypothesis, observer, settings.patience)


def _require_series(settings: Settings, series: Sequence[str]) -> None:
    for clause in settings.hypothesis.clauses:
        if clause.series not in series:
            near = ", ".join(get_close_matches(clause.series, series)) or ", ".join(series)
            raise BadInput(f"hypothesis.clauses names {clause.series}, which this cluster has not; allowed is {near}")


def policy_named(name: str, random: np.random.Generator) -> Policy:
    """Returns a policy by its name or by what makes it, one that `backburn train` wrote, or one by a file of incidents.

    Raises:
        BadInput: there is no such policy, or its file is of another version or damaged.
    """
    from ..learning.floor import RARELY, FlooredPolicy
    from ..learning.incident import IncidentPolicy, incidents_in
    from ..learning.own import is_own, own_policy
    from ..learning.policy_file import SHIPPED, policy_in
    from ..learning.unlearned import UNLEARNED

    makers: Mapping[str, Callable[[], Policy]] = {
        **{each: partial(make, random) for each, make in UNLEARNED.items()},
        "thompson": lambda: FlooredPolicy(UNLEARNED["thompson"](random)),
    }
    if name.endswith(".safetensors") or name in SHIPPED:
        return FlooredPolicy(policy_in(SHIPPED.get(name, Path(name))), RARELY)
    if name.endswith(".yaml"):
        return IncidentPolicy(incidents_in(Path(name)), random)
    if is_own(name):
        return own_policy(name, Path.cwd())(random)
    if name not in makers:
        raise BadInput(
            f"unknown policy {name!r}; allowed are {', '.join([*makers, *SHIPPED])}, files that end in .safetensors, "
            "files of incidents that end in .yaml, and module:function of your own"
        )
    return makers[name]()
