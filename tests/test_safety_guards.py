from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actuators.catalogue import CATALOGUE, LEVELS
from actuators.errors import BadInput
from actuators.fault import Fault, Target
from safety.guards import GUARDS, judge
from safety.limits import OPT_IN_LABEL, Limits, ServiceLimit
from safety.vitals import ComponentVitals, Identity, Vitals

LIMITS = Limits(
    environment="staging",
    cluster_id="c1",
    max_instances=1,
    max_share=0.25,
    whole_component=("single",),
    irreversible=("pod.kill",),
)
OPTED_IN = {OPT_IN_LABEL: "true"}
VITALS = Vitals(
    identity=Identity("c1", "staging"),
    components={
        "web": ComponentVitals(4, 4, OPTED_IN),
        "single": ComponentVitals(1, 1, OPTED_IN),
        "pair": ComponentVitals(2, 2, OPTED_IN),
        "stranger": ComponentVitals(2, 2, {}),
    },
    service_levels={},
    age_s=0.5,
    unsteady=(),
    firing_alerts=(),
)
KILL = Fault("pod.kill", Target("web"), 0.25, 9.0)


def test_a_fault_that_nothing_speaks_against_is_permitted():
    assert judge(KILL, VITALS, LIMITS) is None


@pytest.mark.parametrize(
    ("guard", "fault", "vitals", "limits"),
    [
        ("fresh_data", KILL, replace(VITALS, age_s=3.1), LIMITS),
        ("fresh_data", KILL, replace(VITALS, age_s=math.inf), LIMITS),
        ("fresh_data", KILL, replace(VITALS, age_s=math.nan), LIMITS),
        ("right_cluster", KILL, replace(VITALS, identity=Identity("c2", "staging")), LIMITS),
        ("right_cluster", KILL, replace(VITALS, identity=Identity("c1", "production")), LIMITS),
        ("right_cluster", KILL, VITALS, replace(LIMITS, cluster_id="")),
        ("right_cluster", KILL, VITALS, replace(LIMITS, deny_patterns=("we",))),
        ("opted_in", replace(KILL, target=Target("stranger")), VITALS, LIMITS),
        ("opted_in", replace(KILL, target=Target("nobody")), VITALS, LIMITS),
        ("not_quarantined", KILL, replace(VITALS, quarantined=frozenset({"web"})), LIMITS),
        ("known_and_short", replace(KILL, kind="pod.explode"), VITALS, LIMITS),
        ("known_and_short", replace(KILL, duration_s=61.0), VITALS, LIMITS),
        ("reversible", replace(KILL, kind="model.checkpoint_corrupt"), VITALS, LIMITS),
        ("few_open", KILL, replace(VITALS, open_faults=(replace(KILL, target=Target("pair")),)), LIMITS),
        ("few_open", KILL, replace(VITALS, open_faults=(KILL,)), replace(LIMITS, max_open=2)),
        ("blast_radius", replace(KILL, intensity=0.5), VITALS, LIMITS),
        ("blast_radius", replace(KILL, target=Target("pair"), intensity=1.0), VITALS, LIMITS),
        ("blast_radius", Fault("network.delay", Target("web"), 0.25, 9.0), VITALS, LIMITS),
        (
            "blast_radius",
            KILL,
            replace(VITALS, components={"web": ComponentVitals(None, 0, OPTED_IN)}),
            LIMITS,
        ),
        # One of four is allowed; of one that is left it would be the last, and of an unknown number perhaps.
        ("blast_radius", KILL, replace(VITALS, components={"web": ComponentVitals(1, 4, OPTED_IN)}), LIMITS),
        ("blast_radius", KILL, replace(VITALS, components={"web": ComponentVitals(None, 4, OPTED_IN)}), LIMITS),
        # Half of five are two, where half of two would have been the one that is allowed.
        (
            "blast_radius",
            replace(KILL, intensity=0.5),
            replace(VITALS, components={"web": ComponentVitals(5, 2, OPTED_IN)}),
            LIMITS,
        ),
        ("quiet", KILL, replace(VITALS, firing_alerts=("HighErrorRate",)), LIMITS),
        ("quiet", KILL, replace(VITALS, firing_alerts=None), LIMITS),
        ("steady_state", KILL, replace(VITALS, unsteady=("client/error_share is 1",)), LIMITS),
        ("steady_state", KILL, replace(VITALS, unsteady=None), LIMITS),
    ],
)
def test_each_guard_refuses_what_it_is_there_for(guard, fault, vitals, limits):
    refusal = judge(fault, vitals, limits)
    assert refusal is not None
    assert refusal.guard == guard
    assert refusal.reason


def test_a_component_that_is_named_may_be_hit_as_a_whole():
    assert judge(replace(KILL, target=Target("single")), VITALS, LIMITS) is None


def test_limits_that_say_nothing_allow_nothing():
    assert judge(KILL, VITALS, Limits()) is not None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1])
@pytest.mark.parametrize("name", ["max_open", "max_duration_s", "max_instances", "max_share", "stale_after_s"])
def test_a_limit_that_nothing_could_exceed_is_none(name, value):
    with pytest.raises(BadInput, match=f"limits.{name} is {value}; allowed are"):
        replace(LIMITS, **{name: value})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nor_is_a_service_level_that_nothing_could_break(value):
    for bound in ({"at_most": value}, {"at_least": value}, {"at_most": 0.5, "for_s": value}):
        name = list(bound)[-1]
        with pytest.raises(BadInput, match=f"{name} of a service limit is {value}; allowed are finite values"):
            ServiceLimit(**bound)
    with pytest.raises(BadInput, match="for_s of a service limit is -1; allowed are finite values from 0"):
        ServiceLimit(at_most=0.5, for_s=-1)


faults = st.builds(
    Fault,
    st.sampled_from([*CATALOGUE, "pod.explode"]),
    st.builds(Target, st.sampled_from(["web", "single", "pair", "stranger", "nobody"])),
    st.sampled_from(LEVELS),
    st.floats(0.1, 100.0),
)
situations = st.builds(
    Vitals,
    identity=st.builds(Identity, st.sampled_from(["c1", "c2"]), st.sampled_from(["staging", "production"])),
    components=st.just(VITALS.components),
    service_levels=st.just({}),
    age_s=st.floats(0.0, 10.0),
    unsteady=st.sampled_from([(), ("x",), None]),
    open_faults=st.lists(faults, max_size=3).map(tuple),
    quarantined=st.sets(st.sampled_from(["web", "single"])).map(frozenset),
    firing_alerts=st.sampled_from([(), ("a",), None]),
)


@given(faults, situations)
def test_guards_are_pure(fault, vitals):
    assert judge(fault, vitals, LIMITS) == judge(fault, vitals, LIMITS)


@given(faults, situations, faults)
def test_more_open_faults_never_loosen_a_verdict(fault, vitals, another):
    crowded = replace(vitals, open_faults=(*vitals.open_faults, another))
    if judge(fault, vitals, LIMITS) is not None:
        assert judge(fault, crowded, LIMITS) is not None


@given(faults, situations)
def test_knowing_less_never_loosens_a_verdict(fault, vitals):
    if judge(fault, vitals, LIMITS) is not None:
        assert judge(fault, replace(vitals, unsteady=None), LIMITS) is not None
        assert judge(fault, replace(vitals, age_s=math.inf), LIMITS) is not None


def with_target(fault: Fault, vitals: Vitals, **changes: object) -> tuple[Fault, Vitals]:
    name = fault.target.name
    return fault, replace(vitals, components={name: replace(vitals.components[name], **changes)})


SPOILT = {
    "fresh_data": lambda fault, vitals: (fault, replace(vitals, age_s=3.1)),
    "right_cluster": lambda fault, vitals: (fault, replace(vitals, identity=Identity("c2", "staging"))),
    "opted_in": lambda fault, vitals: with_target(fault, vitals, labels={}),
    "not_quarantined": lambda fault, vitals: (fault, replace(vitals, quarantined=frozenset({fault.target.name}))),
    "known_and_short": lambda fault, vitals: (replace(fault, duration_s=60.1), vitals),
    "reversible": lambda fault, vitals: (replace(fault, kind="model.checkpoint_corrupt"), vitals),
    "few_open": lambda fault, vitals: (fault, replace(vitals, open_faults=(replace(fault, target=Target("pair")),))),
    "blast_radius": lambda fault, vitals: with_target(fault, vitals, ready=0, total=0),
    "quiet": lambda fault, vitals: (fault, replace(vitals, firing_alerts=("a",))),
    "steady_state": lambda fault, vitals: (fault, replace(vitals, unsteady=("x",))),
}
"""By guard: what is permitted, with the one thing changed that it is there for."""

permitted = st.builds(
    Fault, st.sampled_from(["pod.kill", "pod.pause"]), st.just(Target("web")), st.just(0.25), st.floats(0.1, 60.0)
) | st.builds(
    Fault,
    st.sampled_from(["pod.kill", *(name for name, kind in CATALOGUE.items() if kind.reversible)]),
    st.just(Target("single")),
    st.sampled_from(LEVELS),
    st.floats(0.1, 60.0),
)


@given(permitted, st.sets(st.sampled_from(list(SPOILT))))
def test_one_refusal_is_enough(fault, spoilt):
    """The verdict is the conjunction: what every single guard permits, and what one refuses nobody else lets pass."""
    vitals = VITALS
    assert set(SPOILT) == {guard.__name__ for guard in GUARDS}
    assert [guard(fault, vitals, LIMITS) for guard in GUARDS] == [None] * len(GUARDS)
    assert judge(fault, vitals, LIMITS) is None
    for guard in GUARDS:
        if guard.__name__ in spoilt:
            fault, vitals = SPOILT[guard.__name__](fault, vitals)
    refusals = [guard(fault, vitals, LIMITS) for guard in GUARDS]
    assert {refusal.guard for refusal in refusals if refusal is not None} == spoilt
    assert judge(fault, vitals, LIMITS) == next((refusal for refusal in refusals if refusal is not None), None)
