"""Whatever comes from outside is read or refused in one line: never a crash, never accepted in silence.

Here: settings, lever, journal, policy files. Exporters, Prometheus, rows of data, traces and webhooks are fuzzed beside
their readers (`test_envs_telemetry`, `test_envs_prometheus`, `test_staging_data`, `test_envs_traces`,
`test_agent_service_web`).
"""

from __future__ import annotations

import copy
import json
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from actuators.clock import ManualClock
from actuators.errors import BadInput, Unsafe
from actuators.fault import Fault, Injection, Target
from agent.learning.policy_file import policy_in
from agent.settings import PACKAGED, Settings, load
from safety.journal import APPLIED, Journal
from safety.lever import Lever

OFTEN = settings(max_examples=150)
SELDOM = settings(max_examples=300)
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["weak", "1e9", "-1"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=6), inner, max_size=2),
    max_leaves=4,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("outside")


def places(node: object, at: tuple[object, ...] = ()) -> Iterator[tuple[object, ...]]:
    """Yields the path of everything inside of some settings."""
    if at:
        yield at
    inside = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in inside:
        yield from places(child, (*at, key))


def refused_in_one_line(error: BadInput, path: Path) -> None:
    assert str(path) in str(error)
    assert len(str(error).splitlines()) == 1 or "is not YAML" in str(error)


# ---- settings -------------------------------------------------------------------------------------------------------

WHOLE = {
    name: yaml.safe_load((PACKAGED / f"{name}.yaml").read_text(encoding="utf-8")) for name in ("local", "simulated")
}
PLACES = [(name, place) for name, whole in WHOLE.items() for place in places(whole)]


@OFTEN
@given(st.sampled_from(PLACES), ANYTHING, st.sampled_from(["replace", "remove", "misspell"]))
def test_settings_with_anything_anywhere_are_read_or_refused(folder, place, value, how):
    name, (*sections, key) = place
    data = copy.deepcopy(WHOLE[name])
    inside = data
    for section in sections:
        inside = inside[section]
    if how == "replace":
        inside[key] = value
    elif isinstance(inside, dict):
        kept = inside.pop(key)
        if how == "misspell":
            inside[f"{key}x"] = kept
    path = folder / "settings.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    try:
        read = load(path)
    except BadInput as error:
        refused_in_one_line(error, path)
        return
    assert isinstance(read, Settings)
    assert how != "misspell" or not isinstance(inside, dict) or _is_free(sections), "a wrong key is never passed over"


def _is_free(sections: list[object]) -> bool:
    """Tells whether names at a place are the user's own: components, series."""
    return bool(sections) and sections[-1] in {"repairs", "service_levels"}


@OFTEN
@given(st.binary(max_size=80) | st.text(max_size=80).map(str.encode))
def test_bytes_for_settings_are_refused(folder, content):
    path = folder / "bytes.yaml"
    path.write_bytes(content)
    with pytest.raises(BadInput) as refused:
        load(path)
    assert str(path) in str(refused.value)


# ---- the lever ------------------------------------------------------------------------------------------------------


@OFTEN
@given(st.binary(max_size=60) | ANYTHING.map(lambda value: json.dumps(value).encode()))
def test_whatever_stands_in_the_levers_file_only_a_plain_no_lets_anything_happen(folder, content):
    path = folder / "lever.json"
    path.write_bytes(content)
    assert Lever(path).read().engaged


def test_a_lever_nested_beyond_reading_is_engaged(folder):
    path = folder / "deep.json"
    path.write_text("[" * 200_000, encoding="utf-8")
    assert Lever(path).read().engaged


# ---- the journal ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def journal_file(folder) -> Path:
    """A journal that holds one open fault, all of it in one file."""
    clock, path = ManualClock(), folder / "whole.db"
    journal = Journal(path, clock, "test")
    now = clock.now()
    injection = Injection("bb-1", Fault("pod.pause", Target("web"), 0.5, 9.0), {"x": [1]}, now, now.after(9.0), 1)
    journal.intend(injection)
    journal.mark(injection, APPLIED)
    journal._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    journal.close()
    return path


@SELDOM
@given(st.data())
def test_a_damaged_journal_never_says_that_nothing_is_open(journal_file, data):
    whole = journal_file.read_bytes()
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 40))):
        damaged[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        damaged = damaged[: data.draw(st.integers(1, len(whole)))]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "journal.db"
        path.write_bytes(damaged)
        try:
            journal = Journal(path, ManualClock(), "test")
        except Unsafe:
            return
        try:
            assert len(journal.open_injections()) == 1
        except (Unsafe, sqlite3.OperationalError):
            return
        finally:
            journal.close()


@OFTEN
@given(ANYTHING.map(json.dumps) | st.text(max_size=30))
def test_a_receipt_that_cannot_be_read_is_unsafe(receipt):
    with TemporaryDirectory() as folder:
        journal = Journal(Path(folder) / "journal.db", ManualClock(), "test")
        journal._append("intended", "bb-1", receipt, "")
        with pytest.raises(Unsafe, match="what is open is unknown"):
            journal.open_injections()
        journal.close()


# ---- policies -------------------------------------------------------------------------------------------------------

SHIPPED = PACKAGED / "policies" / "posterior.safetensors"


@SELDOM
@given(st.sampled_from([".safetensors", ".json"]), st.data())
def test_a_policy_file_with_anything_in_it_is_refused(suffix, data):
    whole = SHIPPED.with_suffix(suffix).read_bytes()
    if data.draw(st.booleans()):
        content = whole[: data.draw(st.integers(0, len(whole) - 1))]
    else:
        at = data.draw(st.integers(0, len(whole) - 1))
        content = whole[:at] + data.draw(st.binary(min_size=1, max_size=8)) + whole[at + 1 :]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "policy.safetensors"
        for each in (".safetensors", ".json"):
            shutil.copy(SHIPPED.with_suffix(each), path.with_suffix(each))
        path.with_suffix(suffix).write_bytes(content)
        if content == whole or (suffix == ".json" and _means_the_same(whole, content)):
            policy_in(path)
            return
        with pytest.raises(BadInput) as refused:
            policy_in(path)
        assert str(path) in str(refused.value)


_TRUSTED = ("format", "encoding", "sort", "inputs", "hidden", "sha256")


def _means_the_same(whole: bytes, content: bytes) -> bool:
    """Tells whether all that the loader relies on is as it was; the rest of a record is for people."""
    try:
        ours, theirs = json.loads(whole), json.loads(content)
    except ValueError:
        return False
    return isinstance(theirs, dict) and all(ours.get(key) == theirs.get(key) for key in _TRUSTED)
