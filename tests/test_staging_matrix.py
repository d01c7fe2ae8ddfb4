"""Every switch, weak and hardened, on the real embedded cluster; and every fault with a death in its middle.

    make test-staging

Prints a table: which fault was to reveal which switch, what the verdict was, by which mechanism, and what it took.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from agent.findings.ground_truth import SWITCHES, Sign
from envs.chaos import ChaosEnv
from envs.scoring import Verdict
from tests.embedded import embedded_agent, embedded_config, recovered, started, telling_fault
from tests.waiting import wait_until

pytestmark = pytest.mark.staging

ROWS: list[str] = []
HEAD = f"{'switch':<26}{'state':<15}{'fault':<44}{'verdict':<14}{'mechanism':<16}{'p':>7}{'back after':>12}{'took':>8}"


@pytest.fixture(scope="module", autouse=True)
def table() -> Iterator[None]:
    yield
    print("\n" + "\n".join([HEAD, *ROWS]))


@pytest.fixture(scope="class")
def hardened(tmp_path_factory) -> Iterator[ChaosEnv]:
    world, env = started(embedded_config(tmp_path_factory.mktemp("hardened")))
    yield env
    world.close()


def revealed(env: ChaosEnv, switch: str, sign: Sign, state: str):
    """Runs the experiment that should tell whether a switch is weak, and notes it in the table."""
    fault = telling_fault(env, sign)
    began_s = time.monotonic()
    outcome = env.experiment(fault)
    if outcome.verdict is Verdict.INVALID:
        # It has shown nothing: the host stood still for a while, or the platform's routine ended the fault.
        print(switch, state, "again:", outcome.score.reason)
        outcome = env.experiment(fault)
    back = "never" if outcome.score.recovery_s is None else f"{outcome.score.recovery_s:.1f} s"
    ROWS.append(
        f"{switch:<26}{state:<15}{sign.kind + ' on ' + sign.role:<44}{outcome.verdict:<14}"
        f"{outcome.mechanism or '-':<16}{outcome.evidence.p:>7.3f}{back:>12}{time.monotonic() - began_s:>6.0f} s"
    )
    print(ROWS[-1], "|", outcome.score.reason)
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
    def test_hardened(self, hardened, switch, sign):
        outcome = revealed(hardened, switch, sign, "hardened")
        assert outcome.verdict is Verdict.RESILIENT, outcome.score.reason


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
    def test_weak_beside_others(self, weak, switch):
        sign = SWITCHES[switch][0]
        outcome = revealed(weak, switch, sign, "weak beside 5")
        assert outcome.verdict is Verdict.WEAKNESS, outcome.score.reason
        assert outcome.mechanism in sign.mechanisms


@each_sign
def test_weak(tmp_path, switch, sign):
    # A single replica that has just been joined by another, in a busy moment, bears the kill.
    weak = (switch, "serving.autoscale") if switch == "serving.replicas" else (switch,)
    world, env = started(embedded_config(tmp_path, *weak))
    try:
        outcome = revealed(env, switch, sign, "weak")
        assert outcome.verdict is Verdict.WEAKNESS, outcome.score.reason
        assert outcome.mechanism in sign.mechanisms
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
