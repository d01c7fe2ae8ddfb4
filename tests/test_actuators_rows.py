"""What is done to rows on their way: by pure functions, and by the fault proxy between real sockets."""

from __future__ import annotations

import asyncio
import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actuators.rows import LineCutter, RowEffect, changed
from tests.test_actuators_proxy import Scene, play  # noqa: F401 (a fixture)

AMOUNTS = {RowEffect.CORRUPT: 1.0, RowEffect.RENAME: 0.5, RowEffect.SHIFT: 2.0, RowEffect.HOLD: 60.0}
CHANGING = [effect for effect in RowEffect if effect is not RowEffect.HOLD]


def row(entity: int = 1, partition: int = 1, **values: object) -> bytes:
    values = values or {"f0": 0.5, "f1": -0.25}
    return json.dumps({"entity": entity, "partition": partition, "values": values}).encode() + b"\n"


def after(effect: RowEffect, amount: float, line: bytes = row()) -> dict:
    return json.loads(changed(line, effect, amount, random.Random(0)))["values"]


def test_each_effect_does_what_it_says() -> None:
    assert after(RowEffect.CORRUPT, 1.0) == {"f0": -500.0, "f1": 250.0}
    assert after(RowEffect.RENAME, 0.5) == {"f0_v2": 0.5, "f1": -0.25}
    assert after(RowEffect.RENAME, 1.0) == {"f0_v2": 0.5, "f1_v2": -0.25}
    assert after(RowEffect.SHIFT, 2.0) == {"f0": 2.5, "f1": 1.75}
    assert after(RowEffect.SHIFT, 2.0, row(f0="text", f1=True, f2=None, f3=1)) == {
        "f0": "text",
        "f1": True,
        "f2": None,
        "f3": 3.0,
    }


def test_so_large_a_share_of_rows_is_corrupted_and_always_the_same_ones() -> None:
    def hit(seed: str) -> list[bool]:
        draws = random.Random(seed)
        return [changed(row(), RowEffect.CORRUPT, 0.25, draws) is not None for _ in range(2000)]

    assert 0.2 < sum(hit("bb-1")) / 2000 < 0.3
    assert hit("bb-1") == hit("bb-1") != hit("bb-2")


@pytest.mark.parametrize("effect", CHANGING)
@pytest.mark.parametrize(
    "line", [b'{"partition": 2}\n', b"GET / HTTP/1.1\r\n", b"[1]\n", b'{"values": 3}\n', b"\n", b"\xff\n"]
)
def test_what_is_no_row_passes_as_it_is(effect, line) -> None:
    assert changed(line, effect, 1.0, random.Random(0)) is None


values = st.dictionaries(st.text(max_size=3), st.floats(allow_nan=False, allow_infinity=False) | st.text() | st.none())


@given(values, st.sampled_from(CHANGING))
def test_a_changed_row_is_one_whole_line_with_the_envelope_it_had(found, effect) -> None:
    line = json.dumps({"entity": 3, "partition": 2, "produced_at_s": 7.5, "values": found}).encode() + b"\n"
    made = changed(line, effect, AMOUNTS[effect], random.Random(0))
    assert made is not None
    assert made.count(b"\n") == 1
    assert made.endswith(b"\n")
    told = json.loads(made)
    assert (told["entity"], told["partition"], told["produced_at_s"]) == (3, 2, 7.5)
    assert len(told["values"]) <= len(found)


@given(st.binary(max_size=60).map(lambda text: text.replace(b"x", b"\n")), st.data())
def test_however_bytes_are_cut_and_whenever_a_fault_comes_and_goes_none_is_lost_and_no_line_is_torn(text, data) -> None:
    """A line that has passed in part stays as it is, and whoever asks for whole lines gets nothing but whole ones."""
    cutter, passed, given_bytes = LineCutter(), b"", text
    while text:
        size = data.draw(st.integers(1, len(text)))
        chunk, text = text[:size], text[size:]
        if data.draw(st.booleans()):
            passed += cutter.raw(chunk)
            continue
        begun, lines = cutter.whole(chunk)
        in_line = bool(passed) and not passed.endswith(b"\n")
        assert in_line or not begun
        passed += begun
        for line in lines:
            assert line.endswith(b"\n")
            assert line.count(b"\n") == 1
            assert not passed or passed.endswith(b"\n"), "it begins where a line begins"
            passed += line
    assert passed + cutter.raw(b"") == given_bytes


def test_a_line_without_an_end_is_not_kept_for_ever() -> None:
    cutter, endless = LineCutter(), b"x" * (1 << 18)
    passed = b""
    for _ in range(16):
        begun, lines = cutter.whole(endless)
        passed += begun + b"".join(lines)
    kept = 16 * len(endless) - len(passed)
    assert kept <= 1 << 20
    begun, lines = cutter.whole(b"\nwhole\n")
    assert (begun, lines) == (b"\n", [b"whole\n"])


# ---- in the proxy ---------------------------------------------------------------------------------------------------


async def impair(place: Scene, effect: RowEffect, seconds: float = 60.0, name: str = "bb-1") -> None:
    await place.impair(effect, AMOUNTS[effect], name=name, seconds=seconds)


@pytest.mark.parametrize("effect", CHANGING)
def test_rows_are_changed_while_it_lasts_and_counted(play, effect) -> None:  # noqa: F811
    async def scenario(place: Scene) -> None:
        line, other = await place.line("a"), await place.line("b")
        assert await line.said(row()) == row()
        await impair(place, effect)
        line.writer.write(row()[:10])
        await asyncio.sleep(0.05)
        line.writer.write(row()[10:] + row() + b"no row\n")
        expected = changed(row(), effect, AMOUNTS[effect], random.Random(0))
        assert await line.reader.readline() == expected
        assert await line.reader.readline() == expected
        assert await line.reader.readline() == b"no row\n"
        assert await place.affected() == {"a": 2}
        assert await other.said(row()) == row()
        await place.clear()
        assert await line.said(row()) == row()

    play(scenario)


@pytest.mark.parametrize("how", ["cleared", "expired"])
def test_one_partition_is_held_back_and_passes_in_order_when_it_ends(play, how) -> None:  # noqa: F811
    async def scenario(place: Scene) -> None:
        late, other = await place.line("a"), await place.line("a")
        await impair(place, RowEffect.HOLD, seconds=60.0 if how == "cleared" else 4.0)
        late.writer.write(row(1, partition=1) + row(5, partition=1))
        await place.until_felt(2)
        assert await other.said(row(2, partition=2)) == row(2, partition=2), "the others are in time"
        assert await late.is_silent()
        assert await place.affected() == {"a": 2}
        if how == "cleared":
            await place.clear()
        assert await late.reader.readline() == row(1, partition=1)
        assert await late.reader.readline() == row(5, partition=1)
        assert await place.affected() == {}

    play(scenario)


@pytest.mark.parametrize("effect", CHANGING)
def test_a_change_ends_by_itself_at_its_deadline(play, effect) -> None:  # noqa: F811
    async def scenario(place: Scene) -> None:
        line = await place.line("a")
        await impair(place, effect, seconds=3.0)
        line.writer.write(row())
        assert await line.reader.readline() != row()
        while await place.affected():
            await asyncio.sleep(0.02)
        assert await line.said(row()) == row()

    play(scenario)


def test_a_line_that_was_begun_before_the_fault_passes_as_it_is(play) -> None:  # noqa: F811
    async def scenario(place: Scene) -> None:
        line = await place.line("a")
        assert await line.said(row()[:10]) == row()[:10]
        await impair(place, RowEffect.SHIFT)
        line.writer.write(row()[10:] + row())
        assert await line.reader.readline() == row()[10:]
        assert await line.reader.readline() == changed(row(), RowEffect.SHIFT, 2.0, random.Random(0))

    play(scenario)


def test_the_end_of_a_stream_is_passed_on_with_the_last_unfinished_line(play) -> None:  # noqa: F811
    async def scenario(place: Scene) -> None:
        line = await place.line("a")
        await impair(place, RowEffect.SHIFT)
        line.writer.write(b"unfinished")
        line.writer.write_eof()
        assert await line.reader.read() == b"unfinished"

    play(scenario)
