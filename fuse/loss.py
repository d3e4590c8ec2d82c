"""What a head is taught by: cross-entropy of its answers, with what the classes' sizes ask for.

# Shapes: n clips, B batch, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mgcli.fuse.head import HeadOutput
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
    Everything is a tensor: those of replicas are stacked.
    """

    smoothing: Tensor  # ()
    aux_weight: Tensor  # ()
    weight: Tensor  # (K,)
    adjustment: Tensor  # (K,)

    @classmethod
    def of(cls, labels: Tensor, num_classes: int, config: TrainConfig) -> Loss:
        """`labels` (n,) are those of all training clips."""
        count = labels.bincount(minlength=num_classes).float()  # (K,)
        # A class without training clips keeps a finite adjustment: that of half a clip.
        share = count.clamp_min(0.5) / count.sum()
        return cls(
            smoothing=count.new_tensor(config.label_smoothing),
            aux_weight=count.new_tensor(config.aux_weight),
            weight=_class_weight(count, config),
            adjustment=share.log() if config.class_balance == "logits" else torch.zeros_like(share),
        )

    def __call__(self, output: HeadOutput, mask: Mapping[str, Tensor], targets: Tensor) -> Tensor:
        """A number: the mean over a batch with these masks and (B, K) shares of each class."""
        targets = (1 - self.smoothing) * targets + self.smoothing / targets.shape[1]
        loss = self._cross_entropy(output.logits, targets).mean()
        for name, logits in output.aux.items():
            there = mask[name].any(dim=1)  # a clip is not asked about what it lacks
            own = self._cross_entropy(logits, targets).where(there, 0.0).sum()
            loss = loss + self.aux_weight * own / there.sum().clamp_min(1)
        return loss

    def _cross_entropy(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(B,)."""
        return F.cross_entropy(logits + self.adjustment, targets, self.weight, reduction="none")


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
