"""What only a real GPU can show: how full it gets and how free again, and how much slower a neighbour makes others.

    make test-gpu

Needs an NVIDIA GPU that NVML sees and a torch that can use it. Skipped where there is none, and only here: no install
brings a card. Card 0 is filled and kept busy for seconds; nobody else should need it meanwhile.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from actuators.catalogue import CATALOGUE, LEVELS
from actuators.clock import BootClock
from actuators.drivers.local.gpus import LocalGpus
from actuators.drivers.local.platform import Platform
from actuators.fault import Fault, Injection, Target
from actuators.gpu import GpuActuator
from envs.staging import cards as staging
from envs.staging.processes import identify
from tests.cards import neighbours
from tests.conftest import config_file
from tests.test_crash import recovered
from tests.waiting import wait_until

pytestmark = pytest.mark.gpu

TOOK_WITHIN_S = 30.0
PROBED_S = 3.0
MATRIX = 2048


def why_not() -> str | None:
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return f"NVML sees no GPU here: {error}"
    return None if torch.cuda.is_available() else "NVML sees a GPU, and this torch cannot use it"


@pytest.fixture(autouse=True)
def _on_a_gpu() -> None:
    if (reason := why_not()) is not None:
        pytest.skip(reason)


@pytest.fixture
def card() -> str:
    """NVML's name of the card that torch calls the first."""
    return staging.card_of(torch.device("cuda", 0))


@pytest.fixture
def actuator(tmp_path, card) -> Iterator[GpuActuator]:
    """The real thing, on a platform of one process that says it works on the card."""
    write_platform(tmp_path, card)
    gpus = LocalGpus(Platform(tmp_path / "platform.json"))
    yield GpuActuator(gpus)
    gpus.vacate("bb-gpu")


def write_platform(folder, card: str) -> None:
    own = identify(os.getpid())
    trainer = {"id": "trainer/1", "pid": own.pid, "start_ticks": own.start_ticks, "metrics_url": "", "card": card}
    (folder / "platform.json").write_text(json.dumps({"components": {"trainer": {"instances": [trainer]}}}))


@contextmanager
def in_force(actuator: GpuActuator, kind: str, level: float) -> Iterator[Injection]:
    fault, now = Fault(kind, Target("trainer"), level, 60.0), BootClock().now()
    injection = Injection("bb-gpu", fault, actuator.prepare("bb-gpu", fault), now, now.after(60.0), 1)
    assert not actuator.took(injection)
    began_s = time.monotonic()
    actuator.inject(injection)
    wait_until(lambda: actuator.took(injection), within_s=TOOK_WITHIN_S)
    print(f"\n{fault}: took after {time.monotonic() - began_s:.1f} s", end="; ")
    try:
        yield injection
    finally:
        actuator.revert(injection)
        assert actuator.probe_clean(injection)


def memory(card: str):
    import pynvml

    return pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByUUID(card))


def probe_ms() -> float:
    """Returns how long a kernel takes, ms: the mean over some seconds, for slices of time come and go within one."""
    matrix = torch.rand(MATRIX, MATRIX, device="cuda:0")
    times, began_s = [], time.monotonic()
    while time.monotonic() - began_s < PROBED_S:
        before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        before.record()
        for _ in range(20):
            matrix @ matrix
        after.record()
        after.synchronize()
        times.append(before.elapsed_time(after) / 20)
    return statistics.fmean(times)


@pytest.mark.parametrize("level", LEVELS)
def test_memory_goes_to_the_share_and_back(actuator, card, level):
    before, share = memory(card), CATALOGUE["gpu.memory_pressure"].amount(level)
    if before.used > share * before.total:
        pytest.skip(f"the card is fuller than {share:.0%} already")
    with in_force(actuator, "gpu.memory_pressure", level):
        wait_until(lambda: abs(memory(card).used / before.total - share) < 0.02)
        full = memory(card)
        assert full.free > 0
    wait_until(lambda: memory(card).used <= before.used + 0.01 * before.total)
    after = memory(card)
    shares = [one.used / one.total for one in (before, full, after)]
    print("memory in use {:.1%} -> {:.1%} (asked for {:.1%}) -> {:.1%}".format(*shares[:2], share, shares[2]))


def test_what_others_take_is_given_back_by_the_neighbour(actuator, card):
    share = CATALOGUE["gpu.memory_pressure"].amount(0.5)
    with in_force(actuator, "gpu.memory_pressure", 0.5):
        total = memory(card).total
        ours = torch.ones(int(0.05 * total), dtype=torch.uint8, device="cuda:0")
        wait_until(lambda: abs(memory(card).used / total - share) < 0.02)
        print(f"{ours.numel() / total:.0%} taken by us, in use {memory(card).used / total:.1%}")
        del ours
        torch.cuda.empty_cache()


def test_at_the_last_level_whoever_needs_more_does_not_get_it(actuator, card):
    with in_force(actuator, "gpu.memory_pressure", 1.0):
        wait_until(lambda: memory(card).used > 0.96 * memory(card).total)
        with pytest.raises(torch.OutOfMemoryError):
            torch.ones(int(0.1 * memory(card).total), dtype=torch.uint8, device="cuda:0")
        print(f"free {memory(card).free / 2**20:.0f} MiB of {memory(card).total / 2**20:.0f}")
    torch.ones(int(0.1 * memory(card).total), dtype=torch.uint8, device="cuda:0")
    torch.cuda.empty_cache()


def test_a_probe_gets_slower_the_more_time_is_taken_and_as_fast_as_before_after(actuator):
    probe_ms()  # the card wakes up
    alone_ms, slower = probe_ms(), []
    for level in LEVELS:
        with in_force(actuator, "gpu.compute_contention", level):
            slower.append(probe_ms() / alone_ms)
        share = CATALOGUE["gpu.compute_contention"].amount(level)
        print(f"a kernel of {alone_ms:.3f} ms takes {slower[-1]:.2f} times as long; {1 / (1 - share):.2f} expected")
    assert slower[0] > 1.1
    assert slower[1] > 1.5
    assert slower[2] > 2.5
    assert slower == sorted(slower)
    assert probe_ms() < 1.2 * alone_ms


@pytest.mark.parametrize("kind", ["gpu.memory_pressure", "gpu.compute_contention"])
def test_a_killed_agent_leaves_nothing_on_the_card(tmp_path, card, kind):
    """The agent is killed, its watchdog ends the neighbours; the card is as free as before."""
    state = tmp_path / "state" / "local"
    state.mkdir(parents=True)
    config = config_file(tmp_path, "local.yaml", safety={"lease_ttl_s": 2.0, "grace_s": 1.0})
    write_platform(state, card)
    before = memory(card).used
    command = [sys.executable, "-m", "tests.crash_agent", str(config), kind, "trainer", "60", "cuda:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as agent:
        try:
            said = [agent.stdout.readline().split()[0] for _ in range(2)]
            assert said == ["watchdog", "injected"]
            assert neighbours(card) != []
        finally:
            agent.send_signal(signal.SIGKILL)
    killed_s = time.monotonic()
    wait_until(lambda: not neighbours(card))
    wait_until(lambda: memory(card).used <= before + 0.01 * memory(card).total)
    print(f"\n{kind}: card free {time.monotonic() - killed_s:.2f} s after SIGKILL")
    assert recovered(config) == {"open": [], "leaked": []}


@pytest.mark.parametrize("kind", ["gpu.memory_pressure", "gpu.compute_contention"])
def test_with_nobody_left_the_card_is_free_at_the_deadline(actuator, card, kind):
    before = memory(card).used
    fault, now = Fault(kind, Target("trainer"), 0.5, 12.0), BootClock().now()
    injection = Injection("bb-gpu", fault, actuator.prepare("bb-gpu", fault), now, now.after(12.0), 1)
    actuator.inject(injection)
    wait_until(lambda: actuator.took(injection), within_s=11.0)
    wait_until(lambda: actuator.probe_clean(injection), within_s=13.0)
    wait_until(lambda: memory(card).used <= before + 0.01 * memory(card).total)


def test_the_platform_tells_how_full_and_how_busy_the_card_is(actuator, card):
    with in_force(actuator, "gpu.memory_pressure", 0.5):
        told = {family.name: family.samples[0].value for family in staging.card_metrics({"trainer": [card]})}
    print(told)
    assert told["gpu_memory_share"] > 0.8
    assert 0.0 <= told["gpu_utilisation"] <= 1.0


def test_a_learner_learns_on_the_card_and_its_checkpoint_does_not_know(tmp_path):
    trainer = pytest.importorskip("envs.staging.trainer")
    on_card = trainer.Learner(torch.device("cuda", 0))
    features, labels = torch.rand(64, on_card.classifier.hidden.in_features), torch.zeros(64, dtype=torch.int64)
    first = on_card.step(features, labels)
    for _ in range(20):
        last = on_card.step(features, labels)
    assert last < first
    on_cpu = trainer.Learner()
    on_cpu.resume(on_card.checkpoint())
    assert on_cpu.step(features, labels) == pytest.approx(on_card.step(features, labels), rel=1e-3)
