from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors

from envs.staging.checkpoints import (
    Checkpoint,
    Checkpoints,
    InPlaceCheckpoints,
    VerifiedCheckpoints,
    newest_checkpoint,
)
from envs.staging.errors import DamagedFile
from envs.staging.files import write_atomically
from envs.staging.model import untrained
from envs.staging.registry import Registry

from .waiting import wait_until


def checkpoint(step: int) -> Checkpoint:
    return Checkpoint(step, {"weight": np.full((64, 12), step, np.float32)})


def truncate(path: Path, share: float) -> None:
    os.truncate(path, int(path.stat().st_size * (1 - share)))


def checkpoint_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


@pytest.mark.parametrize("kind", [InPlaceCheckpoints, VerifiedCheckpoints])
def test_checkpoints_return_what_was_saved_last_even_to_a_fresh_process(kind, tmp_path: Path) -> None:
    assert kind(tmp_path).load() is None
    checkpoints: Checkpoints = kind(tmp_path)
    for step in (40, 80):
        checkpoints.save(checkpoint(step))
    loaded = kind(tmp_path).load()
    assert loaded.step == 80
    assert (loaded.tensors["weight"] == 80).all()


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_in_place_checkpoints_are_lost_with_their_only_file(share: float, tmp_path: Path) -> None:
    checkpoints = InPlaceCheckpoints(tmp_path)
    for step in (40, 80, 120):
        checkpoints.save(checkpoint(step))
    (only,) = checkpoint_files(tmp_path)
    truncate(only, share)
    with pytest.raises(safetensors.SafetensorError):
        checkpoints.load()


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_verified_checkpoints_fall_back_to_the_last_good_one(share: float, tmp_path: Path) -> None:
    checkpoints = VerifiedCheckpoints(tmp_path)
    for step in (40, 80, 120):
        checkpoints.save(checkpoint(step))
    truncate(newest_checkpoint(tmp_path), share)
    assert checkpoints.load().step == 80


def test_verified_checkpoints_notice_a_single_flipped_bit(tmp_path: Path) -> None:
    checkpoints = VerifiedCheckpoints(tmp_path)
    for step in (40, 80):
        checkpoints.save(checkpoint(step))
    newest = newest_checkpoint(tmp_path)
    damaged = bytearray(newest.read_bytes())
    damaged[-1] ^= 1
    newest.write_bytes(damaged)
    assert checkpoints.load().step == 40


def test_after_a_fall_back_the_damaged_checkpoint_is_not_the_newest_for_ever(tmp_path: Path) -> None:
    checkpoints = VerifiedCheckpoints(tmp_path)
    for step in (40, 80, 120):
        checkpoints.save(checkpoint(step))
    truncate(newest_checkpoint(tmp_path), 0.5)
    for step in (90, 100, 110):
        checkpoints.save(checkpoint(step))
        assert checkpoints.load().step == step


def test_the_last_three_checkpoints_are_kept_and_nothing_else(tmp_path: Path) -> None:
    checkpoints = VerifiedCheckpoints(tmp_path)
    for step in range(10):
        checkpoints.save(checkpoint(step))
    assert len(checkpoint_files(tmp_path)) == 3
    assert len(list(tmp_path.iterdir())) == 6


def test_with_no_good_checkpoint_left_a_job_does_not_silently_start_over(tmp_path: Path) -> None:
    checkpoints = VerifiedCheckpoints(tmp_path)
    checkpoints.save(checkpoint(40))
    truncate(newest_checkpoint(tmp_path), 0.5)
    with pytest.raises(DamagedFile, match="none of the 1 checkpoints"):
        checkpoints.load()


def test_the_newest_file_of_verified_checkpoints_is_the_checkpoint_and_not_its_checksum(tmp_path: Path) -> None:
    VerifiedCheckpoints(tmp_path).save(checkpoint(40))
    assert newest_checkpoint(tmp_path).suffix == ".safetensors"
    assert newest_checkpoint(tmp_path / "missing") is None


KEEPS_SAVING = """
import sys, numpy as np
from pathlib import Path
from envs.staging.checkpoints import Checkpoint, VerifiedCheckpoints
checkpoints = VerifiedCheckpoints(Path(sys.argv[1]))
for step in range(1, 10**9):
    checkpoints.save(Checkpoint(step, {"weight": np.zeros(200_000, np.float32)}))
"""


def test_a_writer_killed_at_any_moment_leaves_a_good_checkpoint(tmp_path: Path) -> None:
    for _ in range(3):
        writer = subprocess.Popen([sys.executable, "-c", KEEPS_SAVING, str(tmp_path)])
        try:
            before = {path.name for path in checkpoint_files(tmp_path)}
            wait_until(lambda before=before: {path.name for path in checkpoint_files(tmp_path)} - before)
        finally:
            writer.send_signal(signal.SIGKILL)
            writer.wait()
        newest = checkpoint_files(tmp_path)[-1]
        assert VerifiedCheckpoints(tmp_path).load().step == Checkpoint.from_bytes(newest.read_bytes()).step


def test_an_atomic_write_replaces_the_file_whole_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with path.open("rb") as reader:
        write_atomically(path, b"new and longer")
        assert reader.read() == b"old"
    assert path.read_bytes() == b"new and longer"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


def test_a_registry_serves_the_version_that_was_published_last(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    assert registry.current_version() is None
    versions = [registry.publish(untrained(seed).tensors) for seed in (1, 2)]
    assert versions == [1, 2]
    assert registry.current_version() == 2
    loaded = Registry(tmp_path).load(2)
    assert (loaded.tensors["hidden.weight"] == untrained(2).tensors["hidden.weight"]).all()


def test_a_registry_never_hands_out_a_damaged_model(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    version = registry.publish(untrained(0).tensors)
    (model,) = tmp_path.glob("model-*.safetensors")
    truncate(model, 0.3)
    with pytest.raises(DamagedFile, match="sha256"):
        registry.load(version)
    model.unlink()
    with pytest.raises(DamagedFile, match="cannot be read"):
        registry.load(version)


def test_a_registry_keeps_a_few_versions_and_numbers_never_run_back(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    for seed in range(8):
        registry.publish(untrained(seed).tensors)
    assert len(list(tmp_path.glob("model-*.safetensors"))) == 5
    assert Registry(tmp_path).publish(untrained(9).tensors) == 9


def test_a_pointer_that_makes_no_sense_names_no_version(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    registry.publish(untrained(0).tensors)
    registry.pointer.write_text("garbage")
    assert registry.current_version() is None
