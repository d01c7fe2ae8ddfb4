"""How much an intensity is, in physical units: the functions that the catalogue's entries name as their `amount`."""

from __future__ import annotations

import math

_LONGEST_DELAY_MS = 2000.0
_NARROWEST_BYTES_PER_S = 512.0
_LEAST_CPU_SHARE = 0.08
_LARGEST_DRIFT = 2.0
_LONGEST_LAG_S = 20.0
_MOST_MIB_LEFT = 16.0
_LEAST_GPU_MEMORY_SHARE = 0.02
_LEAST_GPU_TIME_SHARE = 0.25


def share(intensity: float) -> float:
    """As many of them as the intensity says."""
    return intensity


def delay_ms(intensity: float) -> float:
    """125, 500 and 2000 ms: below, around and beyond what people put into a timeout."""
    return _LONGEST_DELAY_MS * intensity**2


def whole(_: float) -> float:
    """Some things are there or not, and a partition knows no half."""
    return 1.0


def bytes_per_s(intensity: float) -> float:
    """8192, 2048 and 512 bytes/s, for all connections of an edge together.

    The embedded platform asks for features about 30 times a second in some 150 bytes each: 4.5 kB/s. The first rate
    carries that, the second less than half of it, so that a queue grows for as long as it lasts, and the third next to
    nothing.
    """
    return _NARROWEST_BYTES_PER_S / intensity**2


def cpu_share(intensity: float) -> float:
    """47, 72 and 92 % of the CPU time: the rest is what is left, and half the intensity leaves its square root.

    At the last level the embedded model server's two replicas, asked 30 times a second, answer a fifth of it between
    them. With 5 % left too many requests fail before a replica that is added can help, and with 3 % nobody is answered
    for seconds.
    """
    return 1.0 - math.pow(_LEAST_CPU_SHARE, intensity)


def drift(intensity: float) -> float:
    """0.5, 1 and 2 standard deviations: what is seen in a chart only, what nobody can miss, and another world."""
    return _LARGEST_DRIFT * intensity


def lag_s(intensity: float) -> float:
    """5, 10 and 20 s, where a second or two is usual."""
    return _LONGEST_LAG_S * intensity


def mib_left(intensity: float) -> float:
    """12, 8 and 0 MiB: a little more than the stack of a thread, just that, and nothing at all."""
    return _MOST_MIB_LEFT * (1.0 - intensity)


def gpu_memory_share(intensity: float) -> float:
    """62, 86 and 98 % of a card's memory in use, by whomever; half the intensity leaves its square root free.

    What others use counts, so that this says how the card is and never how much fuller it gets. The last level leaves
    less than it takes to begin with a model anew, and something all the same.
    """
    return 1.0 - math.pow(_LEAST_GPU_MEMORY_SHARE, intensity)


def gpu_time_share(intensity: float) -> float:
    """29, 50 and 75 % of a card's time: what neighbours take that ask for it as often as that.

    A card gives equal slices of its time to all processes that have work for it: one neighbour that always has some
    takes half, and three take three quarters.
    """
    return 1.0 - math.pow(_LEAST_GPU_TIME_SHARE, intensity)
