"""Which model answers: what a replica loads, what it tries out first, and when it is well."""

from __future__ import annotations

from pathlib import Path

import pytest

from envs.staging.model import fit_quickly, untrained
from envs.staging.model_server import ReloadingModel
from envs.staging.registry import Registry
from envs.staging.rollout import AtOnce, Canary, Release, require_answer
from envs.staging.world import make_world

WORLD = make_world(0)


def test_a_model_server_keeps_the_last_good_model(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    rollout = AtOnce()
    current = ReloadingModel(registry, rollout, verified=True)
    current.reload()
    assert rollout.serving is None
    registry.publish(untrained(1).tensors)
    current.reload()
    good = rollout.serving
    registry.publish(untrained(2).tensors)
    newest = tmp_path / "model-000002.safetensors"
    whole = newest.read_bytes()
    newest.write_bytes(whole[:100])
    current.reload()
    assert (current.version, rollout.serving) == (1, good)
    newest.write_bytes(whole)
    current.reload()
    assert current.version == 2


def test_a_number_that_is_published_again_is_looked_at_again(tmp_path: Path) -> None:
    """A bad version is withdrawn between two looks, and the next good one gets its number."""
    registry = Registry(tmp_path)
    registry.publish(untrained(1).tensors)
    current = ReloadingModel(registry, rollout := AtOnce(), verified=True)
    registry.publish(untrained(2).tensors)
    current.reload()
    for withdrawn in tmp_path.glob("model-000002.*"):
        withdrawn.unlink()
    assert registry.publish(untrained(3).tensors) == 2
    current.reload()
    assert rollout.serving is not None
    assert (rollout.serving.model.tensors["hidden.weight"] == untrained(3).tensors["hidden.weight"]).all()


def with_hole(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2))


@pytest.mark.parametrize(("verified", "served"), [(True, 1), (False, 2)])
def test_a_model_server_that_starts_on_a_damaged_model_takes_the_one_before_if_it_checks(
    tmp_path: Path, verified: bool, served: int
) -> None:
    registry = Registry(tmp_path)
    for seed in (1, 2):
        registry.publish(untrained(seed).tensors)
    with_hole(tmp_path / "model-000002.safetensors")
    current = ReloadingModel(registry, AtOnce(), verified=verified)
    current.reload()
    assert current.version == served


def test_a_model_server_that_checks_nothing_still_refuses_what_is_no_model(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    registry.publish(untrained(1).tensors)
    (tmp_path / "model-000001.safetensors").write_bytes(b"not a model")
    rollout = AtOnce()
    ReloadingModel(registry, rollout, verified=False).reload()
    assert rollout.serving is None


def answers(canary: Canary, requests: int) -> list[int]:
    """Returns which version answered each of some requests."""
    return [canary.predict(WORLD.features[entity : entity + 1])[1] for entity in range(requests)]


def test_a_canary_that_says_the_same_takes_over() -> None:
    canary = Canary()
    canary.offer(Release(1, fit_quickly(0)))
    assert answers(canary, 5) == [1] * 5
    canary.offer(Release(2, fit_quickly(1)))
    assert 0 < answers(canary, 30).count(2) < 6, "a small share while on trial"
    assert answers(canary, 5) == [2] * 5
    assert canary.rejected == 0


def test_a_canary_that_says_something_else_is_rolled_back() -> None:
    canary = Canary()
    canary.offer(Release(1, fit_quickly(0)))
    canary.offer(Release(2, untrained(0)))
    answers(canary, 30)
    assert answers(canary, 30) == [1] * 30
    assert canary.rejected == 1


def test_a_roll_back_needs_no_trial() -> None:
    """What serves may be the bad one: a trial would compare the good one with it, and refuse it for ever."""
    canary = Canary()
    canary.offer(Release(2, untrained(0)))
    canary.offer(Release(1, fit_quickly(0)))
    assert answers(canary, 3) == [1] * 3


def test_who_has_no_model_is_not_well() -> None:
    rollout = AtOnce()
    with pytest.raises(LookupError, match="no model"):
        require_answer(rollout)
    rollout.offer(Release(1, untrained(0)))
    require_answer(rollout)
