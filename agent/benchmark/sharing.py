"""Work that can be done apart, shared among the processes of a Ray of our own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ..learning.local_ray import local_ray

T = TypeVar("T")


def done(works: Sequence[Callable[[], T]], workers: int, folder: Path) -> Iterator[T]:
    """Yields what works return, in their order.

    Args:
        works: none needs what another does.
        workers: how many are done at once; one does them here, more are Ray tasks.
        folder: remembers where Ray's files are, for as long as it takes.

    Raises:
        BackburnError: Ray did not start.
    """
    if workers == 1:
        yield from (work() for work in works)
        return
    with local_ray(folder, cpus=workers, gpus=0):
        import ray

        task: Any = ray.remote(num_cpus=1)(lambda work: work())
        for reference in [task.remote(work) for work in works]:
            yield ray.get(reference)
