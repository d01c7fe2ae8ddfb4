"""Everything that can go wrong between a decision and a cluster.

    BackburnError
    ├── BadInput              the person asked for something that cannot be done: exit code 2
    ├── Unsafe                going on could do harm that nobody allowed: exit code 3
    └── ActuatorError
        ├── TargetNotFound    the thing to break is not there
        ├── InjectionFailed   the fault did not take
        ├── RevertFailed      the fault could not be taken out, or nobody can tell
        └── RepairFailed      a declared repair was tried and did not help

A refusal of the guards is *not* an error: it is a value (`safety.guards.Refusal`).
"""

from __future__ import annotations


class BackburnError(Exception):
    """Base of every error that Backburn raises on purpose."""


class BadInput(BackburnError):
    """A setting, argument or file that cannot be used; the message says what, where and what is allowed."""


class Unsafe(BackburnError):
    """A condition under which nothing may be touched: engaged lever, leak, lost lease, wrong cluster."""


class ActuatorError(BackburnError):
    """An actuator or its driver could not do what it was asked."""


class TargetNotFound(ActuatorError):
    """The target does not exist on this cluster."""


class InjectionFailed(ActuatorError):
    """The fault could not be applied; nothing may be assumed about how far it got."""


class RevertFailed(ActuatorError):
    """The fault could not be reverted, or its absence could not be observed."""


class RepairFailed(ActuatorError):
    """A declared repair could not be carried out."""
