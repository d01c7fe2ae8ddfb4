"""By how much bad data and a bad model move the answers of the real platform, where nothing stops them."""

from __future__ import annotations

import statistics

import pytest

from agent.findings.ground_truth import SWITCHES
from envs.scoring import Verdict
from envs.telemetry.snapshot import METRICS
from tests.embedded import embedded_config, started, telling_fault

pytestmark = pytest.mark.staging

WEAK = ("data.schema_gate", "data.drift_alarm", "deploy.canary_gate")
SHOWN = ("accuracy", "calibration_error")


def test_bad_rows_a_drift_and_a_bad_model_move_the_answers_by_a_printed_amount(tmp_path):
    world, env = started(embedded_config(tmp_path, *WEAK))
    try:
        for switch in WEAK:
            fault = telling_fault(env, SWITCHES[switch][0])
            outcome = env.experiment(fault)
            tolerances = dict(outcome.score.moved)
            moves = {name: tolerances.get(f"client/{name}", 0.0) * METRICS[name].tolerance for name in SHOWN}
            answers = outcome.trace["client/accuracy"]
            before, worst = statistics.median(v for at_s, v in answers if at_s < 0.0), min(v for _, v in answers)
            print(f"\n{fault.kind} {fault.intensity:g}: accuracy {before:.2f}, then {worst:.2f}; windows moved", moves)
            assert before >= 0.9, "a trained model serves"
            assert outcome.verdict is Verdict.WEAKNESS, outcome.score.reason
            assert worst < 0.8
            assert max(moves.values()) > 0.1
    finally:
        world.close()
