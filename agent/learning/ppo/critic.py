"""A critic that knows more than the policy may: with less noise in what it praises and blames, less is needed to learn.

It sees what is left to be found on a simulated cluster (`Campaigns.outlook`), beside all that the policy makes of its
own observation: a critic of the hidden state alone would be biased where the policy sees only a part of it. (Pinto et
al., "Asymmetric actor critic for image-based robot learning", RSS 2018; Baisero and Amato, "Unbiased asymmetric
reinforcement learning under partial observability", AAMAS 2022.) It is of no use without a simulator, and no part of
the policy that is kept.
"""

from __future__ import annotations

import torch
from torch import nn

from envs.encoding import BUDGET_FEATURES
from envs.simulator.campaigns import OUTLOOK

_WIDTH = 64


class PrivilegedCritic(nn.Module):
    """What a state is worth to a policy, as seen by whoever knows what is left to be found.

    Args:
        whole: width of the policy's embedding of the whole.
    """

    def __init__(self, whole: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(whole + len(BUDGET_FEATURES) + len(OUTLOOK), _WIDTH),
            nn.ReLU(),
            nn.Linear(_WIDTH, _WIDTH),
            nn.ReLU(),
            nn.Linear(_WIDTH, 1),
        )

    def forward(self, whole: torch.Tensor, budget: torch.Tensor, outlook: torch.Tensor) -> torch.Tensor:
        """Returns values, shape (N,).

        Args:
            whole: shape (N, whole).
            budget: shape (N, len(BUDGET_FEATURES)).
            outlook: see `Campaigns.outlook`, shape (N, len(OUTLOOK)).
        """
        value: torch.Tensor = self.layers(torch.cat([whole, budget, outlook], dim=-1)).squeeze(-1)
        return value
