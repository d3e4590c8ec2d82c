"""The trainings of runs: one seed after another, or every seed of every run of one architecture together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mgcli.cache import Progress
from mgcli.fuse.data import ClipTensors, TokenStatistics, token_statistics
from mgcli.fuse.device import threads_for, training_device
from mgcli.fuse.head import FittedHead, FusionHead, create_head
from mgcli.fuse.loop import LossNotFiniteError, fit_head, predict_probabilities
from mgcli.fuse.replicas import Replica, fit_replicas, predict_stack
from mgcli.fuse.residency import place_clips
from mgcli.fuse.selection import Selection
from mgcli.fuse.settings import TrainConfig, TrainError
from mgcli.fuse.stack import HeadStack, why_not_stacked
from mgcli.fuse.tracking import Tell

SCORED_SPLITS = ("val", "test")
REPLICAS = ("auto", "on", "off")  # whether trainings of one architecture are done together


@dataclass(frozen=True, kw_only=True)
class Job:
    """The trainings of one run."""

    head: str
    label: str
    selection: Selection
    seeds: Sequence[int]
    config: TrainConfig
    tell: Tell  # told of each epoch
    say: Callable[[str], None]  # told what does not fit, and so on


@dataclass(frozen=True)
class Trained:
    """What one seed gave; or what stopped it, with the best state until then."""

    seed: int
    state: dict[str, Tensor]
    history: list[dict[str, float]]
    probabilities: dict[str, np.ndarray]  # split -> (n, K)
    replicas: int  # trainings done together, itself included
    residency: str  # where the tokens lay, see `place_clips`
    error: LossNotFiniteError | None = None


def check_replicas(replicas: str) -> None:
    """Whether it is one of REPLICAS.

    Raises:
        TrainError: it is not.
    """
    if replicas not in REPLICAS:
        raise TrainError(f"replicas is {replicas!r}; it must be {', '.join(REPLICAS)}")


def why_one_by_one(
    head: str, dims: Mapping[str, int], config: TrainConfig, num_trainings: int, replicas: str = "auto"
) -> str:
    """Why so many trainings of one architecture are done one after another; empty where they are done together.

    Args:
        head: as in HEADS, or a user's own.
        dims: token width of each modality.
        config: of one of them.
        num_trainings: seeds of all runs.
        replicas: of REPLICAS; auto: on a GPU. On a CPU one after another took 10 to 25 % less
            processor time (default sizes, 5 and 16 trainings, one thread).

    Raises:
        TrainError: no such choice, or no such device.
    """
    check_replicas(replicas)
    if replicas == "off":
        return "replicas are off"
    if num_trainings < 2:
        return "there is one"
    if replicas == "auto" and training_device(config.device).type == "cpu":
        return "on a CPU that is faster"
    with torch.random.fork_rng(devices=()):
        return why_not_stacked(create_head(head, dims, 2, config.head), dims)


def train_one_by_one(job: Job, progress: bool) -> Iterator[Trained]:
    """Seed after seed; the first that is stopped is the last."""
    device, selection, config = training_device(job.config.device), job.selection, job.config
    tensors, residency = place_clips(selection.tensors, device, config.residency, job.say)
    rows = _rows_of(selection, device)
    statistics = token_statistics(selection.tensors, torch.from_numpy(selection.rows("train")))
    batch_size, epochs = config.plan(len(rows["train"]))
    with (
        threads_for(device, batch_size * tensors.tokens_a_clip),
        Progress(f"train {job.label}", epochs * len(job.seeds), unit="epoch", shown=progress) as bar,
    ):
        for seed in job.seeds:
            done = 0

            def on_epoch(row: dict[str, float], seed: int = seed) -> None:
                nonlocal done
                done += 1
                job.tell(seed, row)
                bar.step(f"seed {seed}, train {row['train_top1']:.3f}, val {row['val_top1']:.3f}")

            # Fresh weights, and layers of a user's own head, draw from torch's global generator.
            with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if device.type == "cuda" else ()):
                head = _fresh_head(job, seed, statistics).to(device)
                generator = torch.Generator(device).manual_seed(seed)
                try:
                    history = fit_head(head, tensors, rows["train"], rows["val"], config, generator, on_epoch)
                except LossNotFiniteError as error:
                    yield Trained(seed, error.state, error.history, {}, 1, residency, error)
                    return
            bar.step(f"seed {seed} done", epochs - done)
            probabilities = {split: predict_probabilities(head, tensors, rows[split]) for split in SCORED_SPLITS}
            if isinstance(head, FittedHead):  # no chance in it: one fit serves every seed
                yield from (
                    Trained(each, head.state_dict(), history, probabilities, 1, residency) for each in job.seeds
                )
                return
            yield Trained(seed, head.state_dict(), history, probabilities, 1, residency)


def train_together(jobs: Sequence[Job], progress: bool) -> Iterator[tuple[int, Trained]]:
    """Every seed of every job, as each is finished, with the place of its job.

    Args:
        jobs: of one architecture, whose selections share their tensors.
        progress: show how far the training is.
    """
    device, tensors = training_device(jobs[0].config.device), jobs[0].selection.tensors
    assert all(job.selection.tensors is tensors for job in jobs)
    of_rows: dict[bytes, dict[str, TokenStatistics]] = {}  # the same training clips look the same
    rows = [_rows_of(job.selection, device) for job in jobs]
    placed, residency = place_clips(tensors, device, jobs[0].config.residency, jobs[0].say)
    owners, replicas = [], []
    total = sum(job.config.plan(len(own["train"]))[1] * len(job.seeds) for job, own in zip(jobs, rows, strict=True))
    with (
        threads_for(device, jobs[0].config.plan(len(rows[0]["train"]))[0] * tensors.tokens_a_clip),
        Progress(f"train {jobs[0].label}", total, unit="epoch", shown=progress) as bar,
    ):
        for place, (job, own) in enumerate(zip(jobs, rows, strict=True)):
            train = job.selection.rows("train")
            if train.tobytes() not in of_rows:
                of_rows[train.tobytes()] = token_statistics(tensors, torch.from_numpy(train))
            for seed in job.seeds:
                with torch.random.fork_rng(devices=()):
                    head = _fresh_head(job, seed, of_rows[train.tobytes()])
                owners.append((place, seed))
                replicas.append(
                    Replica(
                        head=head,
                        train_rows=own["train"],
                        val_rows=own["val"],
                        config=job.config,
                        generator=torch.Generator(device).manual_seed(seed),
                        on_epoch=_teller(job.tell, seed, bar),
                    )
                )
        for ended in fit_replicas(replicas, placed, say=jobs[0].say):
            probabilities = _predict_together(
                {each.number: replicas[each.number].head for each in ended if not each.error},
                placed,
                {each.number: rows[owners[each.number][0]] for each in ended},
            )
            for each in ended:
                place, seed = owners[each.number]
                bar.step("", jobs[place].config.plan(len(rows[place]["train"]))[1] - len(each.history))
                state = each.error.state if each.error else replicas[each.number].head.state_dict()
                found = probabilities.get(each.number, {})
                yield place, Trained(seed, state, each.history, found, each.stack_size, residency, each.error)


def _predict_together(
    heads: Mapping[int, FusionHead], tensors: ClipTensors, rows: Mapping[int, Mapping[str, Tensor]]
) -> dict[int, dict[str, np.ndarray]]:
    """Number -> split -> (n, K) class probabilities of trained heads."""
    if not heads:
        return {}
    stack = HeadStack(list(heads.values()), tensors.labels.device)
    of_split = {
        split: predict_stack(stack, stack.weights, tensors, [rows[number][split] for number in heads])
        for split in SCORED_SPLITS
    }
    return {number: {split: of_split[split][i] for split in SCORED_SPLITS} for i, number in enumerate(heads)}


def _fresh_head(job: Job, seed: int, statistics: Mapping[str, TokenStatistics]) -> FusionHead:
    """The head that a seed begins with; sets torch's global generator."""
    torch.manual_seed(seed)
    head = create_head(job.head, job.selection.tensors.dims, len(job.selection.classes), job.config.head)
    head.set_statistics(statistics)
    return head


def _rows_of(selection: Selection, device: torch.device) -> dict[str, Tensor]:
    return {split: torch.from_numpy(selection.rows(split)).to(device) for split in ("train", *SCORED_SPLITS)}


def _teller(tell: Tell, seed: int, bar: Progress) -> Callable[[dict[str, float]], None]:
    def on_epoch(row: dict[str, float]) -> None:
        tell(seed, row)
        bar.step(f"epoch {row['epoch']}")

    return on_epoch
