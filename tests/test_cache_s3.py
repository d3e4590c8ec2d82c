"""A cache in an object store: an S3 server runs here, on this machine. All of it needs the extra `s3` and moto."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import fault_actions
import numpy as np
import pandas as pd
import pytest
from fault_actions import NUM_CLIPS, SPEC, actions, assert_kills_lose_nothing, content, make_cache, stopped_by_a_kill
from many_clips import TINY, check_equal, local_tokens, make_many_clips
from samples import make_spec, make_tokens

from mgcli.cache import (
    CacheError,
    FeatureCache,
    collect_garbage,
    compact,
    merge_cache,
    open_cache,
    remove_feature_set,
    verify_cache,
)
from mgcli.cache.place import remove_tree
from mgcli.extract import Shard, extract_modalities

pytest.importorskip("moto", reason="the S3 server of these tests is moto: pip install 'mgcli[dev]'")
pytest.importorskip("s3fs", reason="object stores need: pip install 'mgcli[s3]'")

_BUCKETS = count()


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    """The address of an S3 server of our own."""
    said = Path(os.environ.get("TMPDIR", "/tmp")) / f"mgcli-moto-{os.getpid()}.log"
    with said.open("wb") as log:
        server = subprocess.Popen([sys.executable, "-m", "moto.server", "-p", "0"], stdout=log, stderr=log)
    try:
        for _ in range(200):
            words = said.read_text().split()
            found = [word for word in words if word.startswith("http://127.0.0.1:")]
            if found:
                break
            assert server.poll() is None, said.read_text()
            time.sleep(0.1)
        yield found[0]
    finally:
        server.kill()
        server.wait()
        said.unlink()


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty bucket; the environment leads to it, as it would for a user."""
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()  # else an earlier one, with the endpoint of then, is used
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    name = f"bucket{next(_BUCKETS)}"
    request = urllib.request.Request(f"{s3_server}/{name}", method="PUT")
    urllib.request.urlopen(request).close()
    return f"s3://{name}"


def test_what_goes_in_comes_out(bucket: str) -> None:
    cache = open_cache(f"{bucket}/project/features", create=True, format="zarr")
    features = cache.create_feature_set(make_spec(), {"host": "here"})
    lengths = {f"c/{i} ü": 1 + i % 4 for i in range(9)}
    with features.writer() as writer:
        for i, (clip_id, length) in enumerate(lengths.items()):
            boxes = np.full((length, 4), i, np.float32)
            writer.add(clip_id, make_tokens(clip_id, length), source="7" * 16, aux={"boxes": boxes})
            if i % 3 == 2:
                writer.commit()
    reopened = open_cache(f"{bucket}/project/features").feature_set("video")
    wanted = list(lengths)[::-2]
    selection = reopened.select(wanted, sources=["7" * 16] * len(wanted))
    tokens, offsets = selection.load()
    np.testing.assert_array_equal(tokens, np.concatenate([make_tokens(each, lengths[each]) for each in wanted]))
    assert np.diff(offsets).tolist() == [lengths[each] for each in wanted]
    boxes = selection.load_companions("aux/boxes")
    assert boxes[offsets[:-1], 0].tolist() == [list(lengths).index(each) for each in wanted]
    assert selection.load_companions("valid").all()
    assert reopened.provenance == {"host": "here"}
    assert reopened.info()["parts"] == 3
    report = verify_cache(cache)
    assert report.ok, report.summary()
    assert (report.parts, report.count.clips) == (3, 9)


def test_single_clips_are_ranged_reads(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = open_cache(f"{bucket}/c", create=True, format="zarr")
    features = cache.create_feature_set(make_spec(dim=768))
    with features.writer() as writer:
        for i in range(50):
            writer.add(f"c{i}", make_tokens(f"c{i}", 40, 768))
    features.refresh()
    features.load(["c0"])
    asked: list[tuple[int, int]] = []
    fetch_ranges = __import__("mgcli.cache.part_zarr", fromlist=["fetch_ranges"]).fetch_ranges
    monkeypatch.setattr(
        "mgcli.cache.part_zarr.fetch_ranges", lambda file, ranges: asked.extend(ranges) or fetch_ranges(file, ranges)
    )
    np.testing.assert_array_equal(features.load(["c33"])[0], make_tokens("c33", 40, 768))
    assert [stop - start for start, stop in asked] == [40 * 768 * 4]


def test_a_part_without_its_last_object_is_not_seen(bucket: str) -> None:
    cache = open_cache(f"{bucket}/c", create=True, format="zarr")
    features = cache.create_feature_set(make_spec())
    for clip_id in "ab":
        with features.writer() as writer:
            writer.add(clip_id, make_tokens(clip_id))
    (features.parts()[1].path / "part.json").unlink()
    assert open_cache(f"{bucket}/c").feature_set("video").clips()["clip_id"].tolist() == ["a"]
    assert collect_garbage(cache).kept == 1
    assert len(collect_garbage(cache, age_s=-60.0).removed) == 1  # as if a minute had passed
    assert verify_cache(cache).ok


def test_compact_merge_and_rm(bucket: str, tmp_path: Path) -> None:
    local = make_cache(tmp_path / "local", "hdf5", range(6))
    cache = make_cache(f"{bucket}/c", "zarr", range(4, NUM_CLIPS))
    assert merge_cache(cache, local).copied[SPEC.name].entries == 4
    whole = content(f"{bucket}/c")
    assert compact(cache.named_set(SPEC.name)).parts_after == 1
    assert content(f"{bucket}/c") == whole
    assert verify_cache(cache).ok
    back = open_cache(tmp_path / "back", create=True)
    merge_cache(back, cache)
    assert content(tmp_path / "back") == whole
    assert back.read_clips("p").equals(local.read_clips("p"))
    remove_feature_set(cache, SPEC.fingerprint)
    assert cache.feature_sets() == []


def test_a_feature_set_that_was_half_removed_is_work_for_gc_alone(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = make_cache(f"{bucket}/c", "zarr", range(4))
    folder = cache.set_folder(SPEC.name)

    def stop_at_the_parts(path: Path) -> None:
        if path.name == "parts":
            raise KeyboardInterrupt
        remove_tree(path)

    with monkeypatch.context() as patch:
        patch.setattr("mgcli.cache.maintain.remove_tree", stop_at_the_parts)
        with pytest.raises(KeyboardInterrupt):
            remove_feature_set(cache, SPEC.name)
    assert cache.feature_sets() == []
    assert verify_cache(cache).ok
    assert collect_garbage(cache, age_s=-60.0).removed == [folder.name]
    make_cache(f"{bucket}/c", "zarr", range(4))
    remove_tree(folder / "spec.json")
    assert not verify_cache(cache).ok
    assert collect_garbage(cache, age_s=-60.0).removed == []


def test_several_processes_extract_into_an_object_store(bucket: str, tmp_path: Path) -> None:
    table = make_many_clips(tmp_path).iloc[::4]
    broken = table.assign(clip_id="gone/" + table["clip_id"], video=table["video"] + ".gone").iloc[::10]
    cache = open_cache(f"{bucket}/c", create=True, format="zarr")
    for index in range(2):
        share, both = Shard(index, 2), pd.concat([table, broken])
        extract_modalities(cache, both, ["video"], devices=["cpu"], shard=share, **TINY)
    check_equal(cache, local_tokens(table, tmp_path / "local"))
    assert sorted(cache.feature_set("video").failures()["clip_id"]) == sorted(broken["clip_id"])


def test_an_object_store_holds_zarr_and_says_so(bucket: str) -> None:
    with pytest.raises(CacheError, match="give --format zarr"):
        open_cache(f"{bucket}/c", create=True, format="hdf5")
    with pytest.raises(CacheError, match=r"no cache in s3://bucket\d+/c"):
        open_cache(f"{bucket}/c")


def test_a_store_that_does_not_answer_is_an_error_not_an_absence(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    import s3fs

    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(CacheError, match=r"the object store gives no access to s3://.*come from the environment"):
        open_cache(f"{bucket}/c")
    s3fs.S3FileSystem.clear_instance_cache()


def test_requests_that_the_store_refuses_for_now_are_made_again(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    store = DomainDispatcherApplication(create_backend_app)
    refused = [0]
    asked = count(1)

    def flaky(environment: Any, start_response: Any) -> Any:
        if next(asked) % 20 == 0:
            refused[0] += 1
            start_response("503 Slow Down", [("Content-Length", "0")])
            return [b""]
        return store(environment, start_response)

    server = make_server("127.0.0.1", 0, flaky, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        for _ in range(2):  # one of them may meet the refusal
            with suppress(urllib.error.HTTPError):
                name = f"http://127.0.0.1:{server.server_port}/flaky"
                urllib.request.urlopen(urllib.request.Request(name, method="PUT")).close()
        import s3fs

        s3fs.S3FileSystem.clear_instance_cache()
        cache = make_cache("s3://flaky/c", "zarr", range(6))
        found = content("s3://flaky/c")
        assert len(found) == 6
        assert verify_cache(cache).ok
        assert refused[0] > 2
    finally:
        server.shutdown()


def test_the_command_line_takes_a_url(bucket: str, tmp_path: Path) -> None:
    make_cache(f"{bucket}/deep/c", "zarr", range(3))
    done = subprocess.run(
        [sys.executable, "-m", "mgcli.cli", "cache", "verify", "--cache", f"{bucket}/deep/c"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "ok: 1 part(s), 3 clips checked" in done.stdout
    (tmp_path / "mgcli.toml").write_text(f'[cache]\npath = "{bucket}/deep/c"\n')
    done = subprocess.run(
        [sys.executable, "-m", "mgcli.cli", "cache", "info"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "3 clips" in done.stdout, done.stderr
    open_cache(tmp_path / "local", create=True)
    done = subprocess.run(
        [sys.executable, "-m", "mgcli.cli", "cache", "merge", f"{bucket}/deep/c", "--cache", "local"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "3 clips copied" in done.stdout, done.stderr


@pytest.mark.parametrize("kills", [2, pytest.param(24, marks=pytest.mark.faults)])
def test_a_kill_at_any_moment_loses_nothing(bucket: str, tmp_path: Path, kills: int) -> None:
    other = tmp_path / "other"
    make_cache(other, "zarr", range(5, NUM_CLIPS, 2))
    whole = content(make_cache(tmp_path / "whole", "zarr", range(NUM_CLIPS)).path)

    def kill(path: Path | str, name: str, rng: np.random.Generator) -> bool:
        return stopped_by_a_kill(actions(path, other)[name], float(rng.uniform(0.0, 2.0)))

    assert_kills_lose_nothing(
        lambda number: f"{bucket}/cache{number}", "zarr", other, whole, kill, kills=kills, kills_a_cache=6, seed=8
    )


@pytest.mark.parametrize("flips", [8, pytest.param(200, marks=pytest.mark.faults)])
def test_a_flipped_bit_that_changes_a_value_is_found(bucket: str, flips: int) -> None:
    rng = np.random.default_rng(9)
    cache = make_cache(f"{bucket}/c", "zarr", range(5))
    objects = sorted(str(each) for each in cache.path.glob("**/*") if each.is_file())
    healthy = content(f"{bucket}/c")
    assert verify_cache(cache).ok
    found = 0
    for i in range(flips):
        place = type(cache.path)(objects[i % len(objects)])
        whole = place.read_bytes()
        position = int(rng.integers(0, 8 * len(whole)))
        flipped = bytearray(whole)
        flipped[position // 8] ^= 1 << position % 8
        place.write_bytes(bytes(flipped))
        try:
            changed = content(f"{bucket}/c") != healthy
            ok = verify_cache(open_cache(f"{bucket}/c")).ok
        except CacheError:
            changed, ok = True, False
        assert not (changed and ok), f"bit {position} of {place}"
        found += not ok
        place.write_bytes(whole)
    assert found > flips / 2


def _write_some(path: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    features = open_cache(path).create_feature_set(SPEC)
    for number in rng.permutation(NUM_CLIPS)[: NUM_CLIPS // 2].tolist():
        with features.writer() as writer:
            if not features.has(f"clip {number:03d}", f"{number + 1:016x}"):
                fault_actions.add_clip(writer, number)
        features.refresh()


def _read_until(path: str, whole: dict[str, bytes], stop: multiprocessing.synchronize.Event) -> None:
    before: dict[str, bytes] = {}
    while not stop.is_set():
        after = content(path)
        assert before.items() <= after.items() <= whole.items()
        before = after


@pytest.mark.faults
def test_many_writers_and_readers_share_a_cache(bucket: str, tmp_path: Path) -> None:
    path = f"{bucket}/shared"
    make_cache(path, "zarr")
    whole = content(make_cache(tmp_path / "whole", "zarr", range(NUM_CLIPS)).path)
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    readers = [context.Process(target=_read_until, args=(path, whole, stop)) for _ in range(2)]
    writers = [context.Process(target=_write_some, args=(path, seed)) for seed in range(8)]
    for process in (*readers, *writers):
        process.start()
    for process in writers:
        process.join()
    fault_actions.write(path, range(NUM_CLIPS))
    compact(open_cache(path).create_feature_set(SPEC))
    stop.set()
    for process in readers:
        process.join()
    assert [process.exitcode for process in (*readers, *writers)] == [0] * 10
    assert content(path) == whole
    report = verify_cache(open_cache(path))
    assert report.ok
    assert report.duplicates == []


def test_a_feature_cache_knows_its_url(bucket: str) -> None:
    cache = open_cache(f"{bucket}/c/", create=True, format="zarr")
    assert isinstance(cache, FeatureCache)
    assert str(cache.path) == f"{bucket}/c"
