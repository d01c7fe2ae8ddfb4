"""One run, from settings to a report: bring up, calibrate, campaign, end everything, write down."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from actuators.errors import BadInput, Unsafe
from envs.chaos import ChaosEnv, Experience
from envs.experiment import Experimenter, Interrupted, NotSteady, Observer

from .build.local import LocalWorld
from .build.parts import policy_named
from .build.simulated import SimulatedWorld
from .build.state import journal_of, lever_of
from .calibration import Stretch, key_of, recalled, remember
from .campaign import Budget, Campaign, Ending, Result
from .findings.ground_truth import compare
from .findings.notebook import Notebook, Witness
from .findings.record import RunFolder, now_text
from .findings.report import write_reports
from .interruption import Interruption
from .learning.policy import Policy
from .learning.reasons import Explainer
from .progress import Display, PhaseClock
from .settings import CampaignSettings, Settings


@dataclass(slots=True)
class Timings:
    """Where the time of a run went, seconds.

    Attributes:
        startup_s: per part of the embedded platform, when it was up.
        bring_up_s: from nothing to a platform that serves, watchdog included.
        calibration_s: until the scorer knew the cluster.
        campaign_s: from the first gate to the last revert.
        agent_cpu_s: processor time of the agent during the campaign.
        agent_own_s: time of the campaign in which the agent did not wait for the cluster.
        phases_s: per phase of the campaign's experiments, how long it took in all.
        phase_entries: per phase, how often it was entered.
    """

    startup_s: Mapping[str, float] = field(default_factory=dict)
    bring_up_s: float = 0.0
    calibration_s: float = 0.0
    campaign_s: float = 0.0
    agent_cpu_s: float = 0.0
    agent_own_s: float = 0.0
    phases_s: Mapping[str, float] = field(default_factory=dict)
    phase_entries: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a run that is one of many shares with the others.

    Attributes:
        interruption: whoever wants the end of this one asks here; signals are for the owner of all of them.
        display: where progress is shown.
        witnesses: are told of every experiment and every confirmed weakness.
        experiences: what earlier campaigns on the cluster have shown, oldest first.
    """

    interruption: Interruption
    display: Display
    witnesses: Sequence[Witness] = ()
    experiences: Sequence[Experience] = ()


class Run:
    """One run.

    Attributes:
        folder: what it leaves behind.
        result: what was found so far.
        timings: what took how long.
        topology: of the cluster as JSON, once it is there.
        planted: what is known to be weak on the cluster, once it is there; for nobody who decides.
        truth: on the embedded cluster, once the run has ended, how the findings compare with what was planted.

    Args:
        settings: all of them.
        out: the run's folder; must not exist.
        console: where progress is shown.
        dry_run: everything happens but the harm.
        policy: makes the policy, in place of the one that the settings name.
        afresh: learns all fault-free time anew, whatever an earlier run has learnt, and leaves no later run any of it.
        surroundings: where it is one of many.

    Raises:
        BadInput: something that was asked for cannot be done; nothing was started.
    """

    def __init__(
        self,
        settings: Settings,
        out: Path,
        console: Console,
        *,
        dry_run: bool = False,
        policy: Callable[[ChaosEnv], Policy] | None = None,
        afresh: bool = False,
        surroundings: Surroundings | None = None,
    ) -> None:
        self._settings = settings
        self._dry_run = dry_run
        self._afresh = afresh
        self._policy = policy or _named(settings)
        self._rivals = _rivals(settings.campaign) if policy is None else None
        self.folder = RunFolder(out)
        self.folder.settings(settings.model_dump(mode="json"))
        self.result = Result()
        self.timings = Timings()
        self.topology: Mapping[str, Any] = {}
        self.planted: Mapping[str, str] = {}
        self.truth: Mapping[str, list[str]] | None = None
        around = surroundings or Surroundings(Interruption(), Display(console, settings.campaign.budget_min))
        self._display, self._interruption, self._experiences = around.display, around.interruption, around.experiences
        self._takes_signals = surroundings is None
        self._phases = PhaseClock(self._display)
        self._notebook = Notebook(self.folder, settings.cluster_state_dir / "ledger.db", around.witnesses)

    @property
    def interrupted(self) -> bool:
        """Whether somebody asked for the end."""
        return self._interruption.asked()

    def leaked(self) -> list[str]:
        """Returns the faults on this cluster whose absence nobody could observe, of this run or an earlier one."""
        with journal_of(self._settings) as journal:
            return [str(injection.fault) for injection in journal.leaked()]

    def execute(self) -> Result:
        """Runs the campaign and leaves its report; whatever ends it, nothing stays in force.

        Returns:
            What was found.

        Raises:
            BadInput: a setting, port or folder cannot be used; nothing was left running.
            Unsafe: going on could do harm that nobody allowed.
            BackburnError: the tool itself failed; what was found before is in the report.
        """
        try:
            with ExitStack() as ends:
                if self._takes_signals:
                    ends.enter_context(self._interruption.on_signals())
                ends.enter_context(self._display)
                world = self._bring_up()
                ends.callback(world.close)
                self._campaign(world)
                self._phases.entered("ending everything", None, None)
        except (Interrupted, NotSteady) as error:
            self.result.stopped_by(error)
        except (BadInput, Unsafe) as error:
            may_owe = self.folder.facts.get("fencing_token") is not None  # a fault may have come to no outcome
            if may_owe or not self.folder.discard_if_empty():
                self.result.ended_by = str(error)
                self._conclude("failed")
            raise
        except BaseException as error:
            self.result.ended_by = f"{type(error).__name__}: {error}"
            self._conclude("failed")
            raise
        complete = self.result.ending is Ending.COMPLETE
        self._conclude("interrupted" if self.interrupted else "done" if complete else "stopped")
        return self.result

    def _bring_up(self) -> LocalWorld | SimulatedWorld:
        with self._timed("bring_up_s"):
            return brought_up(
                self._settings,
                self.folder.path,
                observer=self._phases,
                told=self._started,
                interrupted=self._interruption.asked,
                dry_run=self._dry_run,
            )

    def _campaign(self, world: LocalWorld | SimulatedWorld) -> None:
        if isinstance(world, LocalWorld):
            experimenter = world.start(None)
            self._interruption.tell(experimenter.supervisor.interrupt)
            self._calibrate(experimenter)
        campaign = self._settings.campaign
        budget = Budget(campaign.budget_min, campaign.reserve_share, campaign.sham_share)
        env = ChaosEnv(world, budget_min=budget.choices_min, max_experiments=campaign.experiments)
        env.reset(seed=campaign.seed)
        self._recall(env)
        self.topology, self.planted = env.topology.to_json(), world.planted()
        self._interruption.tell(env.experimenter.supervisor.interrupt)
        self.folder.note(state="running", topology=self.topology, fencing_token=world.fencing_token)
        self._phases.begin_anew()
        cpu_s, waited_s = time.process_time(), env.experimenter.lookout.waited_s
        with self._timed("campaign_s"):
            policy = self._policy(env)
            Campaign(
                env,
                policy,
                budget,
                record=self._notebook,
                progress=self._display,
                result=self.result,
                seed=campaign.seed,
                stopwatch=time.perf_counter,
                explainer=None if self._rivals is None else _explainer(policy, env, self._rivals),
            ).run()
        self.timings.agent_cpu_s = time.process_time() - cpu_s
        self.timings.agent_own_s = self.timings.campaign_s - (env.experimenter.lookout.waited_s - waited_s)

    def _recall(self, env: ChaosEnv) -> None:
        """Takes over what earlier campaigns have shown, and from the ledger which weaknesses that has confirmed."""
        if not self._experiences:
            return
        recorded = {weakness["fingerprint"]: weakness for weakness in self._notebook.recorded()}
        counted = env.recall(self._experiences, recorded)
        known = [recorded[str(fingerprint)] for fingerprint in env.confirmations.confirmed]
        self._notebook.knows(known, env.topology)
        self._display.say(f"remembers {counted} experiment(s), which confirmed {len(known)} weakness(es)", "dim")

    def _calibrate(self, experimenter: Experimenter) -> None:
        """Learns how the cluster wanders by itself; what an earlier run learnt counts if it still fits."""
        store = self._settings.cluster_state_dir / "calibration.npz"
        calibration = experimenter.scorer.calibration
        key = key_of(calibration, experimenter.cluster.topology(), self._settings.telemetry.source)
        with self._timed("calibration_s"):
            earlier = [] if self._afresh else recalled(store, key)
            experimenter.calibrate(24 if earlier else self._settings.scoring.units)
            if not calibration.resembles([stretch.windows for stretch in earlier]):
                earlier = []
            calibration.stretches[:0] = [stretch.windows for stretch in earlier]
            experimenter.calibrate(self._settings.scoring.units)
        if not self._afresh:
            now_s = time.time()
            fresh = [Stretch(windows, now_s) for windows in calibration.stretches[len(earlier) :]]
            remember(store, [*earlier, *fresh], key)

    def _conclude(self, state: str) -> None:
        """Writes down what was found, whatever ended the run."""
        settings, result = self._settings, self.result
        self.timings.phases_s, self.timings.phase_entries = self._phases.seconds, self._phases.entries
        self._notebook.write()
        if settings.cluster.kind == "local":
            # Not as the ledger knows them: earlier runs may have seen milder forms with other switches.
            seen = [weakness.to_json() for weakness in result.weaknesses]
            switches = settings.cluster.staging().switches.to_mapping()
            self.truth = compare(switches, seen, self._notebook.known)
            self.folder.json("ground_truth.json", self.truth)
        self.folder.note(
            state=state,
            ended_at=now_text(),
            ending=result.ending,
            ended_by=result.ended_by,
            spent_min=result.spent_min,
            confirmed_min=result.confirmed_min,
            decision_s=result.decision_s,
            shams={"run": result.shams, "alarms": result.sham_alarms, "unjudged": result.shams_unjudged},
            timings=asdict(self.timings),
        )
        write_reports(self.folder.path)

    def _started(self, parts: Mapping[str, float]) -> None:
        self.timings.startup_s = dict(parts)
        self._display.started(parts)

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        began_s = time.monotonic()
        try:
            yield
        finally:
            setattr(self.timings, name, time.monotonic() - began_s)


def _named(settings: Settings) -> Callable[[ChaosEnv], Policy]:
    named = policy_named(settings.campaign.policy, np.random.default_rng(settings.campaign.seed))
    return lambda env: named


def _rivals(campaign: CampaignSettings) -> dict[str, Policy]:
    """Returns other policies that need no luck to be worth hearing; read while nothing has been started yet."""
    return {
        name: policy_named(name, np.random.default_rng(campaign.seed))
        for name in ("round_robin", "thompson", "posterior")
        if name != campaign.policy
    }


def _explainer(policy: Policy, env: ChaosEnv, rivals: Mapping[str, Policy]) -> Explainer:
    """Returns who says why, beside what others would take."""
    return Explainer(policy, rivals, lambda action: str(env.code.decode(action) or "nothing more"))


def brought_up(
    settings: Settings,
    folder: Path,
    *,
    observer: Observer,
    told: Callable[[Mapping[str, float]], None],
    interrupted: Callable[[], bool],
    dry_run: bool = False,
) -> LocalWorld | SimulatedWorld:
    """Starts the cluster that the settings name.

    Args:
        settings: of the run.
        folder: of the run; holds these settings as `settings.yaml`, and gets the platform's logs.
        observer: is told about phases.
        told: is given the platform's start-up times as they come.
        interrupted: is asked whether to give the start up.
        dry_run: everything happens but the harm.
    """
    if settings.cluster.kind == "simulated":
        return SimulatedWorld(settings, observer, dry_run=dry_run, lever=lever_of(settings))
    return LocalWorld(
        settings,
        config=(folder / "settings.yaml").resolve(),
        logs=(folder / "platform").resolve(),
        observer=observer,
        told=told,
        interrupted=interrupted,
        dry_run=dry_run,
    )
