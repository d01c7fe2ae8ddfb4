"""Every switch, weak and hardened, on the real embedded cluster; and every fault with a death in its middle.

    make test-staging

Prints a table: which fault was to reveal which switch, in how many of its replicates, what the verdict of the last was,
by which mechanism, and what all of them took; ARGS="--replicates 2" tries everything twice.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from agent.findings.ground_truth import SWITCHES, Sign
from envs.chaos import ChaosEnv
from envs.outcome import Outcome
from envs.scoring import Verdict
from tests.embedded import embedded_agent, embedded_config, recovered, started, telling_fault
from tests.waiting import wait_until

pytestmark = pytest.mark.staging

ROWS: list[str] = []
HEAD = (
    f"{'switch':<26}{'state':<15}{'fault':<44}{'so in':<8}{'verdict':<14}{'mechanism':<16}{'p':>7}{'back after':>12}"
    f"{'took':>8}"
)


@pytest.fixture(scope="module", autouse=True)
def table() -> Iterator[None]:
    yield
    print("\n" + "\n".join([HEAD, *ROWS]))


@pytest.fixture(scope="class")
def hardened(tmp_path_factory) -> Iterator[ChaosEnv]:
    world, env = started(embedded_config(tmp_path_factory.mktemp("hardened")))
    yield env
    world.close()


@pytest.fixture
def revealed(pytestconfig) -> Callable[[ChaosEnv, str, Sign, str, Verdict], None]:
    """Runs the experiments that should tell whether a switch is weak, and notes them in the table."""

    def tried(env: ChaosEnv, switch: str, sign: Sign, state: str, expected: Verdict) -> None:
        replicates, began_s = pytestconfig.getoption("--replicates"), time.monotonic()
        outcomes = [valid(env, sign, f"{switch} {state}") for _ in range(replicates)]
        so = [
            outcome.verdict is expected and (expected is Verdict.RESILIENT or outcome.mechanism in sign.mechanisms)
            for outcome in outcomes
        ]
        last = outcomes[-1]
        back = "never" if last.score.recovery_s is None else f"{last.score.recovery_s:.1f} s"
        ROWS.append(
            f"{switch:<26}{state:<15}{sign.kind + ' on ' + sign.role:<44}{f'{sum(so)} of {len(so)}':<8}"
            f"{last.verdict:<14}{last.mechanism or '-':<16}{last.evidence.p:>7.3f}{back:>12}"
            f"{time.monotonic() - began_s:>6.0f} s"
        )
        print(ROWS[-1], "|", last.score.reason)
        assert all(so), [(outcome.mechanism, outcome.score.reason) for outcome in outcomes]

    return tried


def valid(env: ChaosEnv, sign: Sign, what: str) -> Outcome:
    """Runs an experiment, once more where it has shown nothing: the host stood still, or a routine ended the fault."""
    outcome = env.experiment(telling_fault(env, sign))
    if outcome.verdict is Verdict.INVALID:
        print(what, "again:", outcome.score.reason)
        outcome = env.experiment(telling_fault(env, sign))
    return outcome


SIGNS = [(switch, signs[0]) for switch, signs in SWITCHES.items()] + [
    ("training.checkpoint", Sign("model.checkpoint_delete", "trainer", frozenset({"lost_progress"}))),
    ("training.restart", Sign("pod.node_kill", "trainer", frozenset({"stuck"}))),
    ("data.schema_gate", Sign("data.schema_change", "stream", frozenset({"wrong_answers"}))),
]
"""The first sign of every switch, and some more that break its promise in another way."""

each_sign = pytest.mark.parametrize(
    ("switch", "sign"), SIGNS, ids=[f"{switch}-{sign.kind.partition('.')[2]}" for switch, sign in SIGNS]
)


class TestHardened:
    """All on one platform, which ends before the next one starts: two at once would starve each other."""

    @each_sign
    def test_hardened(self, hardened, revealed, switch, sign):
        revealed(hardened, switch, sign, "hardened", Verdict.RESILIENT)


WEAK_TOGETHER = (
    "serving.feature_timeout",
    "serving.health",
    "training.hang_timeout",
    "training.restart",
    "registry.verify",
    "deploy.canary_gate",
)
"""Switches whose signs do not stand in each other's way: where losing a replica is an outage already, for one, what
somebody does on top of it to those that come back cannot be told."""


@pytest.fixture(scope="class")
def weak(tmp_path_factory) -> Iterator[ChaosEnv]:
    world, env = started(embedded_config(tmp_path_factory.mktemp("weak"), *WEAK_TOGETHER))
    yield env
    world.close()


class TestWeakTogether:
    """Several weaknesses in one platform: each is told by its own fault, and not hidden by the others."""

    @pytest.mark.parametrize("switch", WEAK_TOGETHER)
    def test_weak_beside_others(self, weak, revealed, switch):
        revealed(weak, switch, SWITCHES[switch][0], "weak beside 5", Verdict.WEAKNESS)


@each_sign
def test_weak(tmp_path, revealed, switch, sign):
    # A single replica that has just been joined by another, in a busy moment, bears the kill.
    weak = (switch, "serving.autoscale") if switch == "serving.replicas" else (switch,)
    world, env = started(embedded_config(tmp_path, *weak))
    try:
        revealed(env, switch, sign, "weak", Verdict.WEAKNESS)
    finally:
        world.close()


# ---- deaths -------------------------------------------------------------------------------------------------------

DEATHS = {
    "pod.kill": "model-server",
    "pod.pause": "model-server",
    "network.delay": "feature-store",
    "network.loss": "feature-store",
    "network.partition": "feature-store",
    "network.bandwidth": "feature-store",
    "model.checkpoint_corrupt": "trainer",
    "pod.node_kill": "trainer",
    "pod.cpu_stress": "model-server",
    "data.corrupt_rows": "stream",
    "data.schema_change": "stream",
    "data.drift": "stream",
    "data.stream_delay": "stream",
    "pod.memory_stress": "model-server",
    "model.checkpoint_delete": "trainer",
    "model.registry_corrupt": "model-server",
    "model.registry_unavailable": "model-server",
    "model.bad_canary": "model-server",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """One state folder for all deaths: every start after a crash is a start on what the crash has left."""
    return tmp_path_factory.mktemp("deaths")


@pytest.mark.parametrize("kind", DEATHS)
def test_the_agent_is_killed_in_the_middle(place, kind):
    config = embedded_config(place)
    with embedded_agent(config, place, kind, DEATHS[kind]) as agent:
        os.kill(agent.process.pid, signal.SIGKILL)
        killed_s = time.monotonic()
        wait_until(lambda: not agent.trace.left(), within_s=10.0)
        print(f"{kind}: everything gone {time.monotonic() - killed_s:.2f} s after SIGKILL")
    assert recovered(config) == {"open": [], "leaked": []}


def test_the_agent_is_killed_while_a_node_is_coming_back(place):
    """What the platform starts at that very moment ends with the run like everything else."""
    config = embedded_config(place)
    with embedded_agent(config, place, "pod.node_kill", "trainer") as agent:
        before = set(agent.trace.raylets())
        wait_until(lambda: set(agent.trace.raylets()) - before, within_s=20.0)
        os.kill(agent.process.pid, signal.SIGKILL)
        wait_until(lambda: not agent.trace.left(), within_s=10.0)
    assert recovered(config) == {"open": [], "leaked": []}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_the_agent_is_asked_to_end_in_the_middle(place, number):
    config = embedded_config(place)
    with embedded_agent(config, place, "pod.pause", "model-server") as agent:
        os.kill(agent.process.pid, number)
        assert agent.said() == "stopped interrupted True"
        assert agent.process.wait(30) == 0
        assert agent.trace.left() == []
    assert recovered(config) == {"open": [], "leaked": []}


def test_the_watchdog_is_killed_in_the_middle(place):
    config = embedded_config(place)
    with embedded_agent(config, place, "network.delay", "feature-store") as agent:
        os.kill(agent.watchdog_pid(), signal.SIGKILL)
        assert agent.said() == "stopped watchdog True"
        assert agent.process.wait(30) == 0
        assert agent.trace.left() == []
    assert recovered(config) == {"open": [], "leaked": []}
