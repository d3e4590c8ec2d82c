"""Replicas: heads that are trained together are the heads that each training alone would give."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from planted import planted_cache
from torch import Tensor, nn

from mgcli.cache import FeatureCache
from mgcli.fuse import HEADS, HeadOutput, Run, TrainConfig, TrainError, create_head, make_config
from mgcli.fuse.ablate import train_cells
from mgcli.fuse.data import ClipTensors, ModalityTokens
from mgcli.fuse.device import computing_on
from mgcli.fuse.grid import make_grid, plan_cells
from mgcli.fuse.head_baselines import Concat
from mgcli.fuse.loop import Fitted, Replica, fit_head
from mgcli.fuse.plan import make_plan
from mgcli.fuse.replicas import fit_replicas
from mgcli.fuse.reproduce import reproduce_run
from mgcli.fuse.seeds import why_one_by_one
from mgcli.fuse.stack_vmap import VmapStack, why_not_stacked
from mgcli.fuse.token_statistics import token_statistics

DIMS = {"video": 12, "pose": 10}
STACKABLE = [name for name in HEADS if name not in ("logistic", "constant")]
TINY: dict[str, Any] = {"width": 16, "num_heads": 2, "rank": 8, "batch_size": 16}
# Together, these use every setting that may differ between replicas.
OPTIONS: list[dict[str, Any]] = [
    {},
    {"learning_rate": 3e-3, "weight_decay": 0.2, "ema": 0.97, "dropout": 0.3},
    {"mixup": 0.5, "token_dropout": 0.2, "dropout": 0.0, "warmup": 0.3},
    {"sampling": "balanced", "label_smoothing": 0.0, "grad_clip": 0.2},
    {"class_balance": "effective", "effective_beta": 0.9, "modality_dropout": 0.3, "aux_weight": 0.5},
    {"class_balance": "logits", "epochs": 3, "patience": 0.1},
]


class ColdHead(Concat):
    """A user's head with torch's own dropout, which draws from torch's global generator."""

    def __init__(self, dims: Any, num_classes: int, config: Any) -> None:
        super().__init__(dims, num_classes, config)
        self.classify.insert(1, nn.Dropout(0.5))


class OwnHead(Concat):
    """A user's head that a stack can take, with a frozen and an unused parameter, and one under two names."""

    def __init__(self, dims: Any, num_classes: int, config: Any) -> None:
        super().__init__(dims, num_classes, config)
        self.frozen = nn.Parameter(torch.ones(num_classes, 2), requires_grad=False)
        self.unused = nn.Parameter(torch.ones(3, 3))
        self.scale = nn.Parameter(torch.ones(()))
        self.again = self.scale

    def forward(self, tokens: Any, mask: Any, time: Any) -> HeadOutput:
        logits = super().forward(tokens, mask, time).logits
        return HeadOutput(logits * self.scale * self.again + self.frozen.sum(dim=1))


class BatchNormHead(Concat):
    """A user's head with a buffer that each pass moves."""

    def __init__(self, dims: Any, num_classes: int, config: Any) -> None:
        super().__init__(dims, num_classes, config)
        self.classify.insert(0, nn.BatchNorm1d(sum(dims.values())))


def make_clips(dims: dict[str, int], num_clips: int, num_tokens: int = 7, views: int = 1) -> ClipTensors:
    """Clips of 1 to `num_tokens` tokens, some thinned, some without a modality, that say a little of their class."""
    rng = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (num_clips,), generator=rng)
    modalities = {}
    for name, dim in dims.items():
        count = torch.randint(1, num_tokens + 1, (num_clips, views), generator=rng)
        count[torch.rand(num_clips, generator=rng) < 0.1] = 0
        start = nn.functional.pad(count.flatten().cumsum(0), (1, 0))[:-1].view_as(count)
        shown = labels[:, None].expand_as(count).flatten().repeat_interleave(count.flatten())
        tokens = torch.randn(len(shown), dim, generator=rng) + torch.randn(4, dim, generator=rng)[shown]
        valid, time = torch.rand(2, len(shown), generator=rng)
        modalities[name] = ModalityTokens(tokens, valid < 0.9, time, start, count)
    return ClipTensors(modalities, labels, max_tokens=5)


def even_clips(dims: dict[str, int], num_clips: int, num_tokens: int = 5) -> ClipTensors:
    """Clips that all have as many tokens, as those of one backbone mostly do."""
    rng = torch.Generator().manual_seed(0)
    rows = num_clips * num_tokens
    start, count = torch.arange(0, rows, num_tokens)[:, None], torch.full((num_clips, 1), num_tokens)
    tokens = {name: torch.randn(rows, dim, generator=rng) for name, dim in dims.items()}
    valid, time = torch.ones(rows, dtype=torch.bool), torch.rand(rows, generator=rng)
    modalities = {name: ModalityTokens(each, valid, time, start, count) for name, each in tokens.items()}
    return ClipTensors(modalities, torch.randint(4, (num_clips,), generator=rng), max_tokens=8)


def make_replicas(
    name: str,
    clips: ClipTensors,
    options: Sequence[dict[str, Any]],
    train: Tensor,
    val: Tensor,
    generators: type[torch.Generator] = torch.Generator,
    **settings: Any,
) -> list[Replica]:
    """One for each of the options, each with a seed and weights of its own; the heads are on the CPU."""
    statistics = token_statistics(clips, train)
    made = []
    for seed, own in enumerate(options):
        config = make_config(settings | own)
        torch.manual_seed(seed)
        head = create_head(name, clips.dims, 4, config.head)
        head.set_statistics(statistics)
        generator = generators()
        generator.manual_seed(seed)
        made.append(
            Replica(
                head=head,
                train_rows=train.to(generator.device),
                val_rows=val.to(generator.device),
                config=config,
                generator=generator,
                on_epoch=lambda row: None,
            )
        )
    return made


def fit_alone(replica: Replica, clips: ClipTensors) -> list[dict[str, float]]:
    each = replica
    return fit_head(each.head, clips, each.train_rows, each.val_rows, each.config, each.generator)


def fit_together(replicas: Sequence[Replica], clips: ClipTensors, **settings: Any) -> dict[int, Fitted]:
    return {each.number: each for ended in fit_replicas(replicas, clips, **settings) for each in ended}


def check_equal(alone: Sequence[Replica], together: Sequence[Replica], clips: ClipTensors, rows: Tensor) -> None:
    """The bar: logits within 1e-3 of the largest, the same class for 99.9 % of the clips."""
    batch = clips.batch(rows)
    errors, same = [], []
    for one, other in zip(alone, together, strict=True):
        with torch.no_grad():
            expected, found = (r.head.eval()(batch.tokens, batch.mask, batch.time).logits for r in (one, other))
        errors.append(float((found - expected).abs().max() / expected.abs().max()))
        same.append(float((found.argmax(dim=1) == expected.argmax(dim=1)).float().mean()))
    print(", ".join(f"{error:.2g}" for error in errors), f"same {sum(same) / len(same):.4%}")  # shown by pytest -s
    assert max(errors) < 1e-3
    assert sum(same) / len(same) >= 0.999


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As a run has for steps of this size; several cut the sums of one head otherwise than those of many."""
    with computing_on(torch.device("cpu"), 100):
        yield


def check_same_bits(one: Replica, other: Replica) -> None:
    for name, value in one.head.state_dict().items():
        assert torch.equal(other.head.state_dict()[name], value), name


OWN = ("test_fuse_replicas:OwnHead", "test_fuse_replicas:BatchNormHead")


@pytest.mark.parametrize(("name", "views"), [*((name, 1) for name in (*STACKABLE, *OWN)), ("concat", 3)])
def test_replicas_are_what_each_is_alone(name: str, views: int) -> None:
    dims = {"video": 12} if name == "single" else DIMS
    clips = make_clips(dims, 100, views=views)
    train, val = torch.arange(40), torch.arange(40, 100)
    settings = TINY | {"epochs": 4, "min_steps": 1}
    assert not why_not_stacked(make_replicas(name, clips, OPTIONS[:1], train, val, **settings)[0].head, dims)
    alone, together = (make_replicas(name, clips, OPTIONS, train, val, **settings) for _ in range(2))
    histories = [fit_alone(each, clips) for each in alone]
    fitted = fit_together(together, clips)
    for number, history in enumerate(histories):
        pd.testing.assert_frame_equal(pd.DataFrame(fitted[number].history), pd.DataFrame(history), atol=1e-4, rtol=1e-4)
    check_equal(alone, together, clips, val)


@pytest.mark.parametrize("name", [name for name in STACKABLE if name != "single"])
def test_replicas_that_are_shown_other_modalities(name: str) -> None:
    """A whole ablation of modalities is one stack; a head that hides nothing may be the first or not."""
    clips = make_clips(DIMS, 100)
    train, val = torch.arange(40), torch.arange(40, 100)
    options = [{"without": "pose"}, {}, {"without": "video"}, {"without": "pose"}]
    alone, together = (
        make_replicas(name, clips, options, train, val, **TINY | {"epochs": 3, "min_steps": 1}) for _ in range(2)
    )
    for each in alone:
        fit_alone(each, clips)
    fit_together(together, clips)
    check_equal(alone, together, clips, val)


@pytest.mark.slow
def test_sixteen_replicas_are_what_each_is_alone_through_a_whole_training() -> None:
    """Run with: pytest -s -m slow tests/test_fuse_replicas.py"""
    clips = make_clips(DIMS, 300, views=2)
    train, val = torch.arange(100), torch.arange(100, 300)
    options = [*OPTIONS, *OPTIONS, *OPTIONS[:4]]
    alone, together = (make_replicas("cross_modal_token_fusion", clips, options, train, val) for _ in range(2))
    histories = [fit_alone(each, clips) for each in alone]
    fitted = fit_together(together, clips)
    assert [len(fitted[number].history) for number in range(16)] == [len(history) for history in histories]
    assert len({len(history) for history in histories}) > 1  # some were stopped early
    check_equal(alone, together, clips, val)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_sixteen_replicas_are_to_the_bit_what_each_is_in_a_stack_of_its_own_through_a_whole_training() -> None:
    """As `--replicas on` trains a single one, on clips of one length; run as the one above."""
    clips = even_clips(DIMS, 300)
    train, val = torch.arange(100), torch.arange(100, 300)
    options = [*OPTIONS, *OPTIONS, *OPTIONS[:4]]
    alone, together = (make_replicas("cross_modal_token_fusion", clips, options, train, val) for _ in range(2))
    for each in alone:
        fit_together([each], clips)
    fit_together(together, clips)
    check_equal(alone, together, clips, val)
    for one, other in zip(alone, together, strict=True):
        check_same_bits(one, other)


def test_what_a_loss_does_not_read_stays_as_it_is() -> None:
    clips = make_clips(DIMS, 40)
    train, val = torch.arange(20), torch.arange(20, 40)
    name, settings = "test_fuse_replicas:OwnHead", TINY | {"epochs": 2, "min_steps": 1}
    both = make_replicas(name, clips, OPTIONS[:2], train, val, **settings)
    fit_together(both, clips)
    for each in both:
        state = each.head.state_dict()
        assert torch.equal(state["unused"], torch.ones(3, 3))
        assert torch.equal(state["frozen"], torch.ones(4, 2))
        assert torch.equal(state["scale"], state["again"])
        assert float(state["scale"]) != 1


def test_a_replica_whose_loss_is_not_finite_leaves_the_others_alone() -> None:
    clips = make_clips(DIMS, 60)
    train, val = torch.arange(30), torch.arange(30, 60)
    options = [{}, {"learning_rate": 1e30, "grad_clip": 1e30}, {"learning_rate": 2e-3}]
    settings = TINY | {"epochs": 8, "min_steps": 1}
    alone, together = (make_replicas("concat", clips, options, train, val, **settings) for _ in range(2))
    fitted = fit_together(together, clips)
    with pytest.raises(TrainError, match="the loss is not a finite number from step") as stopped:
        fit_alone(alone[1], clips)
    assert str(fitted[1].error) == str(stopped.value)
    assert fitted[1].error is not None
    assert fitted[1].error.history == stopped.value.history  # type: ignore[attr-defined]
    for number in (0, 2):
        fit_alone(alone[number], clips)
        assert fitted[number].error is None
    check_equal(alone[::2], together[::2], clips, val)


def test_a_full_gpu_halves_the_stack_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    clips = make_clips(DIMS, 60)
    train, val = torch.arange(30), torch.arange(30, 60)
    settings = TINY | {"epochs": 3, "min_steps": 1}
    alone, together = (make_replicas("concat", clips, OPTIONS, train, val, **settings) for _ in range(2))
    gradient = VmapStack.gradient

    def scarce(stack: VmapStack, *words: Any) -> Any:
        if len(stack) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return gradient(stack, *words)

    monkeypatch.setattr(VmapStack, "gradient", scarce)
    told: list[str] = []
    fitted = fit_together(together, clips, say=told.append)
    assert told == ["the GPU has no room for 6 trainings together; going on with fewer"]
    assert {each.stack_size for each in fitted.values()} <= {1, 2}
    for each in alone:
        fit_alone(each, clips)
    check_equal(alone, together, clips, val)


def test_training_clips_that_differ_in_number_make_stacks_of_their_own() -> None:
    clips = make_clips(DIMS, 60)
    splits = [(torch.arange(n), torch.arange(n, 60)) for n in (30, 20, 30)]
    settings = TINY | {"epochs": 2, "min_steps": 1}
    alone, together = (
        [
            make_replicas("concat", clips, [own], *split, **settings)[0]
            for own, split in zip(OPTIONS[:3], splits, strict=True)
        ]
        for _ in range(2)
    )
    fitted = fit_together(together, clips)
    assert [fitted[number].stack_size for number in range(3)] == [2, 1, 2]
    for each in alone:
        fit_alone(each, clips)
    check_equal(alone, together, clips, torch.arange(60))


# Grids and runs


@pytest.mark.parametrize(
    ("head", "replicas", "why"),
    [
        ("concat", "on", ""),
        ("concat", "off", "replicas are off"),
        ("concat", "auto", "on a CPU that is faster"),
        ("logistic", "on", "it is fitted in one go, without steps"),
        ("test_fuse_replicas:ColdHead", "on", "torch.func.vmap cannot run it: "),
        ("test_fuse_replicas:OwnHead", "on", ""),
    ],
)
def test_what_cannot_be_stacked_says_why(head: str, replicas: str, why: str) -> None:
    found = why_one_by_one(head, DIMS, TrainConfig(device="cpu"), 2, replicas)
    assert found.startswith(why)
    assert bool(found) == bool(why)


def test_a_choice_that_there_is_not_is_refused() -> None:
    with pytest.raises(TrainError, match="replicas is 'yes'; it must be auto, on, off"):
        why_one_by_one("concat", DIMS, TrainConfig(), 2, "yes")


GRID: dict[str, Any] = {
    "head": ["concat", "logistic", "test_fuse_replicas:ColdHead"],
    "seeds": 2,
    "folds": 2,
    "options": {"epochs": [2], "min_steps": [1], "width": [8], "dropout": [0.0, 0.2]},
}


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    return planted_cache(tmp_path / "features", num_train=48, num_test=24, num_subjects=(6, 6))


def test_a_grid_is_the_same_together_and_one_by_one(cache: FeatureCache, tmp_path: Path) -> None:
    table = cache.read_clips()
    cells = plan_cells(cache, "gesture", make_grid(GRID), table)
    plan = make_plan(cache, cells, tmp_path / "on", 1, "on")
    assert [len(group) for group in plan.groups] == [4, 4, 4]
    assert [bool(why) for why in plan.one_by_one] == [False, True, True]
    assert "group 1: concat on pose" in plan.text().replace("video", "pose")
    assert "8 training(s), together" in plan.text()
    assert "8 training(s), one by one: it is fitted in one go" in plan.text()
    for replicas in ("on", "off"):
        outcome = train_cells(cache, "gesture", cells, table, tmp_path / replicas, processes=1, replicas=replicas)
        assert len(outcome.done) == len(cells) == 12
    for cell in cells:
        on, off = (Run.load(tmp_path / replicas / cell.name) for replicas in ("on", "off"))
        pd.testing.assert_frame_equal(on.predictions(), off.predictions(), atol=1e-4)
        assert off.config["replicas"] == 1
        assert on.config["replicas"] == (8 if cell.head == "concat" else 1)


def test_what_a_head_is_not_shown_does_not_part_a_group(cache: FeatureCache, tmp_path: Path) -> None:
    options = {"epochs": [2], "min_steps": [1], "width": [8], "without": ["", "pose", "video"]}
    table = cache.read_clips()
    cells = plan_cells(cache, "gesture", make_grid({"head": "concat", "seeds": 1, "options": options}), table)
    outcome = train_cells(cache, "gesture", cells, table, tmp_path, processes=1, replicas="on")
    runs = [Run.load(tmp_path / cell.name) for cell in outcome.done]
    assert [run.config["replicas"] for run in runs] == [3, 3, 3]
    assert len({run.predictions().to_csv() for run in runs}) == 3


def test_one_cell_that_diverges_fails_alone(cache: FeatureCache, tmp_path: Path) -> None:
    options = GRID["options"] | {"dropout": [0.1], "learning_rate": [1e-3, 1e30], "grad_clip": [1e30]}
    table = cache.read_clips()
    cells = plan_cells(cache, "gesture", make_grid({"head": "concat", "seeds": 2, "options": options}), table)
    outcome = train_cells(cache, "gesture", cells, table, tmp_path / "runs", processes=1, replicas="on")
    assert [cell.config.learning_rate for cell in outcome.done] == [1e-3]
    (why,) = outcome.failed.values()
    assert why.startswith("seed 0: the loss is not a finite number from step")


def test_a_run_of_replicas_is_reproduced_in_a_stack_of_its_own(cache: FeatureCache, tmp_path: Path) -> None:
    grid = make_grid(GRID | {"head": ["concat"], "seeds": 1})
    cells = plan_cells(cache, "gesture", grid, cache.read_clips())
    train_cells(cache, "gesture", cells, cache.read_clips(), tmp_path, processes=1, replicas="on")
    run = Run.load(tmp_path / cells[0].name)
    assert run.config["replicas"] == len(cells) == 4
    report = reproduce_run(run, cache, progress=False)
    assert report.ok
    assert report.within_rounding
    assert report.same_bits or "4 trainings were done together then, 1 now" in report.text()
    spoilt = replace(report, probability=0.5, same_scores=False, states={0: 1.0})
    assert not spoilt.ok
    assert "4 trainings" not in spoilt.text()


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("even", [False, True])
def test_a_training_in_a_stack_hangs_on_no_other(even: bool) -> None:
    """On a CPU to the bit, or nearly: clips of unlike lengths are padded to the longest of a batch of all replicas."""
    clips = even_clips(DIMS, 100) if even else make_clips(DIMS, 100, views=2)
    train, val = torch.arange(40), torch.arange(40, 100)
    settings = TINY | {"epochs": 4, "min_steps": 1}
    one, three, six = (
        make_replicas("cross_modal_token_fusion", clips, OPTIONS[:size], train, val, **settings) for size in (1, 3, 6)
    )
    for stack in (one, three, six):
        fit_together(stack, clips)
    for stack in (one, three):
        for own, other in zip(stack, six, strict=False):
            if even:
                check_same_bits(own, other)
            for name, value in own.head.state_dict().items():
                torch.testing.assert_close(other.head.state_dict()[name], value, atol=1e-6, rtol=1e-6)
