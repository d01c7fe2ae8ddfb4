"""Every kind of fault Backburn knows, with its strength in physical units.

`amount` is the one place where an intensity becomes a quantity; drivers and the simulator call the same function, so
that "half" means the same on every cluster.
"""

from __future__ import annotations

from collections.abc import Mapping

from . import amounts
from .errors import BadInput
from .fault_kind import FaultKind

LEVELS = (0.25, 0.5, 1.0)
"""The intensities that an agent chooses from."""

_OWN_EXPORTER = frozenset({"up", "cpu_share", "memory_mb"})

_KINDS = (
    FaultKind(
        name="pod.kill",
        amount=amounts.share,
        unit="share of instances",
        duration_s=9.0,
        reversible=False,
        scope="instance",
        capability="Pods",
        symptom="the instance's process is gone",
        blinds=_OWN_EXPORTER,
    ),
    FaultKind(
        name="pod.pause",
        amount=amounts.share,
        unit="share of instances",
        duration_s=12.0,
        reversible=True,
        scope="instance",
        capability="Pods",
        symptom="the instance's process is stopped and stays",
        blinds=_OWN_EXPORTER,
    ),
    FaultKind(
        name="network.delay",
        amount=amounts.delay_ms,
        unit="ms towards the target",
        duration_s=12.0,
        reversible=True,
        scope="component",
        capability="Network",
        symptom="bytes towards the target were held back",
    ),
    FaultKind(
        name="network.loss",
        amount=amounts.share,
        unit="share of messages towards the target",
        duration_s=12.0,
        reversible=True,
        scope="component",
        capability="Network",
        symptom="connections towards the target were reset",
    ),
    FaultKind(
        name="network.partition",
        amount=amounts.whole,
        unit="share of traffic from and towards the target",
        duration_s=12.0,
        reversible=True,
        scope="component",
        capability="Network",
        symptom="bytes or connections towards the target were kept from passing",
    ),
    FaultKind(
        name="network.bandwidth",
        amount=amounts.bytes_per_s,
        unit="bytes/s towards the target",
        duration_s=12.0,
        reversible=True,
        scope="component",
        capability="Network",
        symptom="bytes towards the target had to wait for their turn",
    ),
    FaultKind(
        name="model.checkpoint_corrupt",
        amount=amounts.share,
        unit="share of the newest checkpoint cut off",
        duration_s=50.0,
        reversible=False,
        scope="instance",
        capability="Checkpoints",
        symptom="the newest checkpoint's bytes are the damaged ones and its writer is gone",
        blinds=_OWN_EXPORTER,
        trigger="pod.kill",
    ),
    FaultKind(
        name="model.checkpoint_delete",
        amount=amounts.whole,
        unit="share of the newest checkpoint gone",
        duration_s=50.0,
        reversible=False,
        scope="instance",
        capability="Checkpoints",
        symptom="the newest checkpoint is not there and its writer is gone",
        blinds=_OWN_EXPORTER,
        trigger="pod.kill",
    ),
    FaultKind(
        name="model.registry_corrupt",
        amount=amounts.share,
        unit="share of the model's bytes lost",
        duration_s=15.0,
        reversible=False,
        scope="instance",
        capability="Registry",
        symptom="the corrupt version is the one to serve and one of its readers is gone",
        blinds=_OWN_EXPORTER,
        trigger="pod.kill",
        lapses=True,
    ),
    FaultKind(
        name="model.registry_unavailable",
        amount=amounts.whole,
        unit="share of the registry out of reach",
        duration_s=15.0,
        reversible=False,
        scope="instance",
        capability="Registry",
        symptom="the registry names no version to serve and one of its readers is gone",
        blinds=_OWN_EXPORTER,
        trigger="pod.kill",
        lapses=True,
    ),
    FaultKind(
        name="model.bad_canary",
        amount=amounts.share,
        unit="share of the model's weights never learnt",
        duration_s=12.0,
        reversible=True,
        scope="component",
        capability="Registry",
        symptom="the bad version is the one to serve",
        lapses=True,
    ),
    FaultKind(
        name="pod.cpu_stress",
        amount=amounts.cpu_share,
        unit="share of CPU time taken",
        duration_s=30.0,  # beyond the deadline by which a platform is to have found other ways to serve
        reversible=True,
        scope="component",  # a noisy neighbour, or a limit that is too low, meets all instances alike
        capability="Pods",
        symptom="the instances' processes are seen stopped and seen running, by turns",
        blinds=_OWN_EXPORTER,
    ),
    FaultKind(
        name="pod.node_kill",
        amount=amounts.whole,
        unit="share of the node's processes",
        duration_s=12.0,
        reversible=False,
        scope="component",
        capability="Nodes",
        symptom="the process that is the node is gone",
        blinds=_OWN_EXPORTER,
    ),
    FaultKind(
        name="pod.memory_stress",
        amount=amounts.mib_left,
        unit="MiB left to grow",
        duration_s=20.0,
        reversible=True,
        scope="component",  # a limit that is too low meets all instances alike
        capability="Memory",
        symptom="the limit on the instances' memory, read back, is the lowered one",
        blinds=_OWN_EXPORTER,
    ),
    FaultKind(
        name="gpu.memory_pressure",
        amount=amounts.gpu_memory_share,
        unit="share of the card's memory in use",
        duration_s=30.0,
        reversible=True,
        scope="component",  # whoever shares the card with a neighbour does so with all ranks that it has there
        capability="Gpus",
        symptom="the neighbour runs, and so much of the card's memory is in use",
        blinds=_OWN_EXPORTER,
    ),
    FaultKind(
        name="gpu.compute_contention",
        amount=amounts.gpu_time_share,
        unit="share of the card's time taken",
        duration_s=30.0,
        reversible=True,
        scope="component",
        capability="Gpus",
        symptom="the neighbours run on the card, and it is busy for as much of the time as they ask for",
    ),
    FaultKind(
        name="data.corrupt_rows",
        amount=amounts.share,
        unit="share of rows with values that cannot be",
        duration_s=15.0,
        reversible=True,
        scope="component",
        capability="Datasets",
        symptom="rows towards the target were corrupted",
    ),
    FaultKind(
        name="data.schema_change",
        amount=amounts.share,
        unit="share of a row's fields called otherwise",
        duration_s=15.0,
        reversible=True,
        scope="component",
        capability="Datasets",
        symptom="rows towards the target have other fields",
    ),
    FaultKind(
        name="data.drift",
        amount=amounts.drift,
        unit="standard deviations added to all values",
        duration_s=15.0,
        reversible=True,
        scope="component",
        capability="Datasets",
        symptom="rows towards the target have shifted values",
    ),
    FaultKind(
        name="data.stream_delay",
        amount=amounts.lag_s,
        unit="s by which the rows of one partition are late",
        duration_s=15.0,
        reversible=True,
        scope="component",
        capability="Datasets",
        symptom="rows towards the target were held back",
    ),
)

CATALOGUE: Mapping[str, FaultKind] = {kind.name: kind for kind in _KINDS}


def kind_of(name: str) -> FaultKind:
    """Returns the catalogue's entry for `name`.

    Raises:
        BadInput: no such kind.
    """
    try:
        return CATALOGUE[name]
    except KeyError:
        raise BadInput(f"unknown fault kind {name!r}; known are {', '.join(sorted(CATALOGUE))}") from None


def instances_hit(kind: FaultKind, intensity: float, total: int) -> int:
    """Returns how many of `total` instances a fault of this strength reaches, at least one.

    A fault of scope `component` reaches all. A latent fault reaches one: whoever reads the damage first.

    >>> instances_hit(CATALOGUE["pod.kill"], 0.5, 4)
    2
    >>> instances_hit(CATALOGUE["pod.kill"], 0.25, 2)
    1
    """
    if kind.scope == "component":
        return total
    if kind.trigger is not None:
        return 1
    return max(1, int(kind.amount(intensity) * total))
