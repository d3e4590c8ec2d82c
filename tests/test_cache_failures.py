"""`failures.csv` of a run, of shards, and of many processes at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from samples import FORMATS, make_spec

from mgcli.cache import Failure, FeatureCache, FeatureSet, collect_garbage, open_cache


@pytest.fixture
def features(cache: FeatureCache) -> FeatureSet:
    return cache.create_feature_set(make_spec())


def failed(features: FeatureSet) -> list[str]:
    return sorted(features.failures()["clip_id"])


def at_once(tasks: Sequence[Callable[[], object]]) -> None:
    """Run some functions side by side; the first error is raised."""
    start = threading.Barrier(len(tasks))
    errors: list[BaseException] = []

    def run(task: Callable[[], object]) -> None:
        start.wait()
        try:
            task()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(task,)) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_a_run_replaces_the_list(features: FeatureSet) -> None:
    assert failed(features) == []
    features.write_failures([Failure("ä, 1", "open", 'no "file"\nthere'), Failure("b", "decode", "")])
    assert [tuple(row) for row in features.failures().to_numpy()] == [
        ("ä, 1", "open", 'no "file"\nthere'),
        ("b", "decode", ""),
    ]
    features.write_failures([])
    assert failed(features) == []


def test_each_shard_replaces_its_own_share_only(features: FeatureSet) -> None:
    features.write_failures([Failure("0", "open", "x")], (0, 2))
    features.write_failures([Failure("1", "open", "x"), Failure("1b", "open", "x")], (1, 2))
    assert failed(features) == ["0", "1", "1b"]
    features.write_failures([], (1, 2))
    assert failed(features) == ["0"]


def test_a_run_that_is_split_otherwise_or_not_at_all_begins_anew(features: FeatureSet) -> None:
    features.write_failures([Failure("0", "open", "x")], (0, 2))
    features.write_failures([Failure("2", "open", "x")], (2, 3))
    assert failed(features) == ["2"]
    features.write_failures([Failure("all", "open", "x")])
    assert failed(features) == ["all"]
    features.write_failures([Failure("1", "open", "x")], (1, 3))
    assert failed(features) == ["1"]


def test_shards_that_end_at_the_same_moment_lose_nothing(features: FeatureSet) -> None:
    for attempt in range(8):
        shares = [[Failure(f"{attempt}-{index}", "open", "x")] for index in range(6)]
        at_once([lambda i=i, share=share: features.write_failures(share, (i, 6)) for i, share in enumerate(shares)])
        assert failed(features) == sorted(f"{attempt}-{index}" for index in range(6))


def test_garbage_of_a_killed_shard_is_collected(features: FeatureSet, cache: FeatureCache) -> None:
    features.write_failures([Failure("0", "open", "x")], (0, 2))
    (features.path / "failures" / ".tmp-12345678-1-of-2.csv").touch()
    assert len(collect_garbage(cache, age_s=-60.0).removed) == 1
    assert failed(features) == ["0"]


@pytest.mark.parametrize("format", FORMATS)
def test_many_processes_may_make_the_same_cache_at_once(format: str, tmp_path: Path) -> None:
    for attempt in range(20):
        at_once([lambda a=attempt: open_cache(tmp_path / f"{a}", create=True, format=format)] * 6)
