"""Everything that can go wrong inside the staging cluster, as far as it is foreseen.

StagingError              the platform cannot go on: exit code 4
├── BadInput              a setting, port or folder that cannot be used: exit code 2
│   └── PlatformAlive     another run's platform owns the handle
├── StartFailed           a component did not start
└── DamagedFile           a model or checkpoint whose bytes are not those that were written
"""

from __future__ import annotations


class StagingError(Exception):
    """Base of every error that the staging cluster raises on purpose.

    Attributes:
        exit_code: what a process ends with when nobody catches the error.
    """

    exit_code = 4


class BadInput(StagingError):
    """Something the person gave cannot be used; the message says what, where and what is allowed."""

    exit_code = 2


class PlatformAlive(BadInput):
    """The handle belongs to a platform whose guard is alive; it is not ours to end."""


class StartFailed(StagingError):
    """A component did not start, or not in time."""


class DamagedFile(StagingError):
    """A file's bytes are not the ones that were written."""


def one_line(text: str) -> str:
    r"""Returns a text with its lines joined, for messages that must fit on one.

    >>> one_line("a\n  b\n")
    'a | b'
    """
    return " | ".join(line.strip() for line in text.splitlines() if line.strip())
