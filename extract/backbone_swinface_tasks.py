"""SwinFace's analysis part: attention to features, subnets and output heads for 42 face tasks.

"SwinFace" (IEEE TCSVT 2023), Sec. III-C and III-D, with the settings of the released checkpoint: 3 x 3
convolutions, channel attention only, global maximum pooling. Dropout does nothing in a frozen network; it keeps
its place in the sequence for the names of the parameters.
"""

# Shapes: B faces, C channels, D = 512.

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mgcli.extract.backbone_swinface_network import (
    GLOBAL_DIM,
    LOCAL_DIMS,
    NORM_EPS,
    FaceFeatures,
    SwinFaceBackbone,
)

DIM = 512
CONV_GROUPS = tuple(zip((*LOCAL_DIMS, GLOBAL_DIM), (47, 93, 186, 186), strict=True))  # (in, out) channels
REDUCTION = 16  # of the channel attention
DROPOUT = 0.5
EXPRESSIONS = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")  # RAF-DB's order

# The tasks of each branch, in the order of the output heads. Age is one number in years, Expression has seven
# logits, every other task two (index 1: present; Gender: male).
BRANCHES: tuple[tuple[str, ...], ...] = (
    ("Gender",),
    ("Age", "Young"),
    ("Expression", "Smiling"),
    ("Attractive", "Blurry", "Chubby", "Heavy Makeup", "Oval Face", "Pale Skin"),
    (
        *("Bald", "Bangs", "Black Hair", "Blond Hair", "Brown Hair", "Gray Hair", "Receding Hairline"),
        *("Straight Hair", "Wavy Hair", "Wearing Hat"),
    ),
    ("Arched Eyebrows", "Bags Under Eyes", "Bushy Eyebrows", "Eyeglasses", "Narrow Eyes"),
    ("Big Nose", "Pointy Nose"),
    ("High Cheekbones", "Rosy Cheeks", "Wearing Earrings", "Sideburns"),
    ("Five O'Clock Shadow", "Big Lips", "Mouth Slightly Open", "Mustache", "Wearing Lipstick", "No Beard"),
    ("Double Chin", "Goatee"),
    ("Wearing Necklace", "Wearing Necktie"),
)
EXPRESSION_BRANCH = 2
OUT_DIMS = {"Age": 1, "Expression": len(EXPRESSIONS)}  # others: 2


class GroupedConv(nn.Module):
    """One convolution for each group of feature maps, side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(c, out, 3, padding=1, bias=False) for c, out in CONV_GROUPS)

    def forward(self, groups: tuple[Tensor, ...]) -> Tensor:
        """Four of (B, C, 7, 7) -> (B, 512, 7, 7)."""
        return torch.cat([conv(group) for conv, group in zip(self.convs, groups, strict=True)], dim=1)


class ChannelAttention(nn.Module):
    """A gate for each channel, from its mean and its maximum."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Flatten(), nn.Linear(DIM, DIM // REDUCTION), nn.ReLU(), nn.Linear(DIM // REDUCTION, DIM)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, 512, 7, 7) -> the same."""
        gate = (self.mlp(x.mean(dim=(2, 3))) + self.mlp(x.amax(dim=(2, 3)))).sigmoid()  # (B, 512)
        return x * gate[:, :, None, None]


class FeatureAttention(nn.Module):
    """What one branch takes from the feature maps."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = GroupedConv()
        self.channel_attention = ChannelAttention()
        self.norm = nn.BatchNorm1d(DIM, eps=NORM_EPS)

    def forward(self, groups: tuple[Tensor, ...]) -> Tensor:
        """Four of (B, C, 7, 7) -> (B, 512)."""
        x = F.relu(self.channel_attention(self.conv(groups)))
        return self.norm(x.amax(dim=(2, 3)))


class Subnet(nn.Module):
    """The two layers of one branch."""

    def __init__(self) -> None:
        super().__init__()
        layers = ((nn.Linear(DIM, DIM), nn.ReLU(), nn.Dropout(DROPOUT)) for _ in range(2))
        self.feature = nn.Sequential(*(module for layer in layers for module in layer))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 512) -> (B, 512)."""
        return self.feature(x)


class FeatureAttentionModule(nn.Module):
    """Feature attention for all 11 branches."""

    def __init__(self) -> None:
        super().__init__()
        self.nets = nn.ModuleList(FeatureAttention() for _ in BRANCHES)

    def forward(self, features: FaceFeatures, branches: tuple[int, ...]) -> Tensor:
        """The chosen branches, (branches, B, 512)."""
        maps = torch.cat([features.local_features, features.global_features], dim=1)  # (B, 2112, 7, 7)
        groups = maps.split([channels for channels, _ in CONV_GROUPS], dim=1)
        return torch.stack([self.nets[branch](groups) for branch in branches])


class TaskSpecificSubnets(nn.Module):
    """Subnets for all 11 branches."""

    def __init__(self) -> None:
        super().__init__()
        self.nets = nn.ModuleList(Subnet() for _ in BRANCHES)

    def forward(self, x: Tensor, branches: tuple[int, ...]) -> Tensor:
        """(branches, B, 512) -> the same."""
        return torch.stack([self.nets[branch](each) for branch, each in zip(branches, x, strict=True)])


class OutputModule(nn.Module):
    """One linear head for each of the 42 tasks."""

    def __init__(self) -> None:
        super().__init__()
        self.tasks = tuple(task for tasks in BRANCHES for task in tasks)
        self.output_fcs = nn.ModuleList(nn.Linear(DIM, OUT_DIMS.get(task, 2)) for task in self.tasks)

    def forward(self, branch_tokens: Tensor) -> dict[str, Tensor]:
        """(11, B, 512) -> the scores of every task, (B, 1, 2 or 7) each."""
        branch_of = (branch for branch, tasks in enumerate(BRANCHES) for _ in tasks)
        heads = zip(self.tasks, self.output_fcs, branch_of, strict=True)
        return {task: head(branch_tokens[branch]) for task, head, branch in heads}

    def expression(self, token: Tensor) -> Tensor:
        """(B, 512) tokens of the expression branch -> (B, 7) logits, in the order of `EXPRESSIONS`."""
        return self.output_fcs[self.tasks.index("Expression")](token)


class SwinFaceNetwork(nn.Module):
    """The four sections of the released checkpoint, under their names there."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = SwinFaceBackbone()
        self.fam = FeatureAttentionModule()
        self.tss = TaskSpecificSubnets()
        self.om = OutputModule()
