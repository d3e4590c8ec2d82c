"""What a head is taught by: cross-entropy of its answers, with what the classes' sizes ask for.

# Shapes: n clips, B batch, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from mgcli.fuse.head import HeadOutput
from mgcli.fuse.settings import TrainConfig


class Loss:
    """Cross-entropy of the joint answer, and a little of each modality's own answer.

    `class_balance` says what rare classes get:

    - loss: clips weigh 1 / size of their class;
    - effective: they weigh 1 / the effective number of clips of their class, (1 - b^size) / (1 - b) with
      b = effective_beta (Cui et al., CVPR 2019, arXiv 1901.05555), which grows more slowly than the size;
    - logits: log share of the class is added to its logit in training (Menon et al. 2021, arXiv 2007.07314,
      with tau = 1).

    Weights are scaled so that the training clips weigh 1 on average, which leaves the learning rate its meaning.
    """

    def __init__(self, labels: Tensor, num_classes: int, config: TrainConfig) -> None:
        """`labels` (n,) are those of all training clips."""
        count = labels.bincount(minlength=num_classes).float()  # (K,)
        self.majority = float(count.max() / count.sum())
        self._smoothing, self._aux_weight = config.label_smoothing, config.aux_weight
        self._weight = _class_weight(count, config)
        # A class without training clips keeps a finite adjustment: that of half a clip.
        share = count.clamp_min(0.5) / count.sum()
        self._adjustment = share.log() if config.class_balance == "logits" else torch.zeros_like(share)

    def __call__(self, output: HeadOutput, mask: Mapping[str, Tensor], targets: Tensor) -> Tensor:
        """A number: the mean over a batch with these masks and (B, K) shares of each class."""
        loss = self._cross_entropy(output.logits, targets).mean()
        for name, logits in output.aux.items():
            there = mask[name].any(dim=1)  # a clip is not asked about what it lacks
            own = self._cross_entropy(logits, targets).where(there, 0.0).sum()
            loss = loss + self._aux_weight * own / there.sum().clamp_min(1)
        return loss

    def _cross_entropy(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(B,)."""
        return F.cross_entropy(
            logits + self._adjustment, targets, self._weight, label_smoothing=self._smoothing, reduction="none"
        )


def _class_weight(count: Tensor, config: TrainConfig) -> Tensor | None:
    """(K,) from the (K,) sizes of the classes."""
    if config.class_balance == "loss":
        weight = 1 / count.clamp_min(1)
    elif config.class_balance == "effective":
        beta = torch.tensor(config.effective_beta, dtype=torch.float64)
        weight = ((1 - beta) / (1 - beta ** count.clamp_min(1).double())).float()
    else:
        return None
    return weight * count.sum() / (weight * count).sum()
