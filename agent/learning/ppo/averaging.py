"""Data-parallel learning: everybody learns from a rollout of its own, then all go on from their average."""

from __future__ import annotations

import torch
import torch.distributed


def average(optimizer: torch.optim.Optimizer) -> None:
    """Brings weights and moments to their averages over all processes of the default group; does nothing without one.

    Local SGD (Stich, "Local SGD converges fast and communicates little", ICLR 2019), the moments of Adam as momentum in
    Yu, Jin and Yang, "On the linear speedup analysis of communication efficient momentum SGD", ICML 2019. Whoever
    averages gradients waits at every step for the one who is behind in that step.

    Args:
        optimizer: has the same parameters, and moments of the same ones, in all processes.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moments = [
        value
        for parameter in parameters
        for name, value in sorted(optimizer.state.get(parameter, {}).items())
        if name in ("exp_avg", "exp_avg_sq")
    ]
    averaged = [*(parameter.detach() for parameter in parameters), *moments]
    together = torch.cat([each.flatten() for each in averaged])
    torch.distributed.all_reduce(together)
    together /= torch.distributed.get_world_size()
    parts = torch.split(together, [each.numel() for each in averaged])
    for each, part in zip(averaged, parts, strict=True):
        each.copy_(part.view_as(each))
