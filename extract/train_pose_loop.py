"""The training of one stream of 2s-AGCN, from fresh weights to its best epoch on validation clips; it can be resumed.

The recipe is that of the paper (CVPR 2019, training details): stochastic gradient descent with Nesterov momentum
0.9, weight decay 1e-4, learning rate 0.1 at batches of 64, 50 epochs, cross-entropy. Ours are the warm-up and the
cosine in place of steps, label smoothing, weights against class imbalance, the augmentation, batch norms whose running
statistics are those of the last epoch (a small set has too few steps for them to settle otherwise), and the choice of
the epoch by validation clips of other subjects.
"""

# Shapes: n clips, B batch, T frames, V joints, M people, K classes.

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mgcli.extract.backbone_agcn_network import AGCN
from mgcli.extract.train_pose_clips import Augmentation, BackboneTrainError, PoseClips

REFERENCE_BATCH = 64  # the learning rate is that of this batch size; others take it by the root of their share
SMALLEST_BATCH = 8
STEPS_AN_EPOCH = 8  # a small set is cut into at least this many batches, if they keep SMALLEST_BATCH clips

Inputs = Callable[[Tensor], Tensor]  # joints (B, 3, T, V, M) -> what the stream reads


@dataclass(frozen=True, kw_only=True)
class BackboneTrainConfig:
    """How a stream is trained."""

    epochs: int = 50
    min_steps: int = 500  # a small set is gone through more often, up to this many steps
    batch_size: int = REFERENCE_BATCH
    learning_rate: float = 0.1  # at batches of 64, at the end of the warm-up; falls to 0 along a cosine
    warmup: float = 0.1  # share of the steps
    momentum: float = 0.9
    weight_decay: float = 1e-4
    grad_clip: float = 5.0  # largest norm of the whole gradient
    label_smoothing: float = 0.05
    class_balance: float = 0.5  # a class counts by its share to the power of minus this: 0 as it comes, 1 all alike
    seed: int = 0
    validation_fraction: float = 0.2  # share of training subjects, where the clip table has no val split
    split_seed: int = 0  # of that draw: with the same one, heads hold back the same subjects
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise BackboneTrainError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        for name in ("learning_rate", "grad_clip"):
            if not getattr(self, name) > 0:
                raise BackboneTrainError(f"{name} is {getattr(self, name)}; it must be above 0")
        for name in ("warmup", "momentum", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise BackboneTrainError(f"{name} is {getattr(self, name)}; it must be at least 0 and below 1")
        for name in ("min_steps", "weight_decay", "class_balance"):
            if not getattr(self, name) >= 0:
                raise BackboneTrainError(f"{name} is {getattr(self, name)}; it must be 0 or more")
        if not 0 < self.validation_fraction < 1:
            raise BackboneTrainError(f"validation_fraction is {self.validation_fraction}; it must be between 0 and 1")

    def plan(self, num_clips: int) -> tuple[int, int]:
        """Batches an epoch and number of epochs for so many training clips."""
        size = min(self.batch_size, max(SMALLEST_BATCH, num_clips // STEPS_AN_EPOCH))
        batches = math.ceil(num_clips / size)
        return batches, max(self.epochs, math.ceil(self.min_steps / batches))


@dataclass(frozen=True, kw_only=True)
class StreamState:
    """A training after some epochs: all that it takes to go on as if it had never stopped."""

    epoch: int  # that many are over
    network: dict[str, Tensor]
    optimizer: dict[str, Any]
    best: dict[str, Tensor]  # the network at its best epoch
    history: list[dict[str, float]]  # one row an epoch

    def to_dict(self) -> dict[str, Any]:
        """Tensors and plain values, for a file."""
        return vars(self)


def fit_stream(
    network: AGCN,
    clips: PoseClips,
    inputs: Inputs,
    config: BackboneTrainConfig,
    *,
    precision: torch.dtype,
    is_3d: bool,
    resume: StreamState | None = None,
    on_epoch: Callable[[StreamState], None] = lambda state: None,
) -> StreamState:
    """Train a network, on its device, which is also the clips'.

    What is random in an epoch hangs on the seed and the epoch's number alone, so that a training that was stopped
    and resumed gives the same weights as one that was not, where the device computes the same twice.

    Args:
        network: with the weights to start from.
        clips: all clips, with their splits.
        inputs: what this stream makes of joints.
        config: how to train.
        precision: float32, or bfloat16 for mixed precision.
        is_3d: the joints' third channel is a coordinate.
        resume: where an earlier training stopped.
        on_epoch: called after each epoch.

    Raises:
        BackboneTrainError: the loss is not finite; the message names the epoch.
    """
    device = clips.joints.device
    train, val = clips.rows("train"), clips.rows("val").to(device)
    num_batches, num_epochs = config.plan(len(train))
    rate = config.learning_rate * math.sqrt(len(train) / num_batches / REFERENCE_BATCH)
    optimizer = _optimizer(network, config, rate)
    norms = [each for each in network.modules() if isinstance(each, nn.BatchNorm1d | nn.BatchNorm2d)]
    num_steps = num_epochs * num_batches
    weight = _class_weights(clips.labels[train.to(device)], network.num_classes, config.class_balance)
    history: list[dict[str, float]] = []
    best: dict[str, Tensor] = {}
    if resume is not None:
        network.load_state_dict(resume.network)
        optimizer.load_state_dict(resume.optimizer)
        history, best = list(resume.history), resume.best
    state = resume
    for epoch in range(len(history), num_epochs):
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + epoch)
        network.train()
        for norm in norms:
            norm.reset_running_stats()
        losses, right = [], torch.zeros((), dtype=torch.int64, device=device)
        order = train[torch.randperm(len(train), generator=generator)].to(device)
        for step, rows in enumerate(order.tensor_split(num_batches), start=epoch * num_batches):
            for norm in norms:  # the plain mean since they were reset; for None torch asks a GPU how many they were
                norm.momentum = 1 / (step - epoch * num_batches + 1)
            for group in optimizer.param_groups:
                group["lr"] = rate * _share(step, num_steps, config.warmup)
            joints = config.augmentation(clips.joints[rows], generator, is_3d=is_3d)
            labels = clips.labels[rows]
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == torch.bfloat16):
                logits = network(inputs(joints)).float()
            loss = F.cross_entropy(logits, labels, weight, label_smoothing=config.label_smoothing)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), config.grad_clip)
            optimizer.step()
            losses.append(loss.detach())
            right += (logits.argmax(dim=1) == labels).sum()
        mean_loss = float(torch.stack(losses).mean())
        if not math.isfinite(mean_loss):
            raise BackboneTrainError(
                f"the loss is not a finite number in epoch {epoch + 1}; try a lower learning_rate than "
                f"{config.learning_rate:g}"
            )
        row = {"epoch": epoch + 1, "train_loss": mean_loss, "train_top1": float(right) / len(train)}
        row |= _validate(network, clips, val, inputs)
        if not history or _merit(row) > max(map(_merit, history)):
            best = {name: value.clone() for name, value in network.state_dict().items()}
        history.append(row)
        state = StreamState(
            epoch=epoch + 1,
            network=network.state_dict(),
            optimizer=optimizer.state_dict(),
            best=best,
            history=history,
        )
        on_epoch(state)
    assert state is not None
    network.load_state_dict(best)
    return state


@torch.inference_mode()
def stream_scores(network: AGCN, clips: PoseClips, rows: Tensor, inputs: Inputs, batch_size: int = 64) -> Tensor:
    """(k, K) float32 logits of the clips of `rows`, on the CPU."""
    network.eval()
    found = [network(inputs(clips.joints[part])).float().cpu() for part in rows.split(batch_size) if len(part)]
    return torch.cat([torch.empty(0, network.num_classes), *found])


def accuracies(scores: Tensor, labels: Tensor) -> dict[str, float]:
    """Top-1 and mean class accuracy of (k, K) scores; k is at least 1."""
    right = (scores.argmax(dim=1) == labels).double()
    by_class = [float(right[labels == label].mean()) for label in labels.unique()]
    return {"top1": float(right.mean()), "mean_class_accuracy": sum(by_class) / len(by_class)}


def _validate(network: AGCN, clips: PoseClips, rows: Tensor, inputs: Inputs) -> dict[str, float]:
    scores, labels = stream_scores(network, clips, rows, inputs), clips.labels[rows].cpu()
    loss = float(F.cross_entropy(scores, labels))
    return {f"val_{name}": value for name, value in {"loss": loss, **accuracies(scores, labels)}.items()}


def _merit(row: dict[str, float]) -> tuple[float, float]:
    """What the best epoch is best in: accuracy over classes, then the loss, which is finer on a small split."""
    return row["val_mean_class_accuracy"], -row["val_loss"]


def _class_weights(labels: Tensor, num_classes: int, balance: float) -> Tensor:
    """(K,) weights of the loss, mean 1 over the clips; 0 for classes without clips."""
    count = labels.bincount(minlength=num_classes).float()
    weight = torch.where(count > 0, count.clamp_min(1) ** -balance, 0)
    return weight * len(labels) / (weight * count).sum()


def _optimizer(network: AGCN, config: BackboneTrainConfig, rate: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        network.parameters(),
        lr=rate,
        momentum=config.momentum,
        nesterov=config.momentum > 0,
        weight_decay=config.weight_decay,
    )


def _share(step: int, num_steps: int, warmup: float) -> float:
    """Share of the learning rate: up in a line, down along a cosine."""
    warmup_steps = max(1, round(warmup * num_steps))
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / max(1, num_steps - warmup_steps)))
