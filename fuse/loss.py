"""What a head is taught by: cross-entropy of its answers, with what the classes' sizes ask for.

# Shapes: n clips, B batch, M modalities, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mgcli.fuse.head import FusionHead, HeadOutput
from mgcli.fuse.settings import TrainConfig


@dataclass(frozen=True)
class Loss:
    """Cross-entropy of the joint answer, and a little of each modality's own answer.

    `class_balance` says what rare classes get:

    - loss: clips weigh 1 / size of their class;
    - effective: they weigh 1 / the effective number of clips of their class, (1 - b^size) / (1 - b) with
      b = effective_beta (Cui et al., CVPR 2019, arXiv 1901.05555), which grows more slowly than the size;
    - logits: log share of the class is added to its logit in training (Menon et al. 2021, arXiv 2007.07314,
      with tau = 1).

    Weights are scaled so that the training clips weigh 1 on average, which leaves the learning rate its meaning.
    Label smoothing takes a share of a clip's label, with the weight of its own class, to all classes alike; with
    `logits` to each its share of the training clips, as that is what the adjusted answer says of a clip that shows
    nothing: the same share for all would make rare classes the answer to clips of frequent ones.
    Everything is a tensor: those of replicas are stacked.
    """

    smoothing: Tensor  # ()
    spread: Tensor  # (K,) where the smoothed share of a label goes, in all 1
    aux_weight: Tensor  # ()
    asked: Tensor  # (M,) bool: the modalities that the head is shown
    weight: Tensor  # (K,)
    adjustment: Tensor  # (K,)

    @classmethod
    def of(cls, labels: Tensor, head: FusionHead, config: TrainConfig) -> Loss:
        """`labels` (n,) are those of all training clips."""
        count = labels.bincount(minlength=head.num_classes).float()  # (K,)
        # A class without training clips keeps a finite adjustment: that of half a clip.
        share = count.clamp_min(0.5) / count.sum()
        adjusted = config.class_balance == "logits"
        return cls(
            smoothing=count.new_tensor(config.label_smoothing),
            spread=share / share.sum() if adjusted else torch.full_like(share, 1 / len(share)),
            aux_weight=count.new_tensor(config.aux_weight),
            asked=head.shown.to(count.device),
            weight=_class_weight(count, config),
            adjustment=share.log() if adjusted else torch.zeros_like(share),
        )

    def __call__(self, output: HeadOutput, mask: Mapping[str, Tensor], targets: Tensor) -> Tensor:
        """A number: the mean over a batch with these masks and (B, K) shares of each class."""
        targets = targets * self.weight
        targets = (1 - self.smoothing) * targets + self.smoothing * self.spread * targets.sum(dim=1, keepdim=True)
        loss = self._cross_entropy(output.logits, targets).mean()
        aux_weight = 1.0 if output.separate else self.aux_weight
        for asked, (name, each) in zip(self.asked, mask.items(), strict=False):
            if name in output.aux:
                there = each.any(dim=1) & asked  # a clip is not asked about what it lacks
                own = self._cross_entropy(output.aux[name], targets).where(there, 0.0).sum()
                loss = loss + aux_weight * own / there.sum().clamp_min(1)
        return loss

    def _cross_entropy(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(B,)."""
        return F.cross_entropy(logits + self.adjustment, targets, reduction="none")


def majority_share(labels: Tensor) -> float:
    """How many of (n,) labels are the most frequent one."""
    return float(labels.bincount().max()) / len(labels)


def _class_weight(count: Tensor, config: TrainConfig) -> Tensor:
    """(K,) from the (K,) sizes of the classes."""
    if config.class_balance == "loss":
        weight = 1 / count.clamp_min(1)
    elif config.class_balance == "effective":
        beta = torch.tensor(config.effective_beta, dtype=torch.float64)
        weight = ((1 - beta) / (1 - beta ** count.clamp_min(1).double())).float()
    else:
        return torch.ones_like(count)
    return weight * count.sum() / (weight * count).sum()
