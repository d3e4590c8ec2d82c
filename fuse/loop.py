"""The training loop: a stack of heads, each from fresh weights to its best state on its validation clips.

One head alone is a stack of one. Each has its own seed, initial weights, order of the clips, rows to learn from and
settings; every number that chance decides comes from its own generator, in the same order whatever stands beside it.
What the heads of a stack share is the architecture, the clips, the batch size and the number of training clips.

# Shapes: R heads, n training clips, B batch, N tokens, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from mgcli.cache import warn
from mgcli.fuse.augment import augment, augments, targets_of
from mgcli.fuse.data import Batch, BatchList, ClipTensors
from mgcli.fuse.dropout import draw_keys
from mgcli.fuse.head import FittedHead, FusionHead, modalities_without
from mgcli.fuse.loss import Loss
from mgcli.fuse.optimise import Optimizer
from mgcli.fuse.predict_clips import predict_stack, unfolded
from mgcli.fuse.recorded import RecordedStep, Step, recorder_of
from mgcli.fuse.residency import batches_ahead
from mgcli.fuse.sampling import draw_views, epoch_rows
from mgcli.fuse.settings import TrainConfig
from mgcli.fuse.stack import Stack, inputs_of
from mgcli.fuse.stack_single import SingleHead
from mgcli.fuse.watch import KeptState, LossNotFiniteError, Watch, first_bad_step, validation_scores


@dataclass(frozen=True, kw_only=True)
class Replica:
    """One training."""

    head: FusionHead  # fresh, with its input statistics set
    train_rows: Tensor  # (n,) int64
    val_rows: Tensor  # int64, at least one
    config: TrainConfig
    generator: torch.Generator  # on the head's device
    on_epoch: Callable[[dict[str, float]], None]  # called with each row of the history


@dataclass(frozen=True)
class Fitted:
    """What became of a replica, whose head is now in its best state; or what stopped it."""

    number: int  # its place in what was given
    history: list[dict[str, float]]
    error: LossNotFiniteError | None
    stack_size: int  # how many were trained together, itself included


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
    say: Callable[[str], None] = warn,
) -> list[dict[str, float]]:
    """Train a head and leave it in its best state on the validation clips.

    All chance comes from `generator`: the order of clips, their views, what is hidden or mixed, and dropout,
    unless a user's own head has layers that draw from torch's global generator.

    Args:
        head: fresh, with its input statistics set, on the clips' device.
        clips: all clips, where `place_clips` put them.
        train_rows: (n,) int64, the clips to learn from.
        val_rows: (n,) int64, the clips that choose the epoch; at least one.
        config: how to train.
        generator: on the head's device.
        on_epoch: called with each row of the history.
        on_step: called before each step; what it raises ends the training.
        say: told why steps are not recorded on a GPU.

    Returns:
        The history: one row an epoch.

    Raises:
        LossNotFiniteError: the message names the step; the best state until then is in the error.
    """
    if isinstance(head, FittedHead):
        for name in modalities_without(head.config.without, head.modalities):
            clips = clips.without(name)
        return head.fit(*(BatchList(clips, rows, config.batch_size) for rows in (train_rows, val_rows)))
    replica = Replica(
        head=head, train_rows=train_rows, val_rows=val_rows, config=config, generator=generator, on_epoch=on_epoch
    )
    with SingleHead(head, clips.labels.device) as stack:
        ((fitted,),) = Training([(0, replica)], stack, clips, on_step=on_step, say=say).run()
    if fitted.error:
        raise fitted.error
    return fitted.history


class Training:
    """A stack of replicas, from fresh weights to the end of the last."""

    def __init__(
        self,
        replicas: Sequence[tuple[int, Replica]],
        stack: Stack,
        clips: ClipTensors,
        *,
        on_step: Callable[[], None] = lambda: None,
        say: Callable[[str], None] = warn,
    ) -> None:
        """Args:
        replicas: with their numbers; of one architecture, batch size and number of training clips.
        stack: of their heads.
        clips: all clips, on the stack's device.
        on_step: called before each step.
        say: told why steps are not recorded on a GPU.
        """
        self._courses = [_Course(number, replica, clips) for number, replica in replicas]
        self._stack, self._clips, self._size = stack, clips, len(replicas)
        self._on_step, self._say = on_step, say
        self._optimizer = Optimizer(
            stack.weights,
            stack.columns_of_matrices(),
            [each.config for each in self._courses],
            [each.epochs * each.steps_an_epoch for each in self._courses],
        )
        # A batch of all replicas is one gather where they need not be thinned or changed each by itself: a GPU would be
        # kept waiting by the small steps of so many.
        self._one_gather = not (clips.thins or any(augments(each.config) for each in self._courses))
        self._recorded = self._courses[0].config.graphs != "off" and stack.steady
        self._loss, self._act = self._prepared()

    def run(self) -> Iterator[list[Fitted]]:
        """Epoch after epoch; who is finished leaves the stack, and is trained no further for nothing."""
        epoch = 0
        while self._courses:
            losses, right = self._train_epoch(epoch)
            epoch += 1
            ended = self._validate(epoch, losses, right)
            if ended:
                yield [each for _, each in ended]
                gone = {place for place, _ in ended}
                self._keep([place for place in range(len(self._courses)) if place not in gone])

    def _keep(self, places: Sequence[int]) -> None:
        self._courses = [self._courses[place] for place in places]
        self._act = self._step  # the graphs' memory is free from here on
        if not places:
            return
        rows = torch.tensor(places, dtype=torch.int64, device=self._stack.weights.device)
        self._stack.keep(rows)
        self._optimizer.keep(rows, self._stack.weights)
        self._loss, self._act = self._prepared()

    def _prepared(self) -> tuple[Loss, Step]:
        """The loss of those who are in the stack, and what does a step of theirs."""
        loss = Loss(*(torch.stack(each) for each in zip(*(vars(c.loss).values() for c in self._courses), strict=True)))
        record = recorder_of(self._stack.weights.device) if self._recorded else None
        if record is None:
            return loss, self._step
        return loss, RecordedStep(self._step, self._moved, record, self._give_up)

    def _give_up(self, why: str) -> None:
        """Steps are done as usual for the rest of the training, whoever leaves the stack."""
        self._recorded = False
        self._say(why)

    def _moved(self) -> list[Tensor]:
        """What a step changes in place."""
        return [*self._optimizer.state, *self._stack.moved]

    def _step(self, batch: Batch, numbers: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Of a batch with a leading axis R, and `numbers` of a step: targets (R, B, K), keys (R,), the optimiser's.

        Returns:
            (R,) losses, and (R,) how many clips were told right.
        """
        targets, keys, of_optimizer = numbers
        losses, logits, gradient, read = self._stack.gradient(batch, targets, self._loss, keys)
        self._optimizer.step(of_optimizer, gradient, read)
        return losses, (logits.argmax(dim=2) == batch.labels).sum(dim=1)

    def _train_epoch(self, epoch: int) -> tuple[Tensor, Tensor]:
        """(R, steps) losses, and (R,) how many clips were told right; on the CPU, at the end."""
        order, keys = (torch.stack(each) for each in zip(*(c.order_and_keys() for c in self._courses), strict=True))
        first = self._courses[0]
        losses, right = [], torch.zeros(len(order), dtype=torch.int64, device=order.device)
        parts = order.split(first.batch_size, dim=1)
        longest = self._clips.longest(order, first.batch_size) if self._one_gather else [None] * len(parts)
        batches = batches_ahead(self._clips, list(zip(parts, longest, strict=True)), self._gather)
        for step, gathered in enumerate(batches):
            self._on_step()
            batch, targets = self._seen(gathered)
            of_optimizer = self._optimizer.numbers(epoch * first.steps_an_epoch + step)
            own, told = self._act(batch, [targets, keys[:, step], of_optimizer])
            losses.append(own)
            right += told
        return torch.stack(losses, dim=1).cpu(), right.cpu()

    def _gather(self, part: tuple[Tensor, Mapping[str, int] | None]) -> list[Batch]:
        """The batch of each replica's (R, B) rows, or one batch of them all, which is so long."""
        rows, longest = part
        generators = [each.replica.generator for each in self._courses]
        views = [draw_views(rows.shape[1], self._clips.num_views, each) for each in generators]
        if not self._one_gather:
            own = zip(rows, views, generators, strict=True)
            return [self._clips.batch(each, views=view, jitter=generator) for each, view, generator in own]
        chosen = None if views[0] is None else torch.cat([each for each in views if each is not None])
        return [self._clips.batch(rows.flatten(), views=chosen, longest=longest)]

    def _seen(self, gathered: Sequence[Batch]) -> tuple[Batch, Tensor]:
        """What each replica sees of its batch, with a leading axis R, and the (R, B, K) targets."""
        num_classes = self._stack.num_classes
        if self._one_gather:
            batch = unfolded(gathered[0], len(self._courses))
            return batch, targets_of(batch.labels, num_classes)
        seen = [
            augment(each, num_classes, course.config, course.replica.generator)
            for each, course in zip(gathered, self._courses, strict=True)
        ]
        return _stacked([batch for batch, _ in seen]), torch.stack([targets for _, targets in seen])

    def _validate(self, epoch: int, losses: Tensor, right: Tensor) -> list[tuple[int, Fitted]]:
        """Replicas whose last epoch this was, with their places."""
        averages = self._optimizer.averages
        rates = self._optimizer.learning_rates(epoch * self._courses[0].steps_an_epoch)
        rows = [each.replica.val_rows for each in self._courses]
        probabilities = predict_stack(self._stack, averages, self._clips, rows)
        ended = []
        for place, each in enumerate(self._courses):
            row: dict[str, float] = {
                "epoch": epoch,
                "step": epoch * each.steps_an_epoch,
                "learning_rate": rates[place],
                "train_loss": float(losses[place].mean()),
                "train_top1": float(right[place]) / len(each.labels),
                **validation_scores(probabilities[place], self._clips.labels[rows[place]]),
            }
            fitted = each.take_in(row, losses[place], partial(self._stack.keep_state, place, averages), self._size)
            if fitted is not None:
                ended.append((place, fitted))
        return ended


class _Course:
    """How far one replica is."""

    def __init__(self, number: int, replica: Replica, clips: ClipTensors) -> None:
        self.number, self.replica, self.config, self.clips = number, replica, replica.config, clips
        self.labels = clips.labels[replica.train_rows]
        self.batch_size, self.epochs = self.config.plan(len(self.labels))
        self.steps_an_epoch = math.ceil(len(self.labels) / self.batch_size)
        self.loss = Loss.of(self.labels, replica.head, self.config)
        self.watch = Watch.of(self.labels, self.config, self.epochs)
        self.history: list[dict[str, float]] = []

    def order_and_keys(self) -> tuple[Tensor, Tensor]:
        """Of an epoch: its (n,) clips, and a key for each step."""
        order = epoch_rows(self.replica.train_rows, self.labels, self.config, self.replica.generator)
        return order, draw_keys(self.steps_an_epoch, self.replica.generator)

    def take_in(
        self, row: dict[str, float], losses: Tensor, keep_state: Callable[[], KeptState], stack_size: int
    ) -> Fitted | None:
        """An epoch's row and (steps,) losses; what became of the replica, where this was its last epoch."""
        bad_step = first_bad_step(losses, row, int(row["step"]) - self.steps_an_epoch + 1)
        if bad_step is not None:
            spoilt = self.clips.not_finite(self.replica.train_rows)
            error = LossNotFiniteError(bad_step, self.config, self.watch.best_state, self.history, spoilt)
            return Fitted(self.number, self.history, error, stack_size)
        self.history.append(row)
        self.replica.on_epoch(row)
        if not self.watch.should_stop(row, keep_state) and row["epoch"] < self.epochs:
            return None
        self.replica.head.load_state_dict(self.watch.best_state)
        return Fitted(self.number, self.history, None, stack_size)


def _stacked(batches: Sequence[Batch]) -> Batch:
    """With a leading axis R, all padded to the longest."""

    def stack(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        longest = {name: max(part[name].shape[1] for part in parts) for name in parts[0]}
        return {name: torch.stack([_padded(part[name], longest[name]) for part in parts]) for name in parts[0]}

    if len(batches) == 1:
        return unfolded(batches[0], 1)
    tokens, mask, time = map(stack, zip(*map(inputs_of, batches), strict=True))
    return Batch(tokens, mask, time, torch.stack([each.labels for each in batches]))


def _padded(x: Tensor, longest: int) -> Tensor:
    """(B, N, ...) -> (B, longest, ...), zeros and False on the right."""
    return torch.cat([x, x.new_zeros(len(x), longest - x.shape[1], *x.shape[2:])], dim=1)
