"""What is done to a training batch: clips mixed, tokens and modalities hidden. Off unless the settings ask for it.

Everything here is a function of the batch and a generator; nothing draws from torch's global one.

# Shapes: B batch, N tokens of a modality, M modalities, D token width, K classes.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from mgcli.fuse.data import Batch
from mgcli.fuse.head import modalities_without
from mgcli.fuse.settings import TrainConfig


def augment(batch: Batch, num_classes: int, config: TrainConfig, generator: torch.Generator) -> tuple[Batch, Tensor]:
    """The batch as training sees it, and its targets.

    Args:
        batch: as gathered.
        num_classes: K.
        config: `mixup`, `token_dropout` and `modality_dropout`; and `without`, as what a head is not shown is no
            modality that a clip could be left with.
        generator: where chance comes from, on the batch's device.

    Returns:
        The batch, and (B, K) shares of each class in each clip.
    """
    targets = targets_of(batch.labels, num_classes)
    hidden = modalities_without(config.head.without, tuple(batch.mask))
    if hidden and augments(config):
        mask = {name: torch.zeros_like(each) if name in hidden else each for name, each in batch.mask.items()}
        batch = replace(batch, mask=mask)
    if config.mixup:
        batch, targets = _mixed(batch, targets, config.mixup, generator)
    if config.token_dropout:
        batch = _with_tokens_hidden(batch, config.token_dropout, generator)
    if config.modality_dropout and len(batch.mask) > 1:
        batch = _with_modalities_hidden(batch, config.modality_dropout, generator)
    return batch, targets


def targets_of(labels: Tensor, num_classes: int) -> Tensor:
    """(..., K) shares of each class: all of it for that of the (...) labels."""
    # Unlike torch's one_hot it does not look at the numbers, for which a GPU would have to be waited for.
    return (labels[..., None] == torch.arange(num_classes, device=labels.device)).float()


def augments(config: TrainConfig) -> bool:
    """Whether `augment` changes anything, or draws anything."""
    return bool(config.mixup or config.token_dropout or config.modality_dropout)


def _mixed(batch: Batch, targets: Tensor, chance: float, generator: torch.Generator) -> tuple[Batch, Tensor]:
    """Some clips mixed with another of the batch: mixup (Zhang et al., ICLR 2018, arXiv 1710.09412) of tokens.

    A clip keeps its length, mask and times, and at least half of its weight (of its label, too). Each of its
    real tokens is mixed with the other clip's token at the same share of the way through, however long that
    clip is; where that one is not real, its own token stays whole. Clips that do not have the same modalities
    are not mixed, nor is the label where no token was: it would promise something that no token shows.
    """
    device = batch.labels.device
    size = len(batch.labels)
    other = torch.randperm(size, generator=generator, device=device)
    own = 1 - torch.rand(size, generator=generator, device=device) / 2  # (B,) weight of the clip itself, 1/2..1
    present = torch.stack([each.any(dim=1) for each in batch.mask.values()], dim=1)  # (B, M)
    alike = (present == present[other]).all(dim=1)
    chosen = torch.rand(size, generator=generator, device=device) < chance
    own = own.where(alike & chosen, 1.0)
    tokens, any_mixed = {}, torch.zeros_like(alike)
    for name, mask in batch.mask.items():
        there = torch.arange(1, mask.shape[1] + 1, device=device)  # (N,)
        length = (mask * there).amax(dim=1)  # (B,) up to the last real token
        place = (there - 0.5) * (length[other] / length.clamp_min(1))[:, None]  # (B, N)
        place = place.long().clamp_max(mask.shape[1] - 1)
        answers = mask[other].gather(1, place)  # (B, N)
        any_mixed |= (answers & mask).any(dim=1)
        partner = batch.tokens[name][other[:, None], place]  # (B, N, D)
        weight = own[:, None].where(answers, 1.0)[..., None].to(partner.dtype)
        tokens[name] = torch.where(weight < 1, weight * batch.tokens[name] + (1 - weight) * partner, batch.tokens[name])
    own = own.where(any_mixed, 1.0)
    targets = own[:, None] * targets + (1 - own[:, None]) * targets[other]
    return replace(batch, tokens=tokens), targets


def _with_tokens_hidden(batch: Batch, chance: float, generator: torch.Generator) -> Batch:
    mask = {
        name: each & (torch.rand(each.shape, generator=generator, device=each.device) >= chance)
        for name, each in batch.mask.items()
    }
    return replace(batch, mask=mask)


def _with_modalities_hidden(batch: Batch, chance: float, generator: torch.Generator) -> Batch:
    """Whole modalities hidden, clip by clip; one that would lose all keeps what it has."""
    present = torch.stack([each.any(dim=1) for each in batch.mask.values()], dim=1)  # (B, M)
    kept = present & (torch.rand(present.shape, generator=generator, device=present.device) >= chance)
    kept = kept | ~kept.any(dim=1, keepdim=True)
    mask = {name: each & kept[:, i, None] for i, (name, each) in enumerate(batch.mask.items())}
    return replace(batch, mask=mask)
