"""Neighbours on a card, as real processes: how full it gets, whose memory comes first, and what is left of them.

The card is a double (`tests/double/pynvml.py`) whose memory is what its processes really hold; they work on the CPU.
What only a card can show is in `test_gpu.py`.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from unittest import mock

import psutil
import pytest
import torch

from actuators.catalogue import CATALOGUE, LEVELS
from actuators.clock import BootClock
from actuators.drivers.local import neighbour
from actuators.drivers.local.gpus import LocalGpus
from actuators.drivers.local.platform import Platform
from actuators.errors import TargetNotFound
from actuators.fault import Target
from envs.staging.processes import boot_id, identify
from tests import cards
from tests.cards import TOTAL, UUID, Card
from tests.waiting import wait_until

CHUNK = TOTAL // neighbour.CHUNKS
SETTLED_WITHIN_S = 30.0


@pytest.fixture
def card(tmp_path) -> Iterator[Card]:
    own = {"id": "trainer/1", "pid": os.getpid(), "start_ticks": identify(os.getpid()).start_ticks, "metrics_url": ""}
    components = {"trainer": {"instances": [own | {"card": UUID}]}, "gateway": {"instances": [own]}}
    (tmp_path / "platform.json").write_text(json.dumps({"components": components}))
    with cards.card(tmp_path) as found:
        yield found


@pytest.fixture
def gpus(card, tmp_path) -> Iterator[LocalGpus]:
    gpus = LocalGpus(Platform(tmp_path / "platform.json"), device="cpu")
    yield gpus
    for name in ("bb-gpu", "bb-other"):
        gpus.vacate(name)


def in_seconds(seconds: float):
    return BootClock().now().after(seconds)


def used_share() -> float:
    import pynvml

    return pynvml.nvmlDeviceGetMemoryInfo(UUID).used / TOTAL


def is_at(share: float, chunks: float = 2.0) -> bool:
    return abs(used_share() - share) <= chunks * CHUNK / TOTAL


# ---- memory ---------------------------------------------------------------------------------------------------------


def test_a_card_is_filled_to_the_share_whatever_others_use_of_it_and_empty_again_after(card, gpus):
    """The share holds what others use: more of theirs is less of ours, at once and later."""
    card.change(others={os.getpid(): int(0.3 * TOTAL)})
    share = CATALOGUE["gpu.memory_pressure"].amount(0.5)
    gpus.fill(UUID, share, "bb-gpu", in_seconds(60.0))
    wait_until(lambda: gpus.is_filled(UUID, share, "bb-gpu"), within_s=SETTLED_WITHIN_S)
    wait_until(lambda: is_at(share))
    held = memory_of_neighbours()
    card.change(others={os.getpid(): int(0.5 * TOTAL)})
    wait_until(lambda: is_at(share, chunks=3.0), within_s=SETTLED_WITHIN_S)
    assert memory_of_neighbours() == pytest.approx(held - 0.2 * TOTAL, abs=4 * CHUNK)
    card.change(others={})
    wait_until(lambda: is_at(share), within_s=SETTLED_WITHIN_S)
    gpus.vacate("bb-gpu")
    assert used_share() == 0.0
    assert not gpus.has_neighbours("bb-gpu")


def test_a_card_that_is_fuller_than_that_already_is_left_as_it_is(card, gpus):
    card.change(others={os.getpid(): int(0.7 * TOTAL)})
    gpus.fill(UUID, 0.5, "bb-gpu", in_seconds(60.0))
    wait_until(lambda: memory_of_neighbours() > 0.1 * TOTAL, within_s=SETTLED_WITHIN_S)  # torch alone
    assert gpus.is_filled(UUID, 0.5, "bb-gpu")
    assert memory_of_neighbours() < 0.3 * TOTAL


class Pretended:
    """A card whose memory is what a list of chunks and others hold."""

    def __init__(self, others: int, total: int = 100) -> None:
        self.others, self.total = others, total
        self.held: list[torch.Tensor] = []

    def look(self) -> SimpleNamespace:
        used = self.others + sum(len(chunk) for chunk in self.held)
        return SimpleNamespace(total=self.total, used=used, free=self.total - used)

    def settle(self, share: float) -> int:
        neighbour.settle(self.held, self.look, share, 5, "cpu")
        return self.look().used


@pytest.mark.parametrize("others", range(0, 101, 7))
@pytest.mark.parametrize("share", [0.02, 0.5, 0.62, 0.86, 0.98])
def test_wherever_a_card_begins_it_ends_within_a_chunk_of_the_share_and_has_never_too_little(others, share):
    card = Pretended(others)
    used = card.settle(share)
    assert used <= max(others, 100 * share)
    assert used > 100 * share - 5 or others > 100 * share - 5
    card.others = min(100, others + 20)
    assert card.settle(share) <= max(card.others, 100 * share + 5)
    assert [len(card.held), card.settle(share)] == [len(card.held), card.look().used]


def test_whoever_was_faster_is_let_be_and_the_rest_is_tried_again(monkeypatch):
    """Between a look at what is free and the taking of it, somebody else may take it."""
    card, ones, tries = Pretended(20), torch.ones, []

    def third_time_too_late(*size, **kinds):
        tries.append(size)
        if len(tries) == 3:
            raise torch.OutOfMemoryError("somebody was faster")
        return ones(*size, **kinds)

    monkeypatch.setattr(torch, "ones", third_time_too_late)
    assert card.settle(0.8) == 30
    assert card.settle(0.8) == 80


# ---- time -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("level", "count"), list(zip(LEVELS, (1, 1, 3), strict=True)))
def test_as_many_neighbours_work_on_a_card_as_it_takes(gpus, level, count):
    share = CATALOGUE["gpu.compute_contention"].amount(level)
    assert not gpus.is_occupied(UUID, share, "bb-gpu")
    gpus.occupy(UUID, share, "bb-gpu", in_seconds(60.0))
    wait_until(lambda: gpus.is_occupied(UUID, share, "bb-gpu"), within_s=SETTLED_WITHIN_S)
    found = cards.neighbours()
    assert len(found) == count
    gpus.occupy(UUID, share, "bb-gpu", in_seconds(60.0))
    assert cards.neighbours() == found
    os.kill(int(found[0][0]), 9)
    wait_until(lambda: len(cards.neighbours()) == count - 1)
    assert not gpus.is_occupied(UUID, share, "bb-gpu"), "one of them is gone: so much is no longer taken"
    gpus.vacate("bb-gpu")
    assert cards.neighbours() == []


def test_a_neighbour_that_rests_leaves_the_card_idle(gpus):
    gpus.occupy(UUID, 0.1, "bb-gpu", in_seconds(60.0))  # a fifth of the time
    wait_until(lambda: gpus.is_occupied(UUID, 0.1, "bb-gpu"), within_s=SETTLED_WITHIN_S)
    import pynvml

    wait_until(lambda: pynvml.nvmlDeviceGetUtilizationRates(UUID).gpu <= 50, within_s=SETTLED_WITHIN_S)


def test_neighbours_that_stand_still_take_no_time(gpus):
    """That they are there is not that they work."""
    gpus.occupy(UUID, 0.5, "bb-gpu", in_seconds(60.0))
    wait_until(lambda: gpus.is_occupied(UUID, 0.5, "bb-gpu"), within_s=SETTLED_WITHIN_S)
    for pid, *_ in cards.neighbours():
        psutil.Process(int(pid)).suspend()
    wait_until(lambda: not gpus.is_occupied(UUID, 0.5, "bb-gpu"))


# ---- their end ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["fill", "occupy"])
def test_neighbours_end_at_the_deadline_by_themselves(gpus, verb):
    getattr(gpus, verb)(UUID, 0.5, "bb-gpu", in_seconds(4.0))
    assert gpus.has_neighbours("bb-gpu")
    wait_until(lambda: not gpus.has_neighbours("bb-gpu"), within_s=14.0)


def test_a_deadline_holds_for_a_neighbour_that_hangs(gpus, tmp_path, monkeypatch):
    """It never comes to look at a clock: an import, or a call into the driver, does not return."""
    (tmp_path / "torch.py").write_text("import ctypes\nwhile True: ctypes.CDLL(None).pause()\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ['PYTHONPATH']}")
    gpus.occupy(UUID, 0.5, "bb-gpu", in_seconds(4.0))
    (found,) = [psutil.Process(int(pid)) for pid, *_ in cards.neighbours()]
    wait_until(lambda: found.status() == psutil.STATUS_SLEEPING and not gpus.is_occupied(UUID, 0.5, "bb-gpu"))
    wait_until(lambda: not gpus.has_neighbours("bb-gpu"), within_s=14.0)


@pytest.mark.parametrize("told", ["", "stop\n"])
def test_a_neighbour_that_nobody_tells_to_go_does_nothing(told, card):
    arguments = ["bb-gpu", boot_id(), str(in_seconds(60.0).boottime_s), UUID, "cpu", "fill", "0.5", "0"]
    command = [sys.executable, "-P", neighbour.__file__, *arguments]
    assert subprocess.run(command, input=told, capture_output=True, text=True, check=True).stdout == ""
    assert cards.neighbours() == []


@pytest.mark.parametrize("boot", ["another boot", None])
def test_a_neighbour_whose_deadline_has_passed_does_nothing(boot, card):
    arguments = ["bb-gpu", boot or boot_id(), str(in_seconds(-1.0).boottime_s), UUID, "cpu", "fill", "0.5", "0"]
    command = [sys.executable, "-P", neighbour.__file__, *arguments]
    assert subprocess.run(command, input="go\n", capture_output=True, text=True, check=True).stdout == ""
    assert cards.neighbours() == []


def test_whoever_ends_their_own_neighbours_ends_nobody_elses(gpus):
    gpus.fill(UUID, 0.3, "bb-gpu", in_seconds(60.0))
    gpus.fill(UUID, 0.4, "bb-other", in_seconds(60.0))
    gpus.vacate("bb-gpu")
    assert not gpus.has_neighbours("bb-gpu")
    assert gpus.has_neighbours("bb-other")


# ---- what NVML tells, and what it does not --------------------------------------------------------------------------


def test_only_who_says_that_it_works_on_a_card_has_one(gpus):
    assert gpus.cards_of(Target("trainer")) == [UUID]
    with pytest.raises(TargetNotFound, match="no process of gateway works on a GPU that NVML sees here"):
        gpus.cards_of(Target("gateway"))


@pytest.mark.parametrize("missing", ["driver", "card"])
def test_a_card_that_nvml_does_not_see_is_none(card, gpus, missing):
    if missing == "driver":
        card.path.unlink()
    else:
        card.change(uuid="GPU-another")
    with pytest.raises(TargetNotFound):
        gpus.cards_of(Target("trainer"))
    assert not gpus.is_filled(UUID, 0.5, "bb-gpu")
    assert not gpus.is_occupied(UUID, 0.5, "bb-gpu")


def test_what_nvml_does_not_tell_has_not_taken(card, gpus):
    gpus.fill(UUID, 0.3, "bb-gpu", in_seconds(60.0))
    gpus.occupy(UUID, 0.5, "bb-other", in_seconds(60.0))
    wait_until(lambda: gpus.is_filled(UUID, 0.3, "bb-gpu"), within_s=SETTLED_WITHIN_S)
    wait_until(lambda: gpus.is_occupied(UUID, 0.5, "bb-other"), within_s=SETTLED_WITHIN_S)
    for broken in ("memory", "processes", "utilisation"):
        card.change(broken=[broken])
        assert not (gpus.is_filled(UUID, 0.3, "bb-gpu") and gpus.is_occupied(UUID, 0.5, "bb-other")), broken
    card.change(broken=[])
    wait_until(lambda: gpus.is_occupied(UUID, 0.5, "bb-other"))


@pytest.mark.parametrize(("listed", "on_the_card"), [([], True), ([2**22 + 1], True), ([os.getpid()], False)])
def test_who_is_on_a_card_is_unknown_only_where_no_number_means_anything(gpus, monkeypatch, listed, on_the_card):
    """In a container NVML lists nobody, or its host's numbers; a list of others that live here leaves no doubt."""
    import pynvml

    gpus.occupy(UUID, 0.5, "bb-gpu", in_seconds(60.0))
    processes = [SimpleNamespace(pid=pid, usedGpuMemory=1) for pid in listed]
    monkeypatch.setattr(pynvml, "nvmlDeviceGetComputeRunningProcesses", lambda handle: processes)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetUtilizationRates", lambda handle: SimpleNamespace(gpu=100))
    assert gpus.is_occupied(UUID, 0.5, "bb-gpu") is on_the_card


def test_the_double_has_the_names_and_signatures_of_the_real_nvml(card):
    import pynvml as double

    real = the_real_nvml()
    for name, function in inspect.getmembers(double, inspect.isfunction):
        if name.startswith("nvml"):
            assert parameters(function) == parameters(getattr(real, name)), name
    for name, _ in inspect.getmembers(double, inspect.isclass):
        if name.startswith("NVML"):
            assert issubclass(getattr(real, name), real.NVMLError), name
    told = {
        double.nvmlDeviceGetMemoryInfo: real.c_nvmlMemory_t,
        double.nvmlDeviceGetUtilizationRates: real.c_nvmlUtilization_t,
    }
    for function, structure in told.items():
        assert set(vars(function(UUID))) == {name for name, _ in structure._fields_}
    card.change(others={os.getpid(): 1})
    (process,) = double.nvmlDeviceGetComputeRunningProcesses(UUID)
    assert set(vars(process)) <= {name for name, _ in real.c_nvmlProcessInfo_v3_t._fields_}


def parameters(function) -> list[str]:
    return list(inspect.signature(function).parameters)


def the_real_nvml():
    path = importlib.metadata.distribution("nvidia-ml-py").locate_file("pynvml.py")
    spec = importlib.util.spec_from_file_location("the_real_pynvml", path)
    module = importlib.util.module_from_spec(spec)
    with mock.patch.dict(sys.modules, {spec.name: module}):  # it looks itself up there
        spec.loader.exec_module(module)
    return module


def memory_of_neighbours() -> int:
    import pynvml

    ours = {int(pid) for pid, *_ in cards.neighbours()}
    return sum(one.usedGpuMemory for one in pynvml.nvmlDeviceGetComputeRunningProcesses(UUID) if one.pid in ours)
