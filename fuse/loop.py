"""The training loop: one head, one seed, from fresh weights to the best state on validation clips.

# Shapes: n clips, B batch, N tokens, K classes.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mgcli.cache import MgcliError
from mgcli.fuse.data import Batch, ClipTensors
from mgcli.fuse.head import FittedHead, FusionHead, HeadConfig, HeadOutput

SMALLEST_BATCH = 8
LEAST_GAIN = 0.003  # of the validation score, for patience to begin anew
STEPS_AN_EPOCH = 8  # a small set is cut into at least this many batches, if they keep SMALLEST_BATCH clips


class TrainError(MgcliError):
    """A training that cannot start or go on."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How a head is trained."""

    epochs: int = 20
    min_steps: int = 500  # a small set is gone through more often, up to this many steps
    batch_size: int = 64
    learning_rate: float = 1e-3  # at the end of the warm-up; falls to 0 along a cosine
    warmup: float = 0.1  # share of the steps
    weight_decay: float = 0.05
    grad_clip: float = 1.0  # largest norm of the whole gradient
    label_smoothing: float = 0.05
    aux_weight: float = 0.1  # of each modality's own loss beside the joint one
    class_balance: Literal["none", "loss", "logits"] = "none"  # loss: by 1 / share; logits: adjusted by log share
    modality_dropout: float = 0.0  # chance that a training clip loses a modality, never all
    token_dropout: float = 0.0  # chance that a training token is hidden
    patience: float = 0.3  # stop after this share of the steps without a better validation score
    max_tokens: int = 512  # of a clip and modality: more are thinned evenly
    validation_fraction: float = 0.2  # share of training subjects, where the clip table has no val split
    split_seed: int = 0  # of that drawn validation split, the same for all seeds of a run
    folds: int = 0  # cut the training subjects into so many and validate on one; 0: validation_fraction decides
    fold: int = 0  # which of them, from 0
    allow_unseen_classes: bool = False  # accept a class that has clips, but none to train on
    device: str = "auto"  # auto: cuda where there is one
    head: HeadConfig = field(default_factory=HeadConfig)

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "max_tokens"):
            if getattr(self, name) < 1:
                raise TrainError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        for name in ("learning_rate", "grad_clip", "patience"):
            if not getattr(self, name) > 0:
                raise TrainError(f"{name} is {getattr(self, name)}; it must be above 0")
        for name in ("warmup", "label_smoothing", "modality_dropout", "token_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise TrainError(f"{name} is {getattr(self, name)}; it must be at least 0 and below 1")
        if not 0 < self.validation_fraction < 1:
            raise TrainError(f"validation_fraction is {self.validation_fraction}; it must be between 0 and 1")
        if self.folds == 1 or self.folds < 0 or not 0 <= self.fold < max(1, self.folds):
            raise TrainError(f"fold {self.fold} of {self.folds} folds; give 2 folds or more, and a fold from 0 below")
        if self.class_balance not in ("none", "loss", "logits"):
            raise TrainError(f"class_balance is {self.class_balance!r}; it must be none, loss or logits")

    def plan(self, num_clips: int) -> tuple[int, int]:
        """Batch size and number of epochs for so many training clips."""
        batch_size = min(self.batch_size, max(SMALLEST_BATCH, num_clips // STEPS_AN_EPOCH))
        steps = math.ceil(num_clips / batch_size)
        return batch_size, max(self.epochs, math.ceil(self.min_steps / steps))


def make_config(settings: Mapping[str, Any]) -> TrainConfig:
    """The configuration with some fields set, those of the training and those of the head alike.

    Raises:
        TrainError: a field that does not exist, or a value of another kind; the message suggests the nearest.
    """
    of_head = {field.name for field in fields(HeadConfig)}
    of_training = {field.name for field in fields(TrainConfig)} - {"head"}
    for name in settings:
        if name not in of_head | of_training:
            near = difflib.get_close_matches(name, of_head | of_training, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise TrainError(f"unknown setting {name!r}; {hint}All: {', '.join(sorted(of_head | of_training))}")
    try:
        head = HeadConfig(**{name: value for name, value in settings.items() if name in of_head})
        return TrainConfig(head=head, **{name: value for name, value in settings.items() if name in of_training})
    except TypeError as error:
        given = ", ".join(f"{name}={value!r}" for name, value in settings.items())
        raise TrainError(f"a setting has a value of the wrong kind ({error}): {given}") from None


def fit_head(
    head: FusionHead,
    clips: ClipTensors,
    train_rows: Tensor,
    val_rows: Tensor,
    config: TrainConfig,
    on_epoch: Callable[[dict[str, float]], None] = lambda row: None,
) -> list[dict[str, float]]:
    """Train a head and leave it in its best state on the validation clips.

    Draws from torch's global generator (order of clips, dropout): seed that for the same result again.

    Args:
        head: fresh, with its input statistics set.
        clips: all clips, on the head's device.
        train_rows: (n,) int64, the clips to learn from.
        val_rows: (n,) int64, the clips that choose the epoch; at least one.
        config: how to train.
        on_epoch: called with each row of the history.

    Returns:
        The history: one row an epoch.

    Raises:
        TrainError: the loss is not finite; the message names the step.
    """
    batch_size, epochs = config.plan(len(train_rows))
    if isinstance(head, FittedHead):
        train = list(clips.batches(train_rows, config.batch_size))
        return head.fit(train, list(clips.batches(val_rows, config.batch_size)))

    loss_function = _Loss(clips.labels[train_rows], head.num_classes, config)
    optimizer = _optimizer(head, config)
    steps_an_epoch = math.ceil(len(train_rows) / batch_size)
    num_steps = epochs * steps_an_epoch
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, num_steps, config.warmup))
    watch = _Watch(loss_function.majority, patience=max(1, round(config.patience * epochs)))
    history: list[dict[str, float]] = []
    for epoch in range(epochs):
        head.train()
        losses, right = [], torch.zeros((), dtype=torch.int64, device=clips.labels.device)
        shuffled = train_rows[torch.randperm(len(train_rows), device=train_rows.device)]
        for rows in shuffled.split(batch_size):
            batch = _with_dropout(clips.batch(rows, jitter=True), config)
            output: HeadOutput = head(batch.tokens, batch.mask, batch.time)
            loss = loss_function(output, batch)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(head.parameters(), config.grad_clip)
            optimizer.step()
            schedule.step()
            losses.append(loss.detach())
            right += (output.logits.argmax(dim=1) == batch.labels).sum()
        _check_finite(losses, first_step=epoch * steps_an_epoch + 1, config=config)
        row: dict[str, float] = {
            "epoch": epoch + 1,
            "step": (epoch + 1) * steps_an_epoch,
            "learning_rate": float(schedule.get_last_lr()[0]),
            "train_loss": float(torch.stack(losses).mean()),
            "train_top1": float(right) / len(train_rows),
            **_validate(head, clips, val_rows),
        }
        if not math.isfinite(row["val_score"]):
            raise _not_finite((epoch + 1) * steps_an_epoch, config)
        history.append(row)
        on_epoch(row)
        if watch.should_stop(head, row):
            break
    head.load_state_dict(watch.best_state)
    return history


@torch.inference_mode()
def predict_probabilities(head: FusionHead, clips: ClipTensors, rows: Tensor, batch_size: int = 128) -> np.ndarray:
    """(n, K) float64 class probabilities of the clips of `rows`."""
    head.eval()
    found = [
        head(batch.tokens, batch.mask, batch.time).logits.double().softmax(dim=1).cpu()
        for batch in clips.batches(rows, batch_size)
    ]
    return torch.cat([torch.empty(0, head.num_classes, dtype=torch.float64), *found]).numpy()


class _Loss:
    """Cross-entropy of the joint answer, and a little of each modality's own answer."""

    def __init__(self, labels: Tensor, num_classes: int, config: TrainConfig) -> None:
        count = labels.bincount(minlength=num_classes).float()  # (K,)
        self.majority = float(count.max() / count.sum())
        self.smoothing, self.aux_weight = config.label_smoothing, config.aux_weight
        self.weight = len(labels) / (count.clamp_min(1) * (count > 0).sum()) if config.class_balance == "loss" else None
        # A class without training clips keeps a finite adjustment: that of half a clip.
        share = count.clamp_min(0.5) / count.sum()
        self.adjustment = share.log() if config.class_balance == "logits" else torch.zeros_like(share)

    def __call__(self, output: HeadOutput, batch: Batch) -> Tensor:
        loss = self._cross_entropy(output.logits, batch.labels).mean()
        for name, logits in output.aux.items():
            there = batch.mask[name].any(dim=1)  # a clip is not asked about what it lacks
            own = self._cross_entropy(logits, batch.labels).where(there, 0.0).sum()
            loss = loss + self.aux_weight * own / there.sum().clamp_min(1)
        return loss

    def _cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """(B,); adjusted logits after Menon et al. 2021, arXiv 2007.07314, with tau = 1."""
        return F.cross_entropy(
            logits + self.adjustment, labels, self.weight, label_smoothing=self.smoothing, reduction="none"
        )


class _Watch:
    """Keeps the best state on the validation clips, and says when to stop.

    The score is the mean probability of the true class: as plain as accuracy, but not as coarse on the few
    clips of a small validation split, and not ruled by a few confident mistakes as cross-entropy is. A
    head that has not learned its training clips yet is never stopped: a joint decision that no modality
    shows by itself begins with a plateau.
    """

    def __init__(self, majority: float, patience: int) -> None:
        self._learned_top1 = (1 + majority) / 2
        self._patience = patience
        self._best_score = -1.0
        self._gained_epoch = self._learned_epoch = 0.0
        self.best_state: dict[str, Tensor] = {}

    def should_stop(self, head: FusionHead, row: dict[str, float]) -> bool:
        if row["val_score"] > self._best_score + LEAST_GAIN:
            self._gained_epoch = row["epoch"]
        if row["val_score"] > self._best_score:
            self._best_score = row["val_score"]
            self.best_state = {name: value.clone() for name, value in head.state_dict().items()}
        if row["train_top1"] < self._learned_top1:
            self._learned_epoch = row["epoch"]
        return row["epoch"] - max(self._gained_epoch, self._learned_epoch) >= self._patience


def _optimizer(head: FusionHead, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW; vectors (biases, norms, embeddings) do not decay."""
    matrices = [each for each in head.parameters() if each.ndim > 1]
    vectors = [each for each in head.parameters() if each.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)


def _rate(step: int, num_steps: int, warmup: float) -> float:
    """Share of the learning rate: up in a line, down along a cosine."""
    warmup_steps = max(1, round(warmup * num_steps))
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / max(1, num_steps - warmup_steps)))


def _with_dropout(batch: Batch, config: TrainConfig) -> Batch:
    """The batch with some tokens and modalities hidden; no clip loses its last modality."""
    mask = batch.mask
    if config.token_dropout:
        mask = {
            name: each & (torch.rand(each.shape, device=each.device) >= config.token_dropout)
            for name, each in mask.items()
        }
    if config.modality_dropout and len(mask) > 1:
        present = torch.stack([each.any(dim=1) for each in mask.values()], dim=1)  # (B, M)
        kept = present & (torch.rand(present.shape, device=present.device) >= config.modality_dropout)
        kept = kept | ~kept.any(dim=1, keepdim=True)
        mask = {name: each & kept[:, i, None] for i, (name, each) in enumerate(mask.items())}
    return Batch(batch.tokens, mask, batch.time, batch.labels)


def _validate(head: FusionHead, clips: ClipTensors, rows: Tensor) -> dict[str, float]:
    probabilities = torch.from_numpy(predict_probabilities(head, clips, rows))  # (n, K)
    labels = clips.labels[rows].cpu()
    own = probabilities.gather(1, labels[:, None])
    return {
        "val_loss": float(-own.clamp_min(1e-12).log().mean()),
        "val_top1": float((probabilities.argmax(dim=1) == labels).double().mean()),
        "val_score": float(own.mean()),
    }


def _check_finite(losses: list[Tensor], first_step: int, config: TrainConfig) -> None:
    """Look at all losses of an epoch at once: looking at each would make a GPU wait for every step."""
    finite = torch.stack(losses).isfinite()
    if not finite.all():
        raise _not_finite(first_step + int((~finite).nonzero()[0, 0]), config)


def _not_finite(step: int, config: TrainConfig) -> TrainError:
    return TrainError(
        f"the loss is not a finite number from step {step} on; try a lower learning rate than "
        f"{config.learning_rate:g}, or a smaller grad_clip than {config.grad_clip:g}"
    )
