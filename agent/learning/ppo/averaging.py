"""Data-parallel learning: everybody takes the same step, along the average of all gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed


class AveragingAdam(torch.optim.Adam):
    """Adam whose gradients are averaged over all processes of the default group before each step; plain Adam without.

    As in `torch.nn.parallel.DistributedDataParallel` (Li et al., VLDB 2020), which needs a module whose `forward` is
    called, and SB3 calls others. What is averaged was clipped by everybody alone before, for SB3 clips just ahead of
    the step: the average is no longer than what one of them may take.
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
