"""Whether a caller asks again when a call has failed, in one of two ways.

*Endless* asks again at once and for as long as anybody waits for the answer: nobody ever set a limit. A short glitch it
hides well. What stays broken it asks many times over, in the very moment in which that can bear least.

*Budgeted* asks once more after a pause of random length, and only out of what earlier requests have saved up: a tenth
of a retry each, so that a dependency that fails altogether sees a tenth more requests and not many times as many. A
retry budget per client, kept below 10 % of its requests, is what "Handling Overload" of Google's SRE book recommends
(https://sre.google/sre-book/handling-overload/); the local token bucket and the jitter are those of "Timeouts, retries,
and backoff with jitter" of the Amazon Builders' Library
(https://aws.amazon.com/builders-library/timeouts-retries-and-backoff-with-jitter/).

Both are about calls that failed. A slow call is never repeated: whoever is slow is not helped by more to do.
"""

from __future__ import annotations

import asyncio
import random
from typing import Protocol

_SAVED_PER_REQUEST = 0.1
_MOST_SAVED = 3.0
_LONGEST_PAUSE_S = 0.02
"""Well below the timeout of a hardened model server, which the second attempt has to share with the first."""


class Retries(Protocol):
    """Decides about further attempts, for all requests of one caller."""

    def requested(self) -> None:
        """A new request is about to be made, for the first time."""
        ...

    async def again(self, failures: int) -> bool:
        """Waits for as long as it should after so many failures of one request; tells whether to try again."""
        ...


class Endless:
    """Always, and at once."""

    def requested(self) -> None:
        """Saves nothing up."""

    async def again(self, failures: int) -> bool:
        """Lets others have their turn, and goes on."""
        await asyncio.sleep(0)
        return True


class Budgeted:
    """Once per request, after a jittered pause, as long as the budget lasts.

    Args:
        draws: decides how long the pauses are.
    """

    def __init__(self, draws: random.Random) -> None:
        self._draws = draws
        self._saved = _MOST_SAVED

    def requested(self) -> None:
        """Saves up a part of a retry."""
        self._saved = min(_MOST_SAVED, self._saved + _SAVED_PER_REQUEST)

    async def again(self, failures: int) -> bool:
        """Pays for one retry and waits, if this request has had none and there is enough to pay with."""
        if failures > 1 or self._saved < 1.0:
            return False
        self._saved -= 1.0
        await asyncio.sleep(self._draws.uniform(0.0, _LONGEST_PAUSE_S))
        return True
