from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from actuators.catalogue import CATALOGUE
from actuators.errors import BadInput
from actuators.fault import Fault, Target
from agent.findings.ground_truth import SWITCHES, UNPLANTED, compare
from agent.findings.ledger import Ledger
from agent.findings.remedies import knowledge, remedy_for
from agent.findings.weakness import Weakness, identifier, reproduced_by, weakness_of
from envs.confirmation import Cell, Confirmations, Fingerprint
from envs.hypothesis import Broken, Mechanism
from envs.outcome import Outcome
from envs.scoring import Evidence, Score, Verdict
from envs.staging.settings import Switches

ROLES = ("gateway", "model-server", "feature-store", "trainer", "stream", "feature-pipeline")
KILL = Fault("pod.kill", Target("model-server"), 0.25, 9.0)


def outcome(verdict=Verdict.WEAKNESS, e_value=4.5, mechanism=Mechanism.UNAVAILABLE, fault=KILL) -> Outcome:
    broken = (Broken("client/error_share ≤ 0.1", "client/error_share", mechanism, 1.0, 18.0, 9),)
    shown = broken if verdict is Verdict.WEAKNESS else ()
    evidence = Evidence(verdict, anomaly_score=0.9, p=0.0123, p_floor=0.0123, mde=0.2, e_value=e_value, cost_min=0.5)
    return Outcome(fault, Score(evidence, shown, "because", 4.0, (("client/error_share", 20.0),)))


def confirmed(*outcomes: Outcome) -> tuple[Confirmations, list[Fingerprint | None]]:
    confirmations = Confirmations()
    said = [confirmations.add(o.fault, o.fault.target.name, o.evidence, o.mechanism) for o in outcomes]
    return confirmations, said


def weakness(mechanism=Mechanism.UNAVAILABLE, **changes) -> Weakness:
    outcomes = [outcome(mechanism=mechanism)] * 2
    confirmations, _ = confirmed(*outcomes)
    found = weakness_of(
        Fingerprint("pod.kill", "model-server", mechanism),
        Cell.of(KILL),
        confirmations.cells[Cell.of(KILL)],
        outcomes,
        severity_of=lambda outcome: 0.9,
        remedy=remedy_for(Fingerprint("pod.kill", "model-server", mechanism)),
        seed=3,
        seen_at="2026-01-01T00:00:00+00:00",
    )
    return replace(found, **changes)


# ---- confirmation ---------------------------------------------------------------------------------------------------


def test_a_weakness_is_confirmed_by_its_second_replicate_and_only_once():
    _, said = confirmed(outcome(), outcome(), outcome())
    assert said == [None, Fingerprint("pod.kill", "model-server", Mechanism.UNAVAILABLE), None]


def test_one_replicate_is_never_enough_however_strong():
    assert confirmed(outcome(e_value=1000.0))[1] == [None]


def test_two_ways_that_were_seen_once_each_are_not_one_that_was_seen_twice():
    slow = outcome(mechanism=Mechanism.SLOW)
    assert confirmed(outcome(), slow)[1] == [None, None]
    confirmations, said = confirmed(outcome(), slow, slow)
    assert said[-1] == Fingerprint("pod.kill", "model-server", Mechanism.SLOW)
    assert confirmations.cells[Cell.of(KILL)].reproduced == 2


def test_a_weakness_is_told_by_an_experiment_that_shows_it():
    louder = outcome()
    evidence = replace(louder.evidence, anomaly_score=0.99, p=0.04)
    louder = replace(louder, score=replace(louder.score, evidence=evidence), injection_id="bb-louder")
    outcomes = [louder, *(replace(outcome(mechanism=Mechanism.SLOW), injection_id=f"bb-{n}") for n in range(2))]
    slow = Fingerprint("pod.kill", "model-server", Mechanism.SLOW)
    found = weakness_of(
        slow,
        Cell.of(KILL),
        confirmed(*outcomes)[0].cells[Cell.of(KILL)],
        outcomes,
        severity_of=lambda outcome: 0.9 if outcome.mechanism is not Mechanism.SLOW else 0.5,
        remedy=remedy_for(slow),
        seed=3,
        seen_at="2026-01-01T00:00:00+00:00",
    )
    assert (found.mechanism, found.evidence["anomaly_score"]) == ("slow", 0.9)
    assert (found.severity, found.shown_by) == ("medium", "bb-0")
    assert found.confidence["p"] < evidence.p


def test_replicates_that_show_nothing_weigh_against_it():
    nothing = outcome(Verdict.RESILIENT, e_value=0.6)
    assert confirmed(outcome(), nothing, outcome())[1] == [None, None, None]
    assert confirmed(outcome(), nothing, outcome(), outcome())[1][-1] is not None


def test_invalid_experiments_and_tool_errors_do_not_count():
    confirmations, said = confirmed(outcome(), outcome(Verdict.INVALID), outcome(Verdict.TOOL_ERROR), outcome())
    assert said[-1] is not None
    assert len(confirmations.cells[Cell.of(KILL)].evidence) == 2


def test_what_is_inconclusive_confirms_nothing_by_itself():
    """However much evidence it adds: who wants to write the weakness down needs an experiment that shows it."""
    weak, unsure = outcome(e_value=2.9), outcome(Verdict.INCONCLUSIVE, e_value=1.8)
    assert confirmed(weak, weak, unsure, unsure)[1] == [None] * 4
    assert confirmed(weak, weak, unsure, unsure, weak)[1][-1] is not None


def test_levels_of_one_arm_are_cells_of_their_own_and_one_weakness():
    harder = replace(KILL, intensity=1.0)
    said = confirmed(outcome(), outcome(), outcome(fault=harder), outcome(fault=harder))[1]
    assert [s is not None for s in said] == [False, True, False, False]


# ---- the record -----------------------------------------------------------------------------------------------------


def test_the_record_holds_what_the_issue_promises():
    data = weakness().to_json()
    promised = (
        "id fingerprint title fault mechanism hypothesis verdict evidence severity confidence affected recovery_s "
        "remedy state first_seen last_seen seed"
    )
    assert set(promised.split()) <= set(data)
    assert set(data["fault"]) == {"kind", "target", "intensity", "duration_s"}
    assert data["confidence"] == {"reproduced": 2, "attempts": 2, "p": 0.0123, "e_value": 20.25}
    assert set(data["remedy"]) == {"text", "source"}
    assert json.loads(json.dumps(data, allow_nan=False)) == data


def test_the_same_weakness_has_the_same_name_in_every_run():
    assert weakness().id == identifier(Fingerprint("pod.kill", "model-server", Mechanism.UNAVAILABLE)) == weakness().id
    assert weakness().id != weakness(Mechanism.SLOW).id


def test_the_record_says_who_was_looked_at_and_whether_it_was_too_late_or_nobody_saw():
    data = weakness().to_json()
    assert (data["tested"], data["not_recovered"]) == ([], False)
    seen = outcome()
    late = Broken("client/error_share ≤ 0.1", "client/error_share", Mechanism.NOT_RECOVERED, 1.0, 18.0, 9)
    score = replace(seen.score, broken=(*seen.score.broken, late), recovery_s=None, tested=("client", "trainer"))
    outcomes = [replace(seen, score=score)] * 2
    unavailable = Fingerprint("pod.kill", "model-server", Mechanism.UNAVAILABLE)
    found = weakness_of(
        unavailable,
        Cell.of(KILL),
        confirmed(*outcomes)[0].cells[Cell.of(KILL)],
        outcomes,
        severity_of=lambda outcome: 0.9,
        remedy=remedy_for(unavailable),
        seed=3,
        seen_at="2026-01-01T00:00:00+00:00",
    )
    assert (found.tested, found.not_recovered, found.recovery_s) == (["client", "trainer"], True, None)


# ---- ledger ---------------------------------------------------------------------------------------------------------


def test_the_mildest_form_since_it_was_last_confirmed_is_the_one_to_repeat(tmp_path):
    """What was enough in an earlier run may be borne by now, and its repeats would call the weakness gone."""
    ledger = Ledger(tmp_path / "ledger.db")
    harsh = replace(weakness(), reproducer=weakness().reproducer | {"intensity": 1.0})
    ledger.record([harsh])
    mild = reproduced_by(harsh, Cell.of(KILL))
    assert ledger.milder(mild)["intensity"] == KILL.intensity
    assert ledger.milder(harsh) == mild.reproducer
    assert ledger.record([harsh])[0].reproducer == harsh.reproducer
    (kept,) = ledger.all()
    assert (kept["reproducer"], kept["runs"]) == (harsh.reproducer, 2)
    ledger.close()


def test_a_weakness_seen_again_is_updated_and_not_doubled(tmp_path):
    ledger = Ledger(tmp_path / "ledger.db")
    ledger.record([weakness()])
    later = weakness(first_seen="2026-02-02T00:00:00+00:00", last_seen="2026-02-02T00:00:00+00:00")
    (merged,) = ledger.record([later])
    assert (merged.first_seen[:10], merged.last_seen[:10]) == ("2026-01-01", "2026-02-02")
    (row,) = ledger.all()
    assert row["runs"] == 2
    assert ledger.get(merged.id)["first_seen"][:10] == "2026-01-01"
    ledger.close()


def test_the_seed_of_a_weakness_is_that_of_the_cluster_on_which_it_is_to_be_repeated(tmp_path):
    """A simulated cluster of another seed is another cluster: there it may take more, or not be weak at all."""
    ledger = Ledger(tmp_path / "ledger.db")
    harsh = {"reproducer": weakness().reproducer | {"intensity": 1.0}}
    for seed, found in ((1, weakness(**harsh)), (2, weakness()), (3, weakness(**harsh))):
        ledger.record([replace(found, seed=seed)])
    assert ledger.get(weakness().id)["seed"] == 3
    ledger.milder(replace(weakness(), seed=4, reproducer=weakness().reproducer | {"intensity": 0.5}))
    ledger.milder(replace(weakness(**harsh), seed=5))
    assert ledger.get(weakness().id)["seed"] == 4
    ledger.close()


def test_a_known_weakness_that_is_shown_again_was_seen_by_one_more_run(tmp_path):
    ledger = Ledger(tmp_path / "ledger.db")
    ledger.record([weakness()])
    ledger.shown_again(weakness().id, "2026-03-03T00:00:00+00:00")
    ledger.shown_again("W-nothing", "2026-03-03T00:00:00+00:00")
    (kept,) = ledger.all()
    assert (kept["first_seen"][:10], kept["last_seen"][:10], kept["runs"]) == ("2026-01-01", "2026-03-03", 2)
    ledger.close()


def test_an_unknown_weakness_is_named_with_the_known_ones(tmp_path):
    ledger = Ledger(tmp_path / "ledger.db")
    with pytest.raises(BadInput, match="known are none yet"):
        ledger.get("W-nothing")
    ledger.close()


def test_a_file_that_is_no_ledger_is_refused(tmp_path):
    (tmp_path / "ledger.db").write_bytes(b"no database" * 999)
    with pytest.raises(BadInput, match="cannot be read"):
        Ledger(tmp_path / "ledger.db")


# ---- remedies -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "role", "mechanism"), list(product(CATALOGUE, ROLES, Mechanism)))
def test_there_is_a_remedy_with_a_public_source_for_everything(kind, role, mechanism):
    remedy = remedy_for(Fingerprint(kind, role, mechanism))
    assert len(remedy.text) > 40
    assert remedy.source.startswith("https://")


def test_every_switch_and_known_weakness_has_a_remedy_of_its_own():
    signs = [sign for signs in SWITCHES.values() for sign in signs] + list(UNPLANTED.values())
    for sign in signs:
        remedy = remedy_for(Fingerprint(sign.kind, sign.role, Mechanism(min(sign.mechanisms - {"not_recovered"}))))
        assert remedy.role == sign.role, f"{sign} gets only a general remedy"


def test_the_more_specific_remedy_wins():
    assert len(knowledge()) > 8
    killed = remedy_for(Fingerprint("pod.kill", "trainer", Mechanism.STUCK))
    assert (killed.kind, killed.role) == ("pod.kill", "trainer")
    elsewhere = remedy_for(Fingerprint("pod.kill", "database", Mechanism.STUCK))
    assert (elsewhere.kind, elsewhere.role) == ("pod.kill", "*")


@pytest.mark.parametrize("role", [*ROLES, "database"])
@pytest.mark.parametrize("kind", CATALOGUE)
def test_whatever_was_done_silence_is_remedied_by_telling_somebody(kind, role):
    assert "prometheus.io" in remedy_for(Fingerprint(kind, role, Mechanism.SILENT)).source


# ---- ground truth ---------------------------------------------------------------------------------------------------


def found(*fingerprints: str, intensity: float = 0.25) -> list[dict[str, Any]]:
    """Returns weaknesses of which nothing milder was seen."""
    return [{"fingerprint": fingerprint, "reproducer": {"intensity": intensity}} for fingerprint in fingerprints]


WEAK_SERVER = dict.fromkeys(SWITCHES, "hardened") | {"serving.replicas": "weak", "training.restart": "weak"}


def test_found_missed_false_and_unplanted_are_told_apart():
    truth = compare(
        WEAK_SERVER,
        found(
            "pod.kill|model-server|unavailable",
            "pod.pause|model-server|slow",
            "pod.kill|gateway|unavailable",
            "network.delay|feature-store|slow",
        ),
    )
    assert truth == {
        "planted": ["serving.replicas", "training.restart"],
        "found": ["serving.replicas"],
        "known": [],
        "missed": ["training.restart"],
        "false_alarms": ["network.delay|feature-store|slow"],
        "unplanted": ["pod.kill|gateway|unavailable"],
    }


def test_what_earlier_runs_have_confirmed_was_not_missed_and_is_no_claim_of_this_one():
    stuck, unavailable = "pod.kill|trainer|stuck", "pod.kill|model-server|unavailable"
    truth = compare(WEAK_SERVER, [], found(stuck, "network.delay|feature-store|slow", "pod.kill|gateway|unavailable"))
    assert truth == {
        "planted": ["serving.replicas", "training.restart"],
        "found": [],
        "known": ["training.restart"],
        "missed": ["serving.replicas"],
        "false_alarms": [],
        "unplanted": [],
    }
    both = compare(WEAK_SERVER, found(stuck), found(stuck, unavailable))
    assert (both["found"], both["known"], both["missed"]) == (["training.restart"], ["serving.replicas"], [])


def test_a_claim_about_something_hardened_is_a_false_alarm():
    hardened = dict.fromkeys(SWITCHES, "hardened")
    assert compare(hardened, found("pod.kill|trainer|stuck"))["false_alarms"] == ["pod.kill|trainer|stuck"]


def test_one_finding_counts_for_at_most_one_switch():
    everything = dict.fromkeys(SWITCHES, "weak")
    for signs in SWITCHES.values():
        for sign in signs:
            fingerprint = f"{sign.kind}|{sign.role}|{min(sign.mechanisms)}"
            assert len(compare(everything, found(fingerprint))["found"]) == 1


def test_what_a_hardened_cluster_does_not_bear_either_tells_nothing_about_its_switch():
    narrow, queue = "network.bandwidth|model-server|unavailable", {"serving.queue": "weak"}
    assert compare(queue, found(narrow, intensity=0.5))["found"] == ["serving.queue"]
    harsh = compare(queue, found(narrow, intensity=1.0))
    assert (harsh["missed"], harsh["unplanted"], harsh["false_alarms"]) == (["serving.queue"], [narrow], [])


def test_what_stands_on_both_lists_is_told_apart_by_how_harsh_it_was():
    for switch, signs in SWITCHES.items():
        for sign in signs:
            for other in UNPLANTED.values():
                same = (sign.kind, sign.role) == (other.kind, other.role) and sign.mechanisms & other.mechanisms
                assert not same or sign.at_most < 1.0, f"{switch}: whatever shows {sign} counts as found"


def test_the_truth_knows_every_switch_of_the_platform():
    assert set(SWITCHES) == set(Switches().to_mapping())
