"""The training loop: one head, one seed, from fresh weights to the best state on validation clips.

# Shapes: n clips, B batch, N tokens, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from mgcli.fuse.augment import augment
from mgcli.fuse.data import Batch, BatchList, ClipTensors
from mgcli.fuse.dropout import draw_keys, drop_by_key
from mgcli.fuse.head import FittedHead, FusionHead, HeadOutput
from mgcli.fuse.loss import Loss, majority_share
from mgcli.fuse.optimise import WeightAverage, learning_rate_share, make_optimizer
from mgcli.fuse.residency import batches_ahead
from mgcli.fuse.sampling import draw_views, epoch_rows
from mgcli.fuse.settings import TrainConfig, TrainError

LEAST_GAIN = 0.003  # of the validation score, for patience to begin anew


class LossNotFiniteError(TrainError):
    """The loss became infinite or no number; what was good before is kept here."""

    def __init__(
        self, step: int, config: TrainConfig, state: dict[str, Tensor], history: list[dict[str, float]]
    ) -> None:
        super().__init__(
            f"the loss is not a finite number from step {step} on; try a lower learning rate than "
            f"{config.learning_rate:g}, or a smaller grad_clip than {config.grad_clip:g}"
        )
        self.state = state  # the best on validation clips until then; empty before the end of the first epoch
        self.history = history


def fit_head(
    head: FusionHead,
    clips: ClipTensors,
    train_rows: Tensor,
    val_rows: Tensor,
    config: TrainConfig,
    generator: torch.Generator,
    *,
    on_epoch: Callable[[dict[str, float]], None] = lambda row: None,
    on_step: Callable[[], None] = lambda: None,
) -> list[dict[str, float]]:
    """Train a head and leave it in its best state on the validation clips.

    All chance comes from `generator`: the order of clips, their views, what is hidden or mixed, and dropout,
    unless a user's own head has layers that draw from torch's global generator.

    Args:
        head: fresh, with its input statistics set.
        clips: all clips, where `place_clips` put them.
        train_rows: (n,) int64, the clips to learn from.
        val_rows: (n,) int64, the clips that choose the epoch; at least one.
        config: how to train.
        generator: on the head's device.
        on_epoch: called with each row of the history.
        on_step: called before each step; what it raises ends the training.

    Returns:
        The history: one row an epoch.

    Raises:
        LossNotFiniteError: the message names the step; the best state until then is in the error.
    """
    batch_size, epochs = config.plan(len(train_rows))
    if isinstance(head, FittedHead):
        return head.fit(*(BatchList(clips, rows, config.batch_size) for rows in (train_rows, val_rows)))

    dropout_key = drop_by_key(head)
    labels = clips.labels[train_rows]
    loss_function = Loss.of(labels, head.num_classes, config)
    optimizer = make_optimizer(head, config)
    steps_an_epoch = math.ceil(len(train_rows) / batch_size)
    num_steps = epochs * steps_an_epoch
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_share(step, num_steps, config.warmup)
    )
    average = WeightAverage(head, config.ema)
    watch = Watch.of(labels, config, epochs)
    history: list[dict[str, float]] = []

    def gather(rows: Tensor) -> Batch:
        return clips.batch(rows, views=draw_views(len(rows), clips.num_views, generator), jitter=generator)

    for epoch in range(epochs):
        head.train()
        losses, right = [], torch.zeros((), dtype=torch.int64, device=labels.device)
        order, keys = epoch_rows(train_rows, labels, config, generator), draw_keys(steps_an_epoch, generator)
        for batch, key in zip(batches_ahead(clips, order.split(batch_size), gather), keys, strict=True):
            on_step()
            dropout_key.copy_(key)
            batch, targets = augment(batch, head.num_classes, config, generator)
            output: HeadOutput = head(batch.tokens, batch.mask, batch.time)
            loss = loss_function(output, batch.mask, targets)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(head.parameters(), config.grad_clip)
            optimizer.step()
            schedule.step()
            average.update()
            losses.append(loss.detach())
            right += (output.logits.argmax(dim=1) == batch.labels).sum()
        row: dict[str, float] = {
            "epoch": epoch + 1,
            "step": (epoch + 1) * steps_an_epoch,
            "learning_rate": float(schedule.get_last_lr()[0]),
            "train_loss": float(torch.stack(losses).mean()),
            "train_top1": float(right) / len(train_rows),
            **validation_scores(predict_probabilities(average.head, clips, val_rows), clips.labels[val_rows]),
        }
        bad_step = first_bad_step(torch.stack(losses), row, epoch * steps_an_epoch + 1)
        if bad_step is not None:
            raise LossNotFiniteError(bad_step, config, watch.best_state, history)
        history.append(row)
        on_epoch(row)
        if watch.should_stop(row, average.head.state_dict):
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


class Watch:
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

    @classmethod
    def of(cls, labels: Tensor, config: TrainConfig, epochs: int) -> Watch:
        """`labels` (n,) are those of all training clips."""
        return cls(majority_share(labels), patience=max(1, round(config.patience * epochs)))

    def should_stop(self, row: dict[str, float], state: Callable[[], dict[str, Tensor]]) -> bool:
        """Look at an epoch's row of the history, and at the state that gave it where that is the best so far."""
        if row["val_score"] > self._best_score + LEAST_GAIN:
            self._gained_epoch = row["epoch"]
        if row["val_score"] > self._best_score:
            self._best_score = row["val_score"]
            self.best_state = {name: value.clone() for name, value in state().items()}
        if row["train_top1"] < self._learned_top1:
            self._learned_epoch = row["epoch"]
        return row["epoch"] - max(self._gained_epoch, self._learned_epoch) >= self._patience


def validation_scores(probabilities: np.ndarray, labels: Tensor) -> dict[str, float]:
    """Of (n, K) probabilities and (n,) labels, as a row of the history has them."""
    own = probabilities[np.arange(len(labels)), labels.cpu().numpy()]
    return {
        "val_loss": float(-np.log(own.clip(1e-12)).mean()),
        "val_top1": float((probabilities.argmax(axis=1) == labels.cpu().numpy()).mean()),
        "val_score": float(own.mean()),
    }


def first_bad_step(losses: Tensor, row: dict[str, float], first_step: int) -> int | None:
    """The step from which on a loss is not finite; all (steps,) of an epoch at once: a GPU would wait for each."""
    finite = losses.isfinite()
    if not finite.all():
        return first_step + int((~finite).nonzero()[0, 0])
    return None if math.isfinite(row["val_score"]) else int(row["step"])
