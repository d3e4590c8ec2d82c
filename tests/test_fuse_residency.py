"""Where tokens lie while a head is trained changes how long that takes, and no number."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from planted import QUICK, planted_cache
from samples import make_spec

from mgcli.cache import FeatureCache, check_clip_table, open_cache
from mgcli.fuse import TrainConfig, TrainError, evaluate_run, predict_run, train_head
from mgcli.fuse.data import BatchList, ClipTensors
from mgcli.fuse.identity import run_key
from mgcli.fuse.load import load_clips
from mgcli.fuse.residency import place_clips
from mgcli.fuse.token_statistics import token_statistics


def ragged_cache(path: Path, format: str, dtype: str = "float16") -> FeatureCache:
    """Clips of 1 to 9 tokens in several parts, some with an augmented view, some without the modality."""
    rng = np.random.default_rng(0)
    cache = open_cache(path, create=True, format=format)
    features = cache.create_feature_set(make_spec(dtype=dtype, reads="imported", weights="imported", dim=6, views=1))
    with features.writer() as writer:
        for i in range(40):
            if i % 7 == 3:
                continue
            for view in range(1 + i % 2):
                writer.add(f"c{i}", rng.standard_normal((1 + i % 9, 6)), view=view)
            if i % 10 == 9:
                writer.commit()
    return cache


def ragged_clips(path: Path, format: str, dtype: str, *, fits: bool, max_tokens: int = 5) -> ClipTensors:
    cache = ragged_cache(path, format, dtype)
    rows = {"clip_id": [f"c{i}" for i in range(40)], "split": "train", "subject_id": "s", "gesture": 0}
    table = check_clip_table(pd.DataFrame(rows))
    sets = {"video": cache.feature_set("video")}
    return load_clips(sets, table, np.zeros(40, np.int64), max_tokens, 1, lambda num_bytes: fits)


@pytest.mark.parametrize("format", ["hdf5", "zarr"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_a_batch_is_the_same_wherever_its_tokens_lie(tmp_path: Path, format: str, dtype: str) -> None:
    resident = ragged_clips(tmp_path / "a", format, dtype, fits=True)
    mapped = ragged_clips(tmp_path / "b", format, dtype, fits=False)
    assert (resident.mapped, mapped.mapped) == (False, True)
    assert resident.num_bytes == mapped.num_bytes
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    views = torch.arange(40) % 2
    for rows in (order[:16], order[16:], torch.tensor([3]), torch.tensor([5, 5, 4])):
        one, other = (
            each.batch(rows, views=views[rows], jitter=torch.Generator().manual_seed(1)) for each in (resident, mapped)
        )
        assert one.tokens["video"].dtype == other.tokens["video"].dtype
        assert torch.equal(one.mask["video"], other.mask["video"])
        assert torch.equal(one.time["video"], other.time["video"])
        assert torch.equal(one.tokens["video"], other.tokens["video"])
    known = torch.tensor([i for i in range(40) if i % 7 != 3])
    one_statistics, other_statistics = (token_statistics(each, known)["video"] for each in (resident, mapped))
    assert torch.equal(one_statistics.mean, other_statistics.mean)
    assert torch.equal(one_statistics.axes, other_statistics.axes)


def test_batches_are_gathered_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = ragged_clips(tmp_path, "hdf5", "float16", fits=False)
    gathered: list[int] = []
    plain = ClipTensors.batch
    monkeypatch.setattr(ClipTensors, "batch", lambda self, rows: (gathered.append(len(rows)), plain(self, rows))[1])
    batches = BatchList(clips, torch.arange(40), 16)
    assert (len(batches), gathered) == (3, [])
    assert torch.equal(batches[1].tokens["video"], plain(clips, torch.arange(16, 32)).tokens["video"])
    assert (sum(len(each.labels) for each in batches), gathered) == (40, [16, 16, 16, 8])
    assert not BatchList(clips, torch.arange(0), 16)


@pytest.mark.parametrize(
    ("head", "option"),
    [
        ("cross_modal_token_fusion", {}),
        ("gated", {"max_tokens": 3}),
        ("gated", {"mixup": 0.5, "token_dropout": 0.2}),
        ("logistic", {}),
    ],
)
def test_mapped_and_resident_trainings_have_the_same_history(
    tmp_path: Path, head: str, option: dict[str, float]
) -> None:
    cache = planted_cache(tmp_path / "features", missing=0.2)
    config = replace(QUICK, **option)  # type: ignore[arg-type]
    resident, mapped = (
        train_head(cache, "gesture", head=head, seeds=1, config=replace(config, residency=kind), runs=tmp_path / "runs")
        for kind in ("auto", "mapped")
    )
    assert (resident.config["residency"], mapped.config["residency"]) == ("device", "mapped")
    for file in ("history.csv", "predictions.csv", "head-seed0.safetensors"):
        assert (resident.path / file).read_bytes() == (mapped.path / file).read_bytes(), file


def test_a_cache_larger_than_memory_is_read_as_it_goes(
    planted: FeatureCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    resident = train_head(planted, "gesture", seeds=1, config=QUICK, runs=tmp_path / "runs")
    assert "do not fit" not in capsys.readouterr().err
    monkeypatch.setattr("mgcli.fuse.residency.free_ram_bytes", lambda: 20_000.0)  # of 122,880 of tokens
    mapped = train_head(planted, "gesture", seeds=1, config=QUICK, runs=tmp_path / "runs")
    said = capsys.readouterr().err
    assert said.count("do not fit into the free memory: they are read from the cache in every epoch") == 1
    assert mapped.config["residency"] == "mapped"
    assert (mapped.path / "history.csv").read_bytes() == (resident.path / "history.csv").read_bytes()
    assert evaluate_run(mapped, planted).metrics == resident.metrics["test"]
    assert len(predict_run(mapped, planted)) == 240


def test_without_a_gpu_pinned_is_in_memory_as_device_is(planted: FeatureCache, tmp_path: Path) -> None:
    config = replace(QUICK, residency="pinned", device="cpu")
    assert (
        train_head(planted, "gesture", seeds=1, config=config, runs=tmp_path / "runs").config["residency"] == "device"
    )


def test_where_tokens_lie_is_no_part_of_what_decides_a_run() -> None:
    keys = {
        run_key("gesture", "gated", {"video": ("a", "b")}, "c", TrainConfig(residency=kind), [0])  # type: ignore[arg-type]
        for kind in ("auto", "device", "mapped")
    }
    assert len(keys) == 1


def test_an_unknown_residency_is_refused() -> None:
    with pytest.raises(TrainError, match="residency is 'disk'; it must be auto, device, pinned, mapped"):
        TrainConfig(residency="disk")  # type: ignore[arg-type]


def test_placing_clips_says_nothing_where_they_are_as_asked(tmp_path: Path) -> None:
    said: list[str] = []
    mapped = ragged_clips(tmp_path, "hdf5", "float16", fits=False)
    assert place_clips(mapped, torch.device("cpu"), "mapped", said.append)[1] == "mapped"
    assert said == []


@pytest.mark.parametrize("size", [7, 16, 64])
def test_how_long_the_batches_of_an_epoch_are_is_known_at_once(tmp_path: Path, size: int) -> None:
    clips = ragged_clips(tmp_path, "hdf5", "float16", fits=True, max_tokens=16)
    order = torch.stack([torch.randperm(40, generator=torch.Generator().manual_seed(seed)) for seed in range(2)])
    lengths = clips.longest(order, size)
    parts = order.split(size, dim=1)
    assert len(lengths) == len(parts)
    for part, longest in zip(parts, lengths, strict=True):
        rows = part.flatten()
        batch, padded = clips.batch(rows), clips.batch(rows, longest=longest)
        assert padded.mask["video"].shape[1] == longest["video"] >= batch.mask["video"].shape[1]
        assert torch.equal(padded.tokens["video"][padded.mask["video"]], batch.tokens["video"][batch.mask["video"]])
