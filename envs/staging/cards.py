"""GPUs: which one a process works on, and what NVML tells of it.

What NVML does not tell is left out. Absent means unknown, on a machine without a GPU as on one whose driver is silent.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from prometheus_client.core import GaugeMetricFamily, Metric

if TYPE_CHECKING:
    import torch

MEMORY_SHARE = "gpu_memory_share"
UTILISATION = "gpu_utilisation"


def card_of(device: torch.device) -> str:
    """Returns the name by which everybody knows the card of a torch device, empty where it is none."""
    if device.type != "cuda":
        return ""
    import torch

    return f"GPU-{torch.cuda.get_device_properties(device).uuid}"


def is_seen(card: str) -> bool:
    """Tells whether NVML sees a card from here."""
    return _handle(card) is not None


def card_metrics(cards_of: Mapping[str, Iterable[str]]) -> Iterator[Metric]:
    """Yields how full and how busy the fullest and the busiest card of every component is, whoever it is that uses it.

    Args:
        cards_of: the cards that a component's instances work on, by component.
    """
    memory = GaugeMetricFamily(MEMORY_SHARE, "Share of a card's memory in use, by anybody.", labels=["component"])
    busy = GaugeMetricFamily(UTILISATION, "Share of the time that a card is busy.", labels=["component"])
    for component, cards in cards_of.items():
        seen = sorted(set(cards) - {""})
        for family, of_card in ((memory, _memory_share), (busy, _busy_share)):
            values = [value for card in seen if (value := of_card(card)) is not None]
            if values:
                family.add_metric([component], max(values))
    yield from (family for family in (memory, busy) if family.samples)


def _memory_share(card: str) -> float | None:
    told = _ask(card, "nvmlDeviceGetMemoryInfo")
    return None if told is None else float(told.used) / float(told.total)


def _busy_share(card: str) -> float | None:
    told = _ask(card, "nvmlDeviceGetUtilizationRates")
    return None if told is None else float(told.gpu) / 100.0


def _ask(card: str, question: str) -> Any:  # noqa: ANN401 (NVML's own structures)
    handle = _handle(card)
    nvml = _nvml()
    if handle is None or nvml is None:
        return None
    try:
        return getattr(nvml, question)(handle)
    except nvml.NVMLError:
        return None


def _handle(card: str) -> Any:  # noqa: ANN401 (NVML's own handle)
    nvml = _nvml() if card else None
    if nvml is None:
        return None
    try:
        return nvml.nvmlDeviceGetHandleByUUID(card)
    except nvml.NVMLError:
        return None


@cache
def _nvml() -> Any:  # noqa: ANN401 (a module without types)
    """Returns NVML, loaded once it is needed; None on a machine that has none."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml
