"""Data-parallel learning: everybody takes the same step, along the average of all gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed


class AveragingAdam(torch.optim.Adam):
    """Adam whose gradients are averaged over all processes of the default group before each step; plain Adam without.

    The average is what `torch.nn.parallel.DistributedDataParallel` takes (Li et al., VLDB 2020); that needs a module
    whose `forward` is called, and SB3 calls others.
    """

    def step(self, closure: Callable[[], float] | None = None) -> Any:  # noqa: ANN401 (theirs)
        """Takes a step."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            self._average()
        return super().step(closure)

    def _average(self) -> None:
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        together = torch.cat([gradient.flatten() for gradient in gradients])
        torch.distributed.all_reduce(together)
        together /= torch.distributed.get_world_size()
        begin = 0
        for gradient in gradients:
            gradient.copy_(together[begin : begin + gradient.numel()].view_as(gradient))
            begin += gradient.numel()
