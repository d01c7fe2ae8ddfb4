"""From one experiment's measurements to evidence and a verdict."""

from .evidence import Evidence, Families, Record, Score, Verdict
from .scorer import Scorer
from .tested import DURING_WINDOWS, LATE_WINDOWS, POST_WINDOWS, UNIT_WINDOWS

__all__ = [
    "DURING_WINDOWS",
    "LATE_WINDOWS",
    "POST_WINDOWS",
    "UNIT_WINDOWS",
    "Evidence",
    "Families",
    "Record",
    "Score",
    "Scorer",
    "Verdict",
]
