"""Many heads of one architecture trained together: each as it would be alone, all of them in every step.

Each replica has its own seed, initial weights, order of the clips, rows to learn from and settings; every number that
chance decides comes from its own generator, in the order in which `fit_head` draws it. What replicas share is the
architecture, the clips, the batch size and the number of training clips.

A stack computes what `fit_head` computes: in double precision the logits agreed to 4e-15 after a whole training (mixup
0.5). In float32 it rounds otherwise, and some trainings amplify that. Of 16 whole trainings on 100 clips each took as
many epochs as alone, and 99.94 % of the predictions were the same; the logits of 13 were within 1e-3 of the largest,
those of two within 4e-3, those of one 0.5 apart. With the first weights of a single head moved by 6e-8, the logits of
such trainings end 4e-3 and 0.17 apart as well. What a replica becomes hangs on no other: on a CPU, stacks of 1, 3 and 6
gave the same weights to the bit, or to 1e-8.

# Shapes: R replicas, n training clips, B batch, N tokens, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mgcli.cache import warn
from mgcli.fuse.augment import augment, augments
from mgcli.fuse.data import Batch, ClipTensors
from mgcli.fuse.dropout import draw_keys
from mgcli.fuse.head import FusionHead
from mgcli.fuse.loop import LossNotFiniteError, Watch, first_bad_step, validation_scores
from mgcli.fuse.loss import Loss
from mgcli.fuse.optimise_stack import StackOptimizer
from mgcli.fuse.sampling import draw_views, epoch_rows
from mgcli.fuse.settings import TrainConfig
from mgcli.fuse.stack import HeadStack, inputs_of

MOST_REPLICAS = 64  # a stack of more fills no GPU better, and its first run is finished later


@dataclass(frozen=True, kw_only=True)
class Replica:
    """One training: what `fit_head` is told."""

    head: FusionHead  # fresh, with its input statistics set, on any device
    train_rows: Tensor  # (n,) int64
    val_rows: Tensor  # int64, at least one
    config: TrainConfig
    generator: torch.Generator
    on_epoch: Callable[[dict[str, float]], None]  # called with each row of the history


@dataclass(frozen=True)
class Fitted:
    """What became of a replica, whose head is now in its best state; or what stopped it."""

    number: int  # its place in what was given
    history: list[dict[str, float]]
    error: LossNotFiniteError | None
    stack_size: int  # how many were trained together, itself included


def fit_replicas(
    replicas: Sequence[Replica], clips: ClipTensors, *, most: int = MOST_REPLICAS, say: Callable[[str], None] = warn
) -> Iterator[list[Fitted]]:
    """Train replicas in stacks, and give each after the epoch in which it ends.

    Args:
        replicas: of one architecture and batch size, with heads that `why_not_stacked` has nothing against.
        clips: all clips, on the heads' device.
        most: replicas in a stack; where the GPU has no room for them, half of them, and so on.
        say: told that the GPU is full.
    """
    alike: dict[int, list[int]] = {}
    for number, each in enumerate(replicas):
        alike.setdefault(len(each.train_rows), []).append(number)
    waiting = [numbers[i : i + most] for numbers in alike.values() for i in range(0, len(numbers), most)]
    said = False
    while waiting:
        left = waiting.pop(0)
        beginnings = {number: replicas[number].generator.get_state() for number in left}
        try:
            for ended in _Stack([_Course(number, replicas[number], clips) for number in left], clips).run():
                yield ended
                left = [number for number in left if number not in {each.number for each in ended}]
        except torch.OutOfMemoryError:
            if len(left) == 1:
                raise
        if not left:
            continue
        if not said:
            say(f"the GPU has no room for {len(left)} trainings together; going on with fewer")
            said = True
        most = -(-len(left) // 2)
        torch.cuda.empty_cache()
        for number in left:  # from the beginning: a full GPU is found out in the first steps
            replicas[number].generator.set_state(beginnings[number])
        waiting = [part[i : i + most] for part in (left, *waiting) for i in range(0, len(part), most)]


def predict_stack(
    stack: HeadStack, weights: Tensor, clips: ClipTensors, rows: Sequence[Tensor], batch_size: int = 128
) -> list[np.ndarray]:
    """(n, K) float64 class probabilities of each replica's own (n,) clips, by heads with these (R, P) weights."""
    longest = max(map(len, rows))
    filled = torch.stack([F.pad(each, (0, longest - len(each))) for each in rows])  # with clip 0, for nobody to read
    found = [torch.empty(len(rows), 0, stack.num_classes, dtype=torch.float64)]
    for part in filled.split(batch_size, dim=1) if longest else ():
        batch = _unfolded(clips.batch(part.flatten()), len(part))
        found.append(stack.logits(batch, weights).double().softmax(dim=2).cpu())  # (R, B, K)
    every = torch.cat(found, dim=1).numpy()
    return [every[place, : len(each)] for place, each in enumerate(rows)]


class _Course:
    """How far one replica is."""

    def __init__(self, number: int, replica: Replica, clips: ClipTensors) -> None:
        self.number, self.replica, self.config = number, replica, replica.config
        self.labels = clips.labels[replica.train_rows]
        self.batch_size, self.epochs = self.config.plan(len(self.labels))
        self.steps_an_epoch = math.ceil(len(self.labels) / self.batch_size)
        self.loss = Loss.of(self.labels, replica.head.num_classes, self.config)
        self.watch = Watch.of(self.labels, self.config, self.epochs)
        self.history: list[dict[str, float]] = []

    def order_and_keys(self) -> tuple[Tensor, Tensor]:
        """Of an epoch: its (n,) clips, and a key for each step."""
        order = epoch_rows(self.replica.train_rows, self.labels, self.config, self.replica.generator)
        return order, draw_keys(self.steps_an_epoch, self.replica.generator)

    def take_in(
        self, row: dict[str, float], losses: Tensor, state: Callable[[], dict[str, Tensor]], stack_size: int
    ) -> Fitted | None:
        """An epoch's row and (steps,) losses; what became of the replica, where this was its last epoch."""
        bad_step = first_bad_step(losses, row, int(row["step"]) - self.steps_an_epoch + 1)
        if bad_step is not None:
            error = LossNotFiniteError(bad_step, self.config, self.watch.best_state, self.history)
            return Fitted(self.number, self.history, error, stack_size)
        self.history.append(row)
        self.replica.on_epoch(row)
        if not self.watch.should_stop(row, state) and row["epoch"] < self.epochs:
            return None
        self.replica.head.load_state_dict(self.watch.best_state)
        return Fitted(self.number, self.history, None, stack_size)


class _Stack:
    """A stack of replicas, from fresh weights to the end of the last."""

    def __init__(self, courses: Sequence[_Course], clips: ClipTensors) -> None:
        self._courses, self._clips, self._size = list(courses), clips, len(courses)
        self._stack = HeadStack([each.replica.head for each in courses], clips.labels.device)
        steps = [each.epochs * each.steps_an_epoch for each in courses]
        self._optimizer = StackOptimizer(self._stack, [each.config for each in courses], steps)
        thinned = any(int(each.count.max()) > clips.max_tokens for each in clips.modalities.values())
        self._chance_in_batches = thinned or any(augments(each.config) for each in courses)

    def run(self) -> Iterator[list[Fitted]]:
        """Epoch after epoch; who is finished leaves the stack, and is trained no further for nothing."""
        epoch = 0
        while self._courses:
            losses, right = self._train_epoch()
            epoch += 1
            rates, averages = self._optimizer.learning_rates(), self._optimizer.averages
            rows = [each.replica.val_rows for each in self._courses]
            probabilities = predict_stack(self._stack, averages, self._clips, rows)
            ended, going_on = [], []
            for place, each in enumerate(self._courses):
                row: dict[str, float] = {
                    "epoch": epoch,
                    "step": epoch * each.steps_an_epoch,
                    "learning_rate": rates[place],
                    "train_loss": float(losses[place].mean()),
                    "train_top1": float(right[place]) / len(each.labels),
                    **validation_scores(probabilities[place], self._clips.labels[rows[place]]),
                }
                fitted = each.take_in(row, losses[place], partial(self._stack.state, place, averages), self._size)
                if fitted is None:
                    going_on.append(place)
                else:
                    ended.append(fitted)
            if ended:
                yield ended
                self._courses = [self._courses[place] for place in going_on]
                kept = torch.tensor(going_on, dtype=torch.int64, device=averages.device)
                self._stack.keep(kept)
                self._optimizer.keep(kept)

    def _train_epoch(self) -> tuple[Tensor, Tensor]:
        """(R, steps) losses, and (R,) how many clips were told right; on the CPU, at the end."""
        order, keys = (torch.stack(each) for each in zip(*(c.order_and_keys() for c in self._courses), strict=True))
        loss = Loss(*(torch.stack(each) for each in zip(*(vars(c.loss).values() for c in self._courses), strict=True)))
        losses, right = [], torch.zeros(len(order), dtype=torch.int64, device=order.device)
        for step, rows in enumerate(order.split(self._courses[0].batch_size, dim=1)):
            batch, targets = self._batch(rows)
            own, logits, gradient, read = self._stack.gradient(batch, targets, loss, keys[:, step])
            self._optimizer.step(gradient, read)
            losses.append(own)
            right += (logits.argmax(dim=2) == batch.labels).sum(dim=1)
        return torch.stack(losses, dim=1).cpu(), right.cpu()

    def _batch(self, rows: Tensor) -> tuple[Batch, Tensor]:
        """What each replica sees of its (R, B) rows, and the (R, B, K) targets."""
        if self._chance_in_batches:
            seen = [self._own_batch(own, each) for own, each in zip(rows, self._courses, strict=True)]
            return _stacked([batch for batch, _ in seen]), torch.stack([targets for _, targets in seen])
        # The same in one gather: a GPU would be kept waiting by the small steps of so many replicas.
        generators = [each.replica.generator for each in self._courses]
        views = [draw_views(rows.shape[1], self._clips.num_views, each) for each in generators]
        chosen = None if views[0] is None else torch.cat([each for each in views if each is not None])
        batch = self._clips.batch(rows.flatten(), views=chosen)
        batch = _unfolded(batch, len(rows))
        return batch, F.one_hot(batch.labels, self._stack.num_classes).float()

    def _own_batch(self, rows: Tensor, course: _Course) -> tuple[Batch, Tensor]:
        generator = course.replica.generator
        views = draw_views(len(rows), self._clips.num_views, generator)
        batch = self._clips.batch(rows, views=views, jitter=generator)
        return augment(batch, self._stack.num_classes, course.config, generator)


def _unfolded(batch: Batch, size: int) -> Batch:
    """(R B, ...) -> (R, B, ...), with R = size."""

    def unfold(part: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: each.unflatten(0, (size, -1)) for name, each in part.items()}

    tokens, mask, time = map(unfold, inputs_of(batch))
    return Batch(tokens, mask, time, batch.labels.unflatten(0, (size, -1)))


def _stacked(batches: Sequence[Batch]) -> Batch:
    """With a leading axis R, all padded to the longest."""

    def stack(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        longest = {name: max(part[name].shape[1] for part in parts) for name in parts[0]}
        return {name: torch.stack([_padded(part[name], longest[name]) for part in parts]) for name in parts[0]}

    tokens, mask, time = map(stack, zip(*map(inputs_of, batches), strict=True))
    return Batch(tokens, mask, time, torch.stack([each.labels for each in batches]))


def _padded(x: Tensor, longest: int) -> Tensor:
    """(B, N, ...) -> (B, longest, ...), zeros and False on the right."""
    return torch.cat([x, x.new_zeros(len(x), longest - x.shape[1], *x.shape[2:])], dim=1)
