"""What one run has learnt of fault-free time, kept for the next."""

from __future__ import annotations

import time

import numpy as np
import pytest

from agent.calibration import Stretch, recalled, remember

NOW_S = time.time()


def stretch(value: float, age_days: float = 0.0, rows: int = 3) -> Stretch:
    return Stretch(np.full((rows, 2), value), NOW_S - age_days * 86400.0)


def values(found: list[Stretch]) -> list[float]:
    return [float(each.windows[0, 0]) for each in found]


def test_stretches_come_back_as_they_were(tmp_path):
    kept = [stretch(1.0, rows=3), stretch(2.0, rows=7)]
    remember(tmp_path / "calibration.npz", kept, "a key")
    found = recalled(tmp_path / "calibration.npz", "a key")
    assert [each.windows.shape for each in found] == [(3, 2), (7, 2)]
    assert values(found) == [1.0, 2.0]
    assert [each.learnt_s for each in found] == [NOW_S, NOW_S]
    assert recalled(tmp_path / "calibration.npz", "another key") == []


def test_of_too_many_the_newest_are_kept(tmp_path):
    remember(tmp_path / "calibration.npz", [stretch(float(n)) for n in range(60)], "a key")
    assert values(recalled(tmp_path / "calibration.npz", "a key")) == [float(n) for n in range(10, 60)]


def test_what_is_a_week_old_is_gone_however_often_it_was_written_anew(tmp_path):
    kept = [stretch(1.0, age_days=8.0), stretch(2.0, age_days=6.0)]
    remember(tmp_path / "calibration.npz", kept, "a key")
    assert values(recalled(tmp_path / "calibration.npz", "a key")) == [2.0]


def test_a_damaged_file_is_as_good_as_none(tmp_path):
    path = tmp_path / "calibration.npz"
    remember(path, [stretch(1.0)], "a key")
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        recalled(path, "a key")  # what it could still read is another question


@pytest.mark.parametrize("left", [0, 1, 100, -1])
def test_a_file_that_cannot_be_read_is_as_good_as_none(tmp_path, left):
    path = tmp_path / "calibration.npz"
    remember(path, [stretch(1.0)], "a key")
    path.write_bytes(path.read_bytes()[:left])
    assert recalled(path, "a key") == []
    assert recalled(tmp_path / "nothing.npz", "a key") == []
