"""Two requests as a picture and as text."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from agent.findings.waterfall import as_text, waterfall
from envs.telemetry.traces import RequestTrace, Seen, Span, pair

SVG = "{http://www.w3.org/2000/svg}"
HOPS = (
    ("client", "predict"),
    ("gateway", "POST /predict"),
    ("model-server", "predict"),
    ("model-server", "fetch features"),
    ("feature-store", "GET /features"),
)


def request(at_s: float, *took_ms: float | None, error: str | None = None, **told: object) -> RequestTrace:
    """Returns a request whose hops lie one inside of the other."""
    spans = [
        Span(
            id=str(number),
            parent=str(number - 1) if number else None,
            component=component,
            instance=f"{component}/1",
            name=name,
            start_s=at_s + number / 1000,
            end_s=None if ms is None else at_s + number / 1000 + ms / 1000,
            error=error if number == 0 else None,
            attributes={key.replace("_", "."): value for key, value in told.items()} if number == 3 else {},
        )
        for number, ((component, name), ms) in enumerate(zip(HOPS, took_ms, strict=False))
    ]
    return RequestTrace("0af7651916cd43dd8448eb211c80319c", tuple(spans))


QUICK = request(95.0, 14.0, 12.0, 10.0, 5.0, 1.0)
SLOW = request(104.0, 2000.0, None, None, 1995.0, 1.0, error="timeout", features_attempts=3)


def requests(*traces: RequestTrace) -> dict[str, object]:
    return pair(Seen(traces), 100.0, 110.0).to_json(100.0, "bb-0123456789ab")


def drawn(data: dict[str, object]) -> ElementTree.Element:
    return ElementTree.fromstring(waterfall(data, "a <title>"))  # noqa: S314 (drawn by us)


def bars(svg: ElementTree.Element) -> list[tuple[float, float, str]]:
    found = [one for one in svg.iter(f"{SVG}rect") if one.get("class", "").startswith("hop")]
    return [(float(one.get("x")), float(one.get("width")), one.get("class")) for one in found]


def test_both_requests_are_drawn_hop_by_hop_on_one_scale():
    hops = bars(drawn(requests(QUICK, SLOW)))
    assert len(hops) == 10
    before, during = hops[0], hops[5]
    assert during[1] > 100 * before[1] or before[1] == 2.0
    assert hops[8][1] > 100 * hops[9][1], "the fetch is long while the store's own part is short"
    assert during[2] == "hop failed"
    assert hops[6][2] == "hop open"
    assert hops[6][0] + hops[6][1] == max(x + width for x, width, _ in hops)


def test_the_picture_names_injection_trace_milliseconds_and_what_went_wrong():
    words = " ".join("".join(text.itertext()) for text in drawn(requests(QUICK, SLOW)).iter(f"{SVG}text"))
    for expected in ("during fault bb-0123456789ab", "4.0 s after the injection", "5.0 s before the injection"):
        assert expected in words
    for expected in (SLOW.id, "2000 ms timeout", "unfinished", "3 attempts", "14.0 ms", "feature-store GET"):
        assert expected in words


def test_text_tells_the_same():
    text = as_text(requests(QUICK, SLOW))
    assert "during fault bb-0123456789ab 4.0 s after the injection, trace 0af7651916cd43dd8448eb211c80319c" in text
    assert len(text.splitlines()) == 12
    assert max(map(len, text.splitlines())) < 120
    assert "2000 ms  timeout" in text


@pytest.mark.parametrize("data", [None, {"injection_id": "x", "before": None, "during": None, "malformed": 3}])
def test_where_nobody_can_tell_nothing_is_drawn(data):
    assert waterfall(data, "") == as_text(data) == ""


@pytest.mark.parametrize(("traces", "said"), [((QUICK,), "no request was recorded during"), ((SLOW,), "no answered")])
def test_a_missing_half_is_said_and_not_passed_over(traces, said):
    data = requests(*traces)
    assert said in "".join(drawn(data).itertext())
    assert said in as_text(data)


def test_names_from_outside_cannot_break_out_of_the_picture():
    evil = Span("1", None, "<script>", '"x"', "<b>", 104.0, 104.1, "</svg><script>alert(1)</script>", {})
    svg = waterfall(requests(RequestTrace("t", (evil,))), "</title><script>")
    assert "<script" not in svg
    assert ElementTree.fromstring(svg) is not None  # noqa: S314 (drawn by us)
