"""The plain loop that stage two is timed against: what a training script on top of common tools does.

A torch `DataLoader` with workers, each of which opens the HDF5 files with h5py and reads a clip when it is asked for
it; float32; padding to the longest clip of a batch. Head, loss, optimiser, schedule and number of steps are ours.

# Shapes: B batch, N tokens, D token width.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from mgcli.cache import FeatureSet
from mgcli.fuse.data import Batch
from mgcli.fuse.head import FusionHead
from mgcli.fuse.loss import Loss
from mgcli.fuse.optimise import learning_rate_share
from mgcli.fuse.settings import TrainConfig

_Place = tuple[Path, int, int]  # a part's file, first row, one past the last row
_Item = tuple[dict[str, tuple[Tensor, Tensor, Tensor]], int]  # modality -> tokens, validity, times; and the label
_Padded = tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor], Tensor]  # what a loader can lock in memory


def train_plainly(
    head: FusionHead,
    feature_sets: Mapping[str, FeatureSet],
    clip_ids: Mapping[str, Sequence[str]],
    labels: Mapping[str, Tensor],
    config: TrainConfig,
    *,
    workers: int,
    device: torch.device,
) -> tuple[list[float], float]:
    """Train a head, and validate it after each epoch.

    Args:
        head: fresh, with its input statistics set, on the device.
        feature_sets: modality -> its tokens, in HDF5 parts on a local disk.
        clip_ids: train and val -> the clips.
        labels: train and val -> (n,) int64.
        config: how to train.
        workers: processes of the data loader.
        device: where the head is.

    Returns:
        Seconds of each epoch, and the share of validation clips that the last state gets right.
    """
    batch_size, epochs = config.plan(len(clip_ids["train"]))
    places = {name: _places(each) for name, each in feature_sets.items()}
    loaders = {
        split: DataLoader(
            _PlainClips({name: [place[clip_id] for clip_id in clip_ids[split]] for name, place in places.items()}, y),
            batch_size=batch_size,
            shuffle=split == "train",
            num_workers=workers,
            collate_fn=_collate,
            persistent_workers=workers > 0,
            pin_memory=device.type == "cuda",
        )
        for split, y in labels.items()
    }
    loss_function = Loss.of(labels["train"].to(device), head, config)
    matrices, vectors = ([each for each in head.parameters() if (each.ndim > 1) is wide] for wide in (True, False))
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)
    num_steps = epochs * math.ceil(len(clip_ids["train"]) / batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_share(step, num_steps, config.warmup)
    )
    seconds, right = [], 0.0
    for _ in range(epochs):
        started = time.perf_counter()
        head.train()
        for padded in loaders["train"]:
            batch = _on(padded, device)
            targets = torch.nn.functional.one_hot(batch.labels, head.num_classes).float()
            loss = loss_function(head(batch.tokens, batch.mask, batch.time), batch.mask, targets)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(head.parameters(), config.grad_clip)
            optimizer.step()
            schedule.step()
        right = _validate(head, loaders["val"], device)
        seconds.append(time.perf_counter() - started)
    return seconds, right / len(clip_ids["val"])


@torch.inference_mode()
def _validate(head: FusionHead, loader: DataLoader[_Item], device: torch.device) -> float:
    head.eval()
    right = 0.0
    for padded in loader:
        batch = _on(padded, device)
        right += float((head(batch.tokens, batch.mask, batch.time).logits.argmax(dim=1) == batch.labels).sum())
    return right


class _PlainClips(Dataset[_Item]):
    """One clip at a time, read when it is asked for."""

    def __init__(self, places: Mapping[str, Sequence[_Place]], labels: Tensor) -> None:
        self._places = places
        self._labels = labels.tolist()
        self._files: dict[Path, h5py.File] = {}  # each worker opens its own

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, row: int) -> _Item:
        read = {}
        for name, places in self._places.items():
            path, first, last = places[row]
            if path not in self._files:
                self._files[path] = h5py.File(path, "r")
            file: Any = self._files[path]
            tokens = torch.from_numpy(file["tokens"][first:last].astype(np.float32))  # (N, D)
            time_s = torch.from_numpy(file["time_s"][first:last])  # (N,)
            span = (time_s[-1] - time_s[0]).clamp_min(1e-6)
            read[name] = (tokens, torch.from_numpy(file["valid"][first:last]), (time_s - time_s[0]) / span)
        return read, self._labels[row]


def _places(features: FeatureSet) -> dict[str, _Place]:
    """Where each clip lies in the parts of a feature set."""
    places: dict[str, _Place] = {}
    for part in features.parts():
        with h5py.File(part.path, "r") as file:
            clip_ids, offset = file["clip_id"].asstr()[:], file["offset"][:].tolist()
        places |= {clip_id: (part.path, *rows) for clip_id, rows in zip(clip_ids, pairwise(offset), strict=True)}
    return places


def _collate(items: Sequence[_Item]) -> _Padded:
    """Padded on the right to the longest."""
    padded = {
        name: [pad_sequence([read[name][kind] for read, _ in items], batch_first=True) for kind in range(3)]
        for name in items[0][0]
    }
    tokens, mask, at = ({name: each[kind] for name, each in padded.items()} for kind in range(3))
    return tokens, mask, at, torch.tensor([label for _, label in items])


def _on(padded: _Padded, device: torch.device) -> Batch:
    *parts, labels = padded
    tokens, mask, at = (
        {name: each.to(device, non_blocking=True) for name, each in part.items()}
        for part in parts
        if isinstance(part, dict)
    )
    return Batch(tokens, mask, at, labels.to(device, non_blocking=True))
