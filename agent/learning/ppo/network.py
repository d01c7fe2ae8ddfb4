"""The network of the PPO policy: one for every component, messages along the graph, and the logits of two choices.

The recommendation and its sources are those of sets and graphs under a changing size (Zaheer et al., "Deep sets",
NeurIPS 2017, for shared encoders with mean and max pooling; Jiang et al., "Graph convolutional reinforcement learning",
ICLR 2020, for messages).
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from envs.encoding import ARM_FEATURES, BUDGET_FEATURES, COMPONENT_FEATURES, ROLES, arm_attributes
from envs.history import BY_KIND, HISTORY_FEATURES
from envs.simulator.faults import KINDS

from ..arms import Surroundings
from ..head import Head
from ..posterior import ArmNetwork, believed
from ..worth import worth_on
from .critic import PrivilegedCritic
from .looks import LATELY, LATELY_MIN, OWN, STATS, TOGETHER, Kept, Looks

_ROLES = len(ROLES) + 1
_IMPOSSIBLE = -1e8
_LEAST_WORTH = 1e-9
_SHARPNESS = 5.0
"""By which power of its worth an arm is likelier, at first: narrow enough to be good, wide enough to see other ends."""

_STOP, _STOP_WITH_TEACHER = -3.0, -8.0
"""How likely it is at first to stop, as log-odds: whoever knows nothing yet learns nothing from campaigns that are over
at once, and who begins as a teacher goes on like one."""

_CHOSEN, _WEAK = 0, 1
"""Of the logits of an arm."""


class SetNetwork(nn.Module):
    """Actor and critic for clusters of any size.

    Args:
        hidden: width of what is known of a component.
        arm_hidden: width of what is known of an arm.
        teacher: see `SetPolicy`.
        privileged: see `SetPolicy`.
    """

    arm_attributes: torch.Tensor
    kind_attributes: torch.Tensor

    def __init__(self, hidden: int, arm_hidden: int, teacher: int | None, *, privileged: bool) -> None:
        super().__init__()
        self.hidden, self.arm_hidden, self.teacher_hidden = hidden, arm_hidden, teacher
        h, a = hidden, arm_hidden
        attributes = arm_attributes(KINDS)
        self.register_buffer("arm_attributes", attributes, persistent=False)
        # A kind is what its attributes say, whatever the level.
        self.register_buffer("kind_attributes", attributes[:, 0, :-1], persistent=False)
        self.of_component = nn.Linear(len(COMPONENT_FEATURES), h)
        self.of_lately = nn.Linear(len(LATELY_MIN), h, bias=False)
        self.of_budget = nn.Linear(len(BUDGET_FEATURES), h, bias=False)
        self.of_kind = nn.Sequential(
            nn.Linear(len(ARM_FEATURES) - 1, 16), nn.Tanh(), nn.Linear(16, len(BY_KIND) * h, bias=False)
        )
        self.norm = nn.LayerNorm(h)
        self.message = nn.Linear(h, h)
        self.messages = nn.ModuleList(nn.Linear(h, h, bias=False) for _ in range(3))
        self.of_all = nn.Linear(2 * h + len(BUDGET_FEATURES) + 1, h)
        self.value = nn.Sequential(nn.Linear(h, h), nn.ReLU(), nn.Linear(h, 1))
        self.critic = PrivilegedCritic(h) if privileged else None
        self.choice_here = nn.Linear(h, h, bias=False)
        self.choice_whole = nn.Linear(h, h)
        self.choice = nn.Linear(h, 1)
        self.choice_wide = nn.Linear(len(LATELY_MIN) + len(BY_KIND) + len(COMPONENT_FEATURES), 1, bias=False)
        """Beside the deep way a short one, on which what is simple is learnt at once (Cheng et al., "Wide & deep
        learning for recommender systems", DLRS 2016)."""
        self.stop = nn.Linear(h, 1)
        nn.init.constant_(self.stop.bias, _STOP)
        self.arm_here = nn.Linear(2 * h, a)
        self.arm_history = nn.Linear(len(HISTORY_FEATURES), a, bias=False)
        self.arm_kind = nn.Linear(len(STATS), a, bias=False)
        self.arm_attribute = nn.Linear(len(ARM_FEATURES), a, bias=False)
        self.arm = nn.Linear(a, 2)
        """Logits of an arm: how likely it is chosen, and how likely it is weak."""
        if teacher is not None:
            self.teacher = ArmNetwork(teacher).requires_grad_(requires_grad=False)
            self.log_sharpness = nn.Parameter(torch.tensor(math.log(_SHARPNESS)))
            with torch.no_grad():
                for layer in (self.choice, self.choice_wide, self.stop):
                    for parameter in layer.parameters():
                        parameter.zero_()
                self.stop.bias.fill_(_STOP_WITH_TEACHER)
                self.arm.weight[0].zero_()
                self.arm.bias[0].zero_()

    def encoded(self, seen: Looks | Kept) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns an embedding of every component, shape (N, C, H), and one of the whole, shape (N, H)."""
        role = seen.each[..., :_ROLES]
        inside = role.sum(-1, keepdim=True)
        z = functional.linear(seen.each, self._first_weight())
        # In place where nobody looks back: on a CPU, all of this is as fast as memory is.
        z += functional.linear(seen.budget, self.of_budget.weight, self.of_component.bias)[:, None, :]
        # Nobody listens to places without a component: no edge leads there, and no role.
        z = self.norm(z).relu_()
        told = torch.bmm(_listening(seen.graph, role), z).view(*z.shape[:2], -1)
        heard = self.message(z)
        heard += functional.linear(told, torch.cat(list(self.messages.parameters()), dim=1))
        heard *= inside
        z = heard.relu_()
        count = inside.sum(1)
        whole = torch.cat(
            [z.sum(1) / count.clamp(min=1.0), z.amax(1), seen.budget, count.clamp(min=1.0).log2() / 6.0], dim=-1
        )
        return z, torch.relu(self.of_all(whole))

    def _first_weight(self) -> torch.Tensor:
        """Returns weights of all that is known of a component, shape (H, width of `Looks.each`)."""
        of_kinds = self.of_kind(self.kind_attributes).view(-1, self.hidden)
        parts = (
            self.of_component.weight,
            self.of_lately.weight,
            torch.zeros_like(self.of_component.weight[:, : TOGETHER - LATELY]),
            of_kinds.T / math.sqrt(len(of_kinds)),
        )
        return torch.cat(parts, dim=1)

    def component_logits(
        self, z: torch.Tensor, whole: torch.Tensor, seen: Looks | Kept, best_bets: torch.Tensor
    ) -> torch.Tensor:
        """Returns log-probabilities of components and, last, of `stop`, shape (N, C + 1)."""
        inner = self.choice_here(z)
        inner += self.choice_whole(whole)[:, None, :]
        of_lately, together, own = torch.split(self.choice_wide.weight, [LATELY - OWN, TOGETHER - LATELY, OWN], dim=1)
        wide = seen.each[..., :TOGETHER] @ torch.cat([own, of_lately, together], dim=1)[0]
        each = self.choice(inner.relu_()).squeeze(-1)
        each = (each + wide + self._sharp(best_bets)).masked_fill(~seen.able, _IMPOSSIBLE)
        # Whether to stop is one choice, and where to go on another: what makes all components less attractive, such as
        # that each of them was hit lately, must not end the campaign.
        each = torch.log_softmax(each, dim=-1).masked_fill(~seen.able, _IMPOSSIBLE)
        return torch.log_softmax(torch.cat([each, self.stop(whole)], dim=-1), dim=-1)

    def arm_logits(self, z: torch.Tensor, whole: torch.Tensor, kept: Kept) -> torch.Tensor:
        """Returns log-probabilities of a component's arms, shape (N, M)."""
        logits = self._of_arms(z, whole, kept, _CHOSEN) + self._sharp(kept.bets)
        return torch.log_softmax(logits.masked_fill(~kept.open, _IMPOSSIBLE), dim=-1)

    def weak_logits(self, z: torch.Tensor, whole: torch.Tensor, kept: Kept) -> torch.Tensor:
        """Returns log-odds that a component's arms are weak, shape (N, M)."""
        return self._of_arms(z, whole, kept, _WEAK)

    def _of_arms(self, z: torch.Tensor, whole: torch.Tensor, kept: Kept, which: int) -> torch.Tensor:
        """Returns one of the two logits of arms; all levels of a kind at once, in few and large products."""
        levels = self.arm_attributes.shape[1]
        apart = torch.eye(levels, device=z.device)
        of_levels = torch.kron(apart, self.arm_history.weight)
        inner = functional.linear(kept.here, torch.cat([of_levels, self.arm_kind.weight.repeat(levels, 1)], dim=1))
        inner += self.arm_attribute(self.arm_attributes).flatten(1)
        inner += self.arm_here(torch.cat([z, whole], dim=-1)).repeat(1, levels)[:, None, :]
        out = torch.kron(apart, self.arm.weight[which : which + 1])
        return functional.linear(inner.relu_(), out, self.arm.bias[which].expand(levels)).flatten(1)

    def _sharp(self, bets: torch.Tensor) -> torch.Tensor:
        return bets if self.teacher_hidden is None else bets * self.log_sharpness.exp()

    def worth(self, whole: torch.Tensor, kept: Kept) -> torch.Tensor:
        """Returns what states are worth, shape (N,)."""
        if self.critic is not None and kept.outlook.shape[1]:
            known: torch.Tensor = self.critic(whole, kept.budget, kept.outlook)
            return known
        value: torch.Tensor = self.value(whole).squeeze(-1)
        return value

    @torch.no_grad()
    def bets(self, around: Surroundings, looks: Looks, head: Head | None) -> torch.Tensor:
        """Returns what the teacher gives for every arm; see `Looks.bets`."""
        odds = believed(self.teacher, around, looks.open.flatten(1), head)
        worth = worth_on(around, *odds).view(looks.open.shape).masked_fill(~looks.open, 0.0)
        bets = worth.clamp(min=_LEAST_WORTH).log()
        return bets - bets.amax((1, 2), keepdim=True)

    def critic_parameters(self) -> list[nn.Parameter]:
        """Returns what can be learnt without any change of what is chosen.

        With a teacher, before anything else was learnt: all but what strays from it, which is nothing yet.
        """
        if self.teacher_hidden is None:
            return [*self.value.parameters(), *(self.critic.parameters() if self.critic is not None else ())]
        apart = {"choice", "choice_wide", "stop", "arm", "log_sharpness", "teacher"}
        return [value for name, value in self.named_parameters() if name.split(".")[0] not in apart]


def _listening(graph: torch.Tensor, role: torch.Tensor) -> torch.Tensor:
    """Returns of whom each component hears how much, shape (N, C * 3, C).

    Three rows for each: those on which it depends, those that depend on it, those of its role; means of each.
    """
    n, c, _ = graph.shape
    heard = graph.new_empty((n, c, 3, c))
    torch.div(graph, graph.sum(-1, keepdim=True).clamp_(min=1.0), out=heard[:, :, 0])
    torch.div(graph.transpose(1, 2), graph.sum(1).clamp_(min=1.0)[..., None], out=heard[:, :, 1])
    like = role / role.sum(1, keepdim=True).clamp_(min=1.0)
    heard[:, :, 2] = role @ like.transpose(1, 2)
    return heard.flatten(1, 2)
