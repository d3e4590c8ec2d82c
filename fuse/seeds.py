"""The trainings of runs: one seed after another, or every seed of every run of one architecture together."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from mgcli.cache import Progress
from mgcli.fuse.data import ClipTensors
from mgcli.fuse.device import computing_on, num_threads, one_core_is_best, training_device
from mgcli.fuse.head import FittedHead, FusionHead, create_head
from mgcli.fuse.loop import Replica, fit_head
from mgcli.fuse.predict_clips import predict_probabilities, predict_stack
from mgcli.fuse.replicas import fit_replicas
from mgcli.fuse.residency import place_clips
from mgcli.fuse.selection import Selection
from mgcli.fuse.settings import TrainConfig, TrainError
from mgcli.fuse.stack_vmap import VmapStack, why_not_stacked
from mgcli.fuse.token_statistics import TokenStatistics, token_statistics
from mgcli.fuse.tracking import Tell
from mgcli.fuse.watch import LossNotFiniteError

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
    cores: int = 1  # of a CPU that it may use


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
        replicas: of REPLICAS; auto: on a GPU. On a CPU stacks of 5 to 16 took between 20 % less and 12 % more time
            than one after another (default sizes, one thread), and two side by side used both cores.

    Raises:
        TrainError: no such choice, or no such device.
    """
    check_replicas(replicas)
    if replicas == "off":
        return "replicas are off"
    if replicas == "auto" and num_trainings < 2:
        return "there is one"
    if replicas == "auto" and training_device(config.device).type == "cpu":
        return "on a CPU that is faster"
    with torch.random.fork_rng(devices=()):
        return why_not_stacked(create_head(head, dims, 2, config.head), dims)


def train_seeds(job: Job, replicas: str, progress: bool) -> list[Trained]:
    """The seeds of one run as they are finished, trained together or one by one as `why_one_by_one` has it."""
    if why_one_by_one(job.head, job.selection.tensors.dims, job.config, len(job.seeds), replicas):
        return list(train_one_by_one(job, progress))
    return [each for _, each in train_together([job], progress)]


def train_one_by_one(job: Job, progress: bool) -> Iterator[Trained]:
    """Seed after seed, or some of them side by side; the first that is stopped is the last."""
    device, selection, config = training_device(job.config.device), job.selection, job.config
    tensors, residency = place_clips(selection.tensors, device, config.residency, job.say)
    rows = _rows_of(selection, device)
    statistics = _statistics(selection.tensors, selection.rows("train"), job.say)
    batch_size, epochs = config.plan(len(rows["train"]))
    tokens_a_step = batch_size * tensors.tokens_a_clip
    at_once = _how_many_at_once(job, device, tokens_a_step)
    with (
        computing_on(device, tokens_a_step),
        Progress(f"train {job.label}", epochs * len(job.seeds), unit="epoch", shown=progress) as bar,
    ):
        lock, stop = threading.Lock(), threading.Event()

        def train(seed: int, head: FusionHead) -> Trained:
            done = 0

            def on_epoch(row: dict[str, float]) -> None:
                nonlocal done
                done += 1
                with lock:
                    job.tell(seed, row)
                    bar.step(f"seed {seed}, train {row['train_top1']:.3f}, val {row['val_top1']:.3f}")

            def on_step() -> None:
                if stop.is_set():
                    raise _StoppedError

            generator = torch.Generator(device).manual_seed(seed)
            try:
                history = fit_head(
                    head,
                    tensors,
                    rows["train"],
                    rows["val"],
                    config,
                    generator,
                    on_epoch=on_epoch,
                    on_step=on_step,
                    say=job.say,
                )
            except LossNotFiniteError as error:
                return Trained(seed, error.state, error.history, {}, 1, residency, error)
            with lock:
                bar.step(f"seed {seed} done", epochs - done)
            probabilities = {split: predict_probabilities(head, tensors, rows[split]) for split in SCORED_SPLITS}
            return Trained(seed, head.state_dict(), history, probabilities, 1, residency)

        # Fresh weights, and layers of a user's own head, draw from torch's global generator.
        with _own_chance(device):
            fresh = ((seed, _fresh_head(job, seed, statistics).to(device)) for seed in job.seeds)
            first_seed, head = next(fresh)
            if isinstance(head, FittedHead):  # no chance in it: one fit serves every seed
                trained = train(first_seed, head)
                yield from (replace(trained, seed=seed) for seed in job.seeds)
                return
            for trained in _in_turn(train, itertools.chain([(first_seed, head)], fresh), at_once, stop):
                yield trained
                if trained.error:
                    return


class _StoppedError(Exception):
    """A training that nobody waits for any more."""


def _how_many_at_once(job: Job, device: torch.device, tokens_a_step: float) -> int:
    """Seeds that are trained side by side, each in a thread of its own with one core.

    On a CPU a small step keeps one core busy and gains nothing from a second; another seed does. Heads that may draw
    from torch's global generator, which all threads share, are trained one after another.
    """
    if device.type != "cpu" or not one_core_is_best(tokens_a_step):
        return 1
    at_once = min(job.cores, len(job.seeds))
    if at_once > 1 and why_one_by_one(job.head, job.selection.tensors.dims, job.config, at_once, "on"):
        return 1
    return at_once


def _in_turn(
    train: Callable[[int, FusionHead], Trained],
    fresh: Iterator[tuple[int, FusionHead]],
    at_once: int,
    stop: threading.Event,
) -> Iterator[Trained]:
    """What becomes of each fresh head, in order; the next is made when one is over, and `stop` ends those under way."""
    if at_once == 1:
        yield from itertools.starmap(train, fresh)
        return
    with ThreadPoolExecutor(at_once) as pool:
        try:
            waiting = deque(pool.submit(train, *each) for each in itertools.islice(fresh, at_once))
            while waiting:
                trained = waiting.popleft().result()
                waiting.extend(pool.submit(train, *each) for each in itertools.islice(fresh, 1))
                yield trained
        finally:
            stop.set()


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
        computing_on(device, jobs[0].config.plan(len(rows[0]["train"]))[0] * tensors.tokens_a_clip),
        Progress(f"train {jobs[0].label}", total, unit="epoch", shown=progress) as bar,
    ):
        for place, (job, own) in enumerate(zip(jobs, rows, strict=True)):
            train = job.selection.rows("train")
            if train.tobytes() not in of_rows:
                of_rows[train.tobytes()] = _statistics(tensors, train, job.say)
            for seed in job.seeds:
                with _own_chance(device):
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
    stack = VmapStack(list(heads.values()), tensors.labels.device)
    of_split = {
        split: predict_stack(stack, stack.weights, tensors, [rows[number][split] for number in heads])
        for split in SCORED_SPLITS
    }
    return {number: {split: of_split[split][i] for split in SCORED_SPLITS} for i, number in enumerate(heads)}


def _statistics(tensors: ClipTensors, rows: np.ndarray, say: Callable[[str], None]) -> dict[str, TokenStatistics]:
    """What the tokens of the clips of `rows` look like, and which of their numbers no head will see."""
    with num_threads(1):
        found = token_statistics(tensors, torch.from_numpy(rows))
    for name, each in found.items():
        if each.num_dropped:
            say(
                f"{each.num_dropped} of {len(each.std)} numbers of the {name} tokens spread less than a millionth of "
                "the widest one: they are taken for rounding and left out; if they mean something, use other units"
            )
    return found


def _fresh_head(job: Job, seed: int, statistics: Mapping[str, TokenStatistics]) -> FusionHead:
    """The head that a seed begins with; sets torch's global generator."""
    torch.manual_seed(seed)
    head = create_head(job.head, job.selection.tensors.dims, len(job.selection.classes), job.config.head)
    head.set_statistics(statistics)
    return head


def _own_chance(device: torch.device) -> AbstractContextManager[None]:
    """Inside, torch's global generators may be set and drawn from; the caller's go on as if nothing had been."""
    return torch.random.fork_rng(devices=range(torch.cuda.device_count()) if device.type == "cuda" else ())


def _rows_of(selection: Selection, device: torch.device) -> dict[str, Tensor]:
    return {split: torch.from_numpy(selection.rows(split)).to(device) for split in ("train", *SCORED_SPLITS)}


def _teller(tell: Tell, seed: int, bar: Progress) -> Callable[[dict[str, float]], None]:
    def on_epoch(row: dict[str, float]) -> None:
        tell(seed, row)
        bar.step(f"epoch {row['epoch']}")

    return on_epoch
