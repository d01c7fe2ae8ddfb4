"""A neighbour on a card: keeps a share of its memory in use, or works on it for a share of the time.

Run as a file of its own, and without its folder on the path, where a module of the standard library has a namesake:

    python -P neighbour.py INJECTION_ID BOOT_ID DEADLINE_BOOTTIME_S CARD DEVICE fill|work SHARE NUMBER

It waits for the line `go` first: whoever asked may have died in between, and a neighbour that never heard from them
must do no harm. It then goes on as an orphan, answers `started`, and ends at the deadline, which the kernel keeps for
it: a card that hangs, or an import that does, changes nothing. A process that is gone holds nothing on a card.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch

CHUNKS = 128
"""Memory is taken, and given back, in pieces of this part of a card."""

PERIOD_S = 0.1
"""One turn, working and resting together; and the time between two looks at a card's memory."""

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_MATRIX = {"cuda": 4096, "cpu": 256}
_KERNELS_IN_LINE = 2  # the next one waits on the card, and not for us to launch it


class Memory(Protocol):
    """What a card says of its memory, bytes."""

    total: int
    free: int
    used: int


def main() -> None:
    """Starts, lets go of whoever asked, and works until the deadline."""
    _, boot_id, deadline_s, card, device, verb, share, _ = sys.argv[1:]
    if sys.stdin.readline() != "go\n" or _BOOT_ID.read_text().strip() != boot_id:
        return
    left_s = float(deadline_s) - time.clock_gettime(time.CLOCK_BOOTTIME)
    if left_s <= 0 or os.fork():
        return
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM, signal.SIGTERM})
    signal.setitimer(signal.ITIMER_REAL, left_s)
    os.write(1, b"started\n")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(nowhere, standard)
    os.environ["CUDA_VISIBLE_DEVICES"] = card  # read as CUDA starts: the card is then the only one, and the first
    if verb == "fill":
        fill(card, device, float(share))
    else:
        work(device, float(share))


def fill(card: str, device: str, share: float) -> None:
    """Keeps a share of a card's memory in use, what others use included, and looks again and again."""
    import pynvml
    import torch

    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByUUID(card)
    chunk = pynvml.nvmlDeviceGetMemoryInfo(handle).total // CHUNKS
    torch.ones(1, device=device)  # what it takes to be on the card at all comes first
    held: list[torch.Tensor] = []
    while True:
        settle(held, lambda: pynvml.nvmlDeviceGetMemoryInfo(handle), share, chunk, device)
        time.sleep(PERIOD_S)


def settle(held: list[torch.Tensor], look: Callable[[], Memory], share: float, chunk: int, device: str) -> None:
    """Takes chunks while there is room for one below the share, and gives back while a whole one is in use beyond it.

    Args:
        held: the chunks that are held; changed.
        look: asks the card.
        share: of its memory to be in use in the end.
        chunk: bytes.
        device: where to take them.
    """
    import torch

    while (wanted := _wanted(look(), share)) >= chunk:
        try:
            # Written to: a page that never was is nobody's yet, where the card is a CPU.
            held.append(torch.ones(chunk, dtype=torch.uint8, device=device))
        except torch.OutOfMemoryError:
            break  # somebody was faster; what is left is seen at the next look
    while held and wanted <= -chunk:
        held.pop()
        if device != "cpu":
            torch.cuda.empty_cache()
        wanted = _wanted(look(), share)


def _wanted(memory: Memory, share: float) -> int:
    """Returns the bytes that are still to be taken, below 0 if too many are in use; never more than there are."""
    return min(int(share * memory.total) - memory.used, memory.free)


def work(device: str, share: float) -> None:
    """Has work for the card during a share of every turn."""
    import torch

    torch.set_num_threads(1)
    size = _MATRIX[torch.device(device).type]
    left = torch.rand(size, size, device=device)
    product = torch.empty_like(left)
    on_card = torch.device(device).type == "cuda"
    while True:
        began_s = time.monotonic()
        while time.monotonic() - began_s < share * PERIOD_S:
            for _ in range(_KERNELS_IN_LINE):
                torch.mm(left, left, out=product)
            if on_card:
                # Waits asleep: a neighbour on the card is not to take a core from anybody.
                done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
                done.record()
                done.synchronize()
        time.sleep(max(0.0, began_s + PERIOD_S - time.monotonic()))


if __name__ == "__main__":
    main()
