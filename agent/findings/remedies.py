"""What to do about a weakness: a small knowledge base, each entry with a public source."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources

import yaml

from envs.confirmation import Fingerprint


@dataclass(frozen=True, slots=True)
class Remedy:
    """One entry of the knowledge base.

    Attributes:
        kind: fault kind, or `*`.
        role: component role, or `*`.
        mechanism: how promises break, or `*`.
        text: what to do.
        source: where it is explained, a public address.
    """

    kind: str
    role: str
    mechanism: str
    text: str
    source: str

    def fit(self, fingerprint: Fingerprint) -> int:
        """Returns how specifically the entry fits: the number of exact matches, -1 where it does not fit."""
        pairs = zip((self.kind, self.role, self.mechanism), fingerprint, strict=True)
        matches = [-1 if ours not in {"*", theirs} else int(ours != "*") for ours, theirs in pairs]
        return -1 if -1 in matches else sum(matches)


@cache
def knowledge() -> tuple[Remedy, ...]:
    """Reads the knowledge base."""
    text = resources.files(__package__).joinpath("remedies.yaml").read_text(encoding="utf-8")
    return tuple(Remedy(**entry) for entry in yaml.safe_load(text))


def remedy_for(fingerprint: Fingerprint) -> Remedy:
    """Returns the most specific remedy; earlier entries win among equals."""
    return max(knowledge(), key=lambda remedy: remedy.fit(fingerprint))
