"""The Gymnasium environment: one episode is one campaign, one step is one experiment."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias, cast

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from actuators.catalogue import kind_of
from actuators.fault import Fault, Target
from safety.guards import Refusal

from . import encoding
from .clusters.base import Topology
from .confirmation import Cell, Confirmations, Fingerprint, Replicates
from .encoding import ActionCode, ClusterState
from .experiment import Experimenter, Interrupted, NotSteady
from .history import COLUMN, LONG_MIN
from .hypothesis import Mechanism
from .outcome import Outcome
from .protections import Gap, gap_of
from .scoring import POST_WINDOWS, Evidence, Verdict
from .telemetry.snapshot import component_of

Observation: TypeAlias = dict[str, npt.NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Reward:
    """The one formula: severity of what is shown to be missing for the first time, minus what the experiment cost.

    Attributes:
        per_minute: price of a minute.
        blast: price of hitting a whole component at full intensity.
    """

    per_minute: float = 0.02
    blast: float = 0.02

    def of(self, outcome: Outcome, topology: Topology, *, first: bool) -> float:
        """Returns the reward of one experiment.

        Args:
            outcome: what it came to.
            topology: of the cluster.
            first: whether it has confirmed what nobody knew to be missing; repeats pay nothing, and another kind of
                fault that shows the same gap does not either.
        """
        reward = -self.per_minute * outcome.evidence.cost_min
        if outcome.fault is None:
            return reward
        if outcome.refusal is None:
            reward -= self.blast * outcome.fault.intensity
        return reward + (severity(outcome, topology) if first else 0.0)


def severity(outcome: Outcome, topology: Topology) -> float:
    """Returns how much a weakness matters, in [0, 1]: how far promises were broken, and who stands behind the target.

    It counts in full where something outside the cluster, such as its users, depends on the target, and the less, the
    fewer other components do.
    """
    if outcome.fault is None:
        return 0.0
    dependents = topology.dependents_of(outcome.fault.target.name)
    others = max(1, len(topology.components) - 1)
    exposed = 1.0 if dependents & set(topology.observers) else len(dependents) / others
    return outcome.evidence.anomaly_score * (0.5 + 0.5 * exposed)


@dataclass(frozen=True, slots=True)
class Experience:
    """What an experiment of an earlier campaign on the same cluster has shown.

    Attributes:
        fault: what was done.
        evidence: the numbers.
        mechanism: how a promise was broken, if one was.
    """

    fault: Fault
    evidence: Evidence
    mechanism: Mechanism | None


class World(Protocol):
    """What an environment needs per episode: a cluster with everything that experiments on it take."""

    def start(self, seed: int | None) -> Experimenter:
        """Makes the cluster ready for a new episode and returns who experiments on it."""
        ...

    def close(self) -> None:
        """Ends whatever was started; twice is fine."""
        ...


class ChaosEnv(gym.Env[Observation, np.int64]):
    """Chaos experiments on one cluster.

    Observation (`Dict` of float32 arrays; C components, K fault kinds, L levels; features are listed in
    `envs.encoding`): `components` (C, F), `graph` (C, C), `arms` (C, K, L, F), `budget` (F,).

    Action (`Discrete(C * K * L + 1)`): which fault on which component at which level; the last action stops. What the
    guards would refuse now is masked by `action_masks()`; a masked action that is taken all the same is refused at the
    door, touches nothing and earns nothing.

    Reward: severity x first confirmation of a gap, minus minutes and blast radius (`Reward`).

    An episode ends when the budget is spent, the agent stops, or something forbids to go on.

    Attributes:
        outcomes: every experiment of this episode in order, controls included.
        confirmations: what they have shown.
        gaps: what they have shown to be missing.

    Args:
        world: the cluster and its door.
        budget_min: minutes that an episode may spend on the agent's experiments.
        max_experiments: experiments that an episode may hold; None for no limit but the minutes.
        reward: the formula's prices.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (Gymnasium declares it so)

    experimenter: Experimenter
    topology: Topology
    code: ActionCode
    state: ClusterState
    confirmations: Confirmations
    gaps: set[Gap]
    outcomes: list[Outcome]
    spent_min: float
    experiments: int

    def __init__(
        self,
        world: World,
        *,
        budget_min: float,
        max_experiments: int | None = None,
        reward: Reward | None = None,
    ) -> None:
        self._world = world
        self._budget_min = budget_min
        self._max_experiments = max_experiments
        self._reward = reward or Reward()
        self._begin(None)
        self.observation_space = cast("gym.Space[Observation]", encoding.observation_space(self.state))
        self.action_space = gym.spaces.Discrete(self.code.stop + 1)

    # ---- Gymnasium ------------------------------------------------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begins a new campaign; on a simulated cluster the seed decides which one."""
        super().reset(seed=seed)
        self._begin(int(self.np_random.integers(2**31)))
        return self.observation(), {}

    def step(self, action: np.int64 | int) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Runs the experiment that an action stands for.

        Returns:
            Observation, reward, whether the campaign has ended, False, and `{"outcome": …, "confirmed": …}`: the
            `Outcome` (None for `stop`) and the fingerprint that this experiment confirmed, if any (what a control
            beside it confirmed stands in `confirmations` alone); and as `ended_by` the error that forbade the
            experiment, if one did.
        """
        fault = self.code.decode(int(action))
        if fault is None:
            return self.observation(), 0.0, True, False, {"outcome": None, "confirmed": None}
        try:
            outcome = self.experiment(fault) if self._offers(fault) else self._not_offered(fault)
        except (NotSteady, Interrupted) as error:
            return self.observation(), 0.0, True, False, {"outcome": None, "confirmed": None, "ended_by": error}
        self.spent_min += outcome.evidence.cost_min
        self.experiments += 1
        known = len(self.gaps)
        confirmed = self.learn(outcome)
        reward = self._reward.of(outcome, self.topology, first=len(self.gaps) > known)
        return self.observation(), reward, self.is_over, False, {"outcome": outcome, "confirmed": confirmed}

    def action_masks(self) -> npt.NDArray[np.bool_]:
        """Returns which actions the guards would permit now; `stop` always is (name and shape as sb3-contrib asks)."""
        vitals = self.experimenter.lookout.vitals()
        available = self.state.available[0].numpy()
        mask = np.zeros(self.code.stop + 1, dtype=np.bool_)
        mask[self.code.stop] = True
        for action in np.flatnonzero(available):
            fault = self.code.decode(int(action))
            mask[action] = fault is not None and self.experimenter.supervisor.would_refuse(fault, vitals) is None
        return mask

    def _offers(self, fault: Fault) -> bool:
        return bool(self.state.available[(0, *self.code.index(self.code.encode(fault)))])

    def _not_offered(self, fault: Fault) -> Outcome:
        """Refuses what this cluster cannot be tried by; guards know limits, and not what makes sense on a component."""
        return self.experimenter.refused(fault, Refusal("environment", f"this cluster does not offer {fault}"))

    def close(self) -> None:
        """Ends the cluster."""
        self._world.close()

    # ---- what a campaign uses beside the steps --------------------------------------------------------------------

    def experiment(self, fault: Fault) -> Outcome:
        """Runs one experiment; a latent fault's weakness stands only beside a control that its trigger alone passes.

        Raises:
            NotSteady: the cluster was not ready for it.
            Interrupted: something forbids to go on.
        """
        outcome = self.experimenter.run(fault)
        trigger = kind_of(fault.kind).trigger
        if trigger is None or outcome.verdict is not Verdict.WEAKNESS:
            return outcome
        try:
            control = self._control(trigger, fault)
        except (Interrupted, NotSteady):
            control = Verdict.INVALID  # what was found is kept; whether anything more may be done, the next gate tells
        if control is Verdict.RESILIENT:
            return outcome
        what = "breaks promises already" if control is Verdict.WEAKNESS else f"could not be judged ({control})"
        judged = outcome.with_verdict(Verdict.INCONCLUSIVE, f"its trigger alone, {trigger}, {what}")
        return replace(judged, alone=outcome.score)

    def learn(self, outcome: Outcome) -> Fingerprint | None:
        """Takes an experiment's evidence into the history; returns the weakness that it confirmed, if any."""
        self.outcomes.append(outcome)
        fault = outcome.fault
        if fault is None or outcome.refusal is not None:
            return None
        self.state = encoding.after_experiment(self.state, self.code.index(self.code.encode(fault)), outcome.evidence)
        role = self.topology.component(fault.target.name).role
        confirmed = self._add(fault, role, outcome.evidence, outcome.mechanism)
        self._look_as_confirmed([Cell.of(fault)])
        return confirmed

    def let_go(self, first: int) -> None:
        """Lets go of the traces from the `first` outcome on: whoever needs them has written them down.

        A trace is a tenth of a megabyte, and a campaign may last for days.
        """
        self.outcomes[first:] = [replace(outcome, trace={}) for outcome in self.outcomes[first:]]

    def recall(self, experiences: Iterable[Experience], recorded: Collection[str]) -> int:
        """Takes over what earlier campaigns on this cluster have shown, oldest first, as if it were long ago.

        What was confirmed then pays nothing now. An arm that this cluster does not offer any more is left out.
        What only recalling has confirmed, since what spoke against it is forgotten by now, nobody has heard of: it
        counts as confirmed once another experiment shows it.

        Args:
            experiences: what experiments have shown.
            recorded: fingerprints of the weaknesses that were written down, as text.

        Returns:
            How many experiences counted.
        """
        counted, unheard = 0, list[Fingerprint]()
        for experience in experiences:
            fault = experience.fault
            try:
                arm = self.code.index(self.code.encode(fault))
            except ValueError:
                continue
            if not bool(self.state.available[(0, *arm)]):
                continue
            counted += 1
            self.state = encoding.after_experiment(self.state, arm, experience.evidence)
            role = self.topology.component(fault.target.name).role
            confirmed = self._add(fault, role, experience.evidence, experience.mechanism)
            if confirmed is not None and str(confirmed) not in recorded:
                unheard.append(confirmed)
        self._unlearn(unheard)
        if counted:
            self.state = replace(self.state, now_h=self.state.now_h + LONG_MIN / 60.0)
        return counted

    def _add(self, fault: Fault, role: str, evidence: Evidence, mechanism: Mechanism | None) -> Fingerprint | None:
        confirmed = self.confirmations.add(fault, role, evidence, mechanism)
        if confirmed is not None:
            self.gaps.add(gap_of(confirmed.kind, confirmed.role, confirmed.mechanism))
        if evidence.verdict is Verdict.RESILIENT:
            cell = Cell.of(fault)
            self._borne_s[cell] = max(self._borne_s.get(cell, 0.0), fault.duration_s)
        return confirmed

    def _unlearn(self, unheard: Collection[Fingerprint]) -> None:
        """Takes weaknesses for not confirmed."""
        for fingerprint in unheard:
            del self.confirmations.confirmed[fingerprint]
        self.gaps = {gap_of(*fingerprint) for fingerprint in self.confirmations.confirmed}
        self._look_as_confirmed(self.confirmations.cells)

    def _look_as_confirmed(self, cells: Iterable[Cell]) -> None:
        """Lets arms look confirmed that are, and no others: what looks confirmed, no policy repeats.

        Numbers alone cannot tell: promises that were broken in two ways were each seen broken once.
        """
        history = self.state.history.clone()
        for cell in cells:
            replicates = self.confirmations.cells.get(cell, Replicates())
            role = self.topology.component(cell.component).role
            shown = None if replicates.mechanism is None else Fingerprint(cell.kind, role, replicates.mechanism)
            arm = self.code.index(self.code.encode(self.code.fault(*cell)))
            is_confirmed = replicates.confirmed and shown in self.confirmations.confirmed
            history[(0, *arm, COLUMN["confirmed"])] = float(is_confirmed)
        self.state = replace(self.state, history=history)

    @property
    def is_over(self) -> bool:
        """Whether the campaign has nothing left to spend, or may not go on."""
        full = self._max_experiments is not None and self.experiments >= self._max_experiments
        return full or self.spent_min >= self._budget_min or self.experimenter.supervisor.obstacle() is not None

    # ---- inside ---------------------------------------------------------------------------------------------------

    def _begin(self, seed: int | None) -> None:
        self.experimenter = self._world.start(seed)
        self.topology = self.experimenter.cluster.topology()
        names = tuple(component.name for component in self.topology.components)
        telling_s = {name: self.experimenter.hypothesis.telling_s(name) for name in names}
        self.code = ActionCode(names, telling_s=telling_s)
        self.state = encoding.first_state(self.topology, self.code)
        self.confirmations = Confirmations()
        self._borne_s: dict[Cell, float] = {}
        self.gaps = set()
        self.outcomes = []
        self.spent_min = 0.0
        self.experiments = 0

    def _control(self, trigger: str, fault: Fault) -> Verdict:
        """Returns what the trigger alone does to a fault's target: from the history if that is known, else by a try.

        What breaks late, such as what fills up while somebody restarts, has to be looked for in the control as long as
        with the fault: it is borne only by who was watched for that time.
        """
        control = self._alone(trigger, fault.target)
        if control is None:
            return Verdict.INVALID
        control = replace(control, duration_s=max(control.duration_s, fault.duration_s))
        known = self._last_verdict(control)
        if known is Verdict.WEAKNESS:
            return known
        if known is Verdict.RESILIENT and self._borne_s[Cell.of(control)] >= control.duration_s:
            return known
        outcome = self.experimenter.run(control)
        self.learn(outcome)
        if outcome.verdict is Verdict.RESILIENT:  # one that is replayed from recordings lasted as long as it did then
            self._borne_s[Cell.of(control)] = control.duration_s
        return outcome.verdict

    def fits(self, minutes: float) -> npt.NDArray[np.bool_]:
        """Returns which actions could be over, post windows included, within so many minutes; `stop` always is."""
        post_s = POST_WINDOWS * self.experimenter.scorer.calibration.shape.window_s
        faults = [self.code.decode(action) for action in range(self.code.stop)]
        return np.array(
            [*(fault is not None and fault.duration_s + post_s <= 60.0 * minutes for fault in faults), True]
        )

    def telling(self) -> npt.NDArray[np.bool_]:
        """Returns which actions could still tell something; `stop` always is.

        A latent fault whose trigger alone breaks promises on its target tells nothing: whatever comes of it, nobody
        could say which of the two it came from (`experiment`). And while every promise that a fault could be expected
        to break is out of the game, nobody would see what comes of it.
        """
        without = self.experimenter.lookout.out_of_game()
        unseen = {name for name in self.code.components if self._is_unseen(name, without)}
        broken: dict[tuple[str, str], bool] = {}

        def tells(fault: Fault | None) -> bool:
            if fault is None or fault.target.name in unseen:
                return False
            if (trigger := kind_of(fault.kind).trigger) is None:
                return True
            key = (fault.target.name, trigger)
            if key not in broken:
                control = self._alone(trigger, fault.target)
                broken[key] = control is not None and self._last_verdict(control) is Verdict.WEAKNESS
            return not broken[key]

        return np.array([*(tells(self.code.decode(action)) for action in range(self.code.stop)), True])

    def _is_unseen(self, component: str, without: frozenset[str]) -> bool:
        """Tells whether all promises that a fault of a component could be expected to break are out of the game."""
        concerned = self.experimenter.hypothesis.concerning(component, self.topology.dependents_of(component))
        return bool(concerned) and all(component_of(clause.series) in without for clause in concerned)

    def fault_at(self, cell: Cell) -> Fault | None:
        """Returns the fault of a cell, None where this cluster does not offer it as an experiment of its own."""
        fault = self.code.fault(cell.component, cell.kind, cell.intensity)
        return fault if self._offers(fault) else None

    def _last_verdict(self, fault: Fault) -> Verdict | None:
        """Returns what a fault's cell has shown last, None if nothing."""
        replicates = self.confirmations.cells.get(Cell.of(fault))
        return None if replicates is None else replicates.evidence[-1].verdict

    def _alone(self, trigger: str, target: Target) -> Fault | None:
        """Returns the mildest fault of a trigger's kind on a target, None where the target offers none."""
        faults = map(self.code.decode, np.flatnonzero(self.state.available[0].numpy()).tolist())
        return next((fault for fault in faults if fault and (fault.kind, fault.target) == (trigger, target)), None)

    def observation(self) -> Observation:
        """Returns what the agent sees now."""
        vitals = self.experimenter.lookout.vitals()
        names = self.code.components
        z = self.experimenter.present_z()
        left = max(0.0, self._budget_min - self.spent_min)
        self.state = encoding.with_present(
            self.state,
            ready_share=[_share(vitals.components[name].ready, vitals.components[name].total) for name in names],
            quarantined=[name in self.experimenter.supervisor.quarantined for name in names],
            present_z=[z.get(name, 0.0) for name in names],
            budget={
                "left_share": left / self._budget_min,
                "left_hours": min(1.0, left / 60.0),
                "experiments": min(1.0, self.experiments / 64.0),
                "confirmed": min(1.0, len(self.gaps) / 16.0),
            },
        )
        return encoding.observe(self.state)


def _share(ready: int | None, total: int) -> float:
    """Returns the share of instances that are known to serve; unknown is not ready."""
    return 0.0 if ready is None else min(1.0, ready / max(1, total))
