"""Several workers learn one network: all go on from their average, who is lost comes back, nothing is left running."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
import torch
import torch.distributed
import torch.multiprocessing
from safetensors.torch import load_file

from actuators.errors import BadInput
from agent.learning.local_ray import end_leftovers
from agent.learning.policy_file import read
from agent.learning.posterior import ArmNetwork
from agent.learning.ppo import checkpoint
from agent.learning.ppo.averaging import average
from agent.learning.ppo.practice import Practice
from agent.learning.ppo.together import Group, practised_together
from agent.settings import PACKAGED
from envs.simulator.structure import Generator
from tests.test_agent_cli import backburn, refused
from tests.training_group import PRACTICE

POWERS = (1.0, 5.0)
STEPS = 3


def learnt(power: float) -> torch.optim.Adam:
    """Returns an optimizer of two weights that took steps down a slope, of which only one did."""
    weights = [torch.nn.Parameter(torch.tensor([1.0, -2.0])) for _ in range(2)]
    optimizer = torch.optim.Adam(weights, lr=0.1)
    for _ in range(STEPS):
        optimizer.zero_grad()
        (weights[0].abs() ** power).sum().backward()
        optimizer.step()
    return optimizer


def tensors_of(optimizer: torch.optim.Adam) -> dict[str, torch.Tensor]:
    """Returns the weights of an optimizer and what it remembers of them."""
    weights = {f"weight {n}": weight.detach() for n, weight in enumerate(optimizer.param_groups[0]["params"])}
    state = optimizer.state_dict()["state"]
    return weights | {f"{name} {n}": value for n, of_one in state.items() for name, value in of_one.items()}


def of_rank(rank: int, meeting: str, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    optimizer = learnt(POWERS[rank])
    average(optimizer)
    torch.save(tensors_of(optimizer), f"{folder}/{rank}.pt")
    torch.distributed.barrier()  # whoever leaves while the other still talks may abort at its end
    torch.distributed.destroy_process_group()


def test_all_go_on_from_their_average(tmp_path):
    torch.multiprocessing.spawn(of_rank, (str(tmp_path / "meeting"), str(tmp_path)), nprocs=2)
    both = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    alone = [tensors_of(learnt(power)) for power in POWERS]
    assert set(both[0]) == {"weight 0", "weight 1", "step 0", "exp_avg 0", "exp_avg_sq 0"}
    for name in both[0]:
        assert torch.equal(both[0][name], both[1][name])
        assert torch.allclose(both[0][name], (alone[0][name] + alone[1][name]) / 2)
    assert not torch.allclose(alone[0]["weight 0"], alone[1]["weight 0"])


def test_alone_nothing_is_averaged():
    optimizer = learnt(3.0)
    average(optimizer)
    before, after = tensors_of(learnt(3.0)), tensors_of(optimizer)
    assert all(torch.equal(before[name], after[name]) for name in before)


class Training:
    """A training in a process of its own, by what it says.

    Args:
        process: its stdout is ours.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.said: list[str] = []

    def until(self, pattern: str) -> re.Match[str]:
        """Returns the first match from now on in what is said."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(line)
            if found := re.search(pattern, line):
                return found
        pytest.fail(f"it never said {pattern}:\n{''.join(self.said[-30:])}")


@contextmanager
def training(folder: Path, *options: str) -> Iterator[Training]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.training_group", str(folder), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"NO_COLOR": "1", "PYTHONUNBUFFERED": "1"},
    )
    try:
        yield Training(process)
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
        end_leftovers(folder)


def ray_folder(folder: Path) -> Path:
    """Returns where the files of a running training's Ray are."""
    root = Path((folder / "ray-folder").read_text().strip())
    assert root.is_dir()
    return root


@pytest.mark.timeout(300)
def test_who_is_lost_comes_back_and_the_curve_goes_on_where_it_was(tmp_path):
    """On two nodes a worker is killed; then the driver, and it goes on on one."""
    folder = tmp_path / "training"
    with training(folder, "--nodes", "2") as it:
        worker = int(it.until(r"RayTrainWorker pid=(\d+).* step 32/96").group(1))
        os.kill(worker, signal.SIGKILL)
        after = int(it.until(r"goes on after (\d+) of 96 steps").group(1))
        assert after >= 16
        assert int(it.until(r"step (\d+)/96").group(1)) == after + 16
        roots = [ray_folder(folder)]
        it.process.kill()
        it.process.wait()
    with training(folder) as it:
        it.until("Started a local Ray")
        roots.append(ray_folder(folder))
        assert set(_policies(it.process.pid)) == {os.SCHED_BATCH}  # its idle helpers interrupt nobody who computes
        again = int(it.until(r"goes on after (\d+) of 96 steps").group(1))
        assert again >= after
        it.until(r"step 96/96")
        it.until("^done")
        assert it.process.wait(60.0) == 0
        assert "Reporting" not in "".join(it.said)  # Ray's own word at every checkpoint
    _require_one_network(folder)
    begun = {0, after * PRACTICE.batch, again * PRACTICE.batch}
    assert {path.parent.name for path in folder.glob("log-*/progress.csv")} == {f"log-{steps}" for steps in begun}
    assert [path.name for path in folder.glob("ray-folder")] == []
    assert not any(root.exists() for root in roots)
    assert [process for process in psutil.process_iter() if str(folder) in " ".join(_command(process))] == []


def _require_one_network(folder: Path) -> None:
    """Holds that both workers came to the same weights, on campaigns of their own."""
    newest = max(folder.rglob(f"0-{checkpoint.NAME}"), key=lambda path: path.stat().st_mtime)
    one, other = (load_file(newest.with_name(f"{rank}-{checkpoint.NAME}")) for rank in (0, 1))
    shared = [name for name in one if name.startswith(("policy.", "optimizer."))]
    assert shared
    assert [name for name in shared if not torch.equal(one[name], other[name])] == []
    assert not torch.equal(one["earned"], other["earned"])


def _policies(pid: int) -> Iterator[int]:
    """Yields how everybody whom a process has started is scheduled."""
    for process in psutil.Process(pid).children(recursive=True):
        with suppress(ProcessLookupError):
            yield os.sched_getscheduler(process.pid)


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_leftovers_are_ours_alone(tmp_path):
    """What has the folder in its command line is ended; what has a longer name there is not."""
    root = tmp_path / "bb-x"
    root.mkdir()
    (tmp_path / "ray-folder").write_text(f"{root}\n")
    wait = "import sys; sys.stdin.read()"
    processes = [
        subprocess.Popen([sys.executable, "-c", wait, f"{root}{ending}"], stdin=subprocess.PIPE)
        for ending in ("/ray/session", "-other/ray")
    ]
    try:
        assert end_leftovers(tmp_path) == [processes[0].pid]
        assert processes[1].poll() is None
        assert not root.exists()
        assert end_leftovers(tmp_path) == []
    finally:
        for process in processes:
            process.kill()
            process.wait()
            process.stdin.close()


@pytest.mark.parametrize("named", ["", "somebodys"])
def test_a_damaged_mark_ends_and_removes_nothing(tmp_path, named):
    root = tmp_path / named
    root.mkdir(exist_ok=True)
    (tmp_path / "bb-link").symlink_to(root)
    for mark in (root, tmp_path / "bb-link"):
        (tmp_path / "ray-folder").write_text(f"{mark}\n")
        with subprocess.Popen([sys.executable, "-c", "input()", f"{root}/it"], stdin=subprocess.PIPE) as process:
            with pytest.raises(BadInput, match="allowed is a folder of ours"):
                end_leftovers(tmp_path)
            assert process.poll() is None
            process.kill()
        assert root.is_dir()


def test_a_folder_of_another_training_is_one_line(tmp_path):
    teacher = read(PACKAGED / "policies" / "posterior.safetensors", ArmNetwork)
    (tmp_path / "training.json").write_text("{}\n")
    group = Group(2, 1, "cpu", None, Generator((6, 8)), clusters=8, aside=4, aside_seed=1)
    with pytest.raises(BadInput, match="other settings") as error:
        practised_together(group, Practice(), teacher, tmp_path, {})
    assert "\n" not in str(error.value)


def test_a_posterior_policy_learns_alone(tmp_path):
    out = tmp_path / "it.safetensors"
    refused(backburn("train", "--workers", "2", "--out", str(out)), 2, "only with --algorithm ppo")
    assert not out.exists()
