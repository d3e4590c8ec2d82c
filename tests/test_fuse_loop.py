"""The training loop against one of torch's own parts, and what a head is after it."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from test_fuse_replicas import DIMS, TINY, check_equal, even_clips, make_clips, make_replicas
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mgcli.fuse import HEADS, TrainConfig, create_head, make_config
from mgcli.fuse.augment import augment
from mgcli.fuse.data import ClipTensors
from mgcli.fuse.dropout import draw_keys, drop_by_key
from mgcli.fuse.head import FusionHead, HeadError
from mgcli.fuse.head_baselines import Concat
from mgcli.fuse.loop import fit_head
from mgcli.fuse.loss import Loss
from mgcli.fuse.optimise import average_share, learning_rate_share
from mgcli.fuse.replicas import fit_replicas
from mgcli.fuse.sampling import epoch_rows
from mgcli.fuse.watch import Watch

TRAINED = [name for name in HEADS if name not in ("logistic", "constant")]
TRAIN, VAL = torch.arange(40), torch.arange(40, 100)
SETTINGS = TINY | {"epochs": 3, "min_steps": 1, "patience": 1.0}


def plain_states(head: FusionHead, clips: ClipTensors, config: TrainConfig) -> list[dict[str, Tensor]]:
    """The averaged state after each epoch of a training by torch's own optimiser, schedule and clipping."""
    generator = torch.Generator().manual_seed(0)
    key = drop_by_key(head)
    labels = clips.labels[TRAIN]
    batch_size, epochs = config.plan(len(TRAIN))
    steps = math.ceil(len(TRAIN) / batch_size)
    loss_function = Loss.of(labels, head, config)
    matrices, vectors = ([each for each in head.parameters() if (each.ndim > 1) is wide] for wide in (True, False))
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_share(step, epochs * steps, config.warmup)
    )
    average = torch.optim.swa_utils.AveragedModel(
        head,
        avg_fn=lambda own, new, seen: own + (new - own) * average_share(config.ema, int(seen) + 1),
    )
    states = []
    for _ in range(epochs):
        head.train()
        order, keys = epoch_rows(TRAIN, labels, config, generator), draw_keys(steps, generator)
        for rows, own in zip(order.split(batch_size), keys, strict=True):
            key.copy_(own)
            batch, targets = augment(clips.batch(rows, jitter=generator), head.num_classes, config, generator)
            loss = loss_function(head(batch.tokens, batch.mask, batch.time), batch.mask, targets)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(head.parameters(), config.grad_clip)
            optimizer.step()
            schedule.step()
            average.update_parameters(head)
        states.append({name: each.clone() for name, each in average.module.state_dict().items()})
    return states


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize(
    "own", [{}, {"ema": 0.9, "mixup": 0.5, "token_dropout": 0.2, "weight_decay": 0.5, "grad_clip": 0.1}]
)
def test_a_training_is_what_torchs_own_parts_give(name: str, own: dict[str, Any]) -> None:
    clips = make_clips({"video": 12} if name == "single" else DIMS, 100)
    ours, plain = (make_replicas(name, clips, [own], TRAIN, VAL, **SETTINGS)[0] for _ in range(2))
    states = plain_states(plain.head, clips, plain.config)
    history = fit_head(ours.head, clips, TRAIN, VAL, ours.config, ours.generator)
    best = max(range(3), key=lambda epoch: history[epoch]["val_score"])
    plain.head.load_state_dict(states[best])
    check_equal([plain], [ours], clips, VAL)


def test_a_trained_heads_parameters_stand_for_themselves() -> None:
    """As views into one matrix each of them would be saved with all of it."""
    clips = make_clips(DIMS, 100)
    (ours,) = make_replicas("concat", clips, [{}], TRAIN, VAL, **SETTINGS)
    fit_head(ours.head, clips, TRAIN, VAL, ours.config, ours.generator)
    for each in ours.head.parameters():
        assert each.untyped_storage().nbytes() == each.nbytes
    saved = io.BytesIO()
    torch.save({"bias": ours.head.get_parameter("classify.1.bias")}, saved)
    assert len(saved.getvalue()) < 4096


class Asked(TorchDispatchMode):
    """Counts how often Python asks for a number that is in a tensor, by what a training step must wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.counted = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        self.counted += function.overloadpacket in (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero)
        return function(*arguments, **(named or {}))


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("together", [False, True])
def test_no_step_waits_for_a_number(name: str, together: bool) -> None:
    """An epoch of twice as many steps asks for no more numbers."""
    clips = even_clips({"video": 12} if name == "single" else DIMS, 100)
    assert not clips.thins  # how many tokens clips have is asked for once
    counted = []
    for batch_size in (8, 16):
        options = [{"token_dropout": 0.1, "mixup": 0.3}, {"modality_dropout": 0.2}]
        settings = SETTINGS | {"epochs": 1, "batch_size": batch_size}
        assert make_config(settings).plan(128) == (batch_size, 1)
        replicas = make_replicas(name, clips, options, TRAIN.repeat(4)[:128], VAL, **settings)
        with Asked() as asked:
            if together:
                assert len([each for ended in fit_replicas(replicas, clips) for each in ended]) == 2
            else:
                one = replicas[0]
                fit_head(one.head, clips, one.train_rows, one.val_rows, one.config, one.generator)
        counted.append(asked.counted)
    assert counted[0] == counted[1] > 0


def test_a_slow_rise_is_waited_for_and_standing_still_is_not() -> None:
    rising, still = (Watch(majority=0.5, patience=5) for _ in range(2))
    stopped = []
    for epoch in range(1, 40):
        row = {"epoch": float(epoch), "train_top1": 1.0}
        assert not rising.should_stop(row | {"val_score": 0.3 + 0.001 * epoch}, dict)
        if still.should_stop(row | {"val_score": 0.3 + 0.001 * (epoch % 3)}, dict):
            stopped.append(epoch)
    assert stopped[0] == 6


class DoubleHead(Concat):
    """A user's head that computes in float64."""

    def __init__(self, dims: Any, num_classes: int, config: Any) -> None:
        super().__init__(dims, num_classes, config)
        self.double()


class NormHead(Concat):
    """A user's head with a layer that changes its own buffers in training."""

    def __init__(self, dims: Any, num_classes: int, config: Any) -> None:
        super().__init__(dims, num_classes, config)
        self.classify.append(nn.BatchNorm1d(num_classes))


def test_a_head_of_another_number_type_is_refused_by_name() -> None:
    clips = make_clips(DIMS, 100)
    head = create_head("test_fuse_loop:DoubleHead", DIMS, 4, TrainConfig().head)
    with pytest.raises(HeadError, match="is float64; heads learn in float32"):
        fit_head(head, clips, TRAIN, VAL, TrainConfig(), torch.Generator())


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_buffers_that_a_training_changes_are_kept_and_used(ema: float) -> None:
    clips = make_clips(DIMS, 100)
    (ours,) = make_replicas("test_fuse_loop:NormHead", clips, [{"ema": ema}], TRAIN, VAL, **SETTINGS)
    history = fit_head(ours.head, clips, TRAIN, VAL, replace(ours.config, patience=1.0), ours.generator)
    norm = ours.head.classify[-1]  # type: ignore[index]
    best = max(range(3), key=lambda epoch: history[epoch]["val_score"])
    assert int(norm.num_batches_tracked) == (best + 1) * 5
    assert float(norm.running_mean.abs().max()) > 0
