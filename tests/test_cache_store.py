"""Opening, listing, committing, resuming; what a reader sees and what it never sees."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from samples import as_plain_user, make_spec, make_table, make_tokens

from mgcli.cache import (
    CacheError,
    Failure,
    FeatureCache,
    check_clip_table,
    open_cache,
    remove_feature_set,
    verify_cache,
)


def test_a_fingerprint_changes_with_every_field() -> None:
    base = make_spec()
    changes = {
        "modality": "context",
        "backbone": "other",
        "reads": "skeleton",
        "weights": "random:1",
        "weights_sha256": "ab",
        "tokens": "full",
        "dim": 5,
        "dtype": "float16",
        "precision": "bfloat16",
        "sampling": {"num_frames": 8},
        "transform": {"size_px": 256},
        "views": 1,
    }
    prints = {make_spec(**{name: value}).fingerprint for name, value in changes.items()} | {base.fingerprint}
    assert len(prints) == len(changes) + 1
    assert make_spec().fingerprint == base.fingerprint


def test_odd_backbone_names_make_plain_folders() -> None:
    assert make_spec(backbone="timm:vit/b 16").name.startswith("video--timm_vit_b_16--")


def test_only_committed_parts_are_seen(cache: FeatureCache) -> None:
    features = cache.create_feature_set(make_spec())
    with features.writer() as writer:
        writer.add("a", make_tokens("a"))
        writer.commit()
        assert features.has("a", "0")
        writer.add("b", make_tokens("b"))
        assert not features.has("b", "0")
    [first, second] = sorted((features.path / "parts").iterdir())
    if cache.format == "zarr":
        (second / "part.json").unlink()
    else:
        second.rename(second.with_name(f".tmp-{second.name}"))
    reopened = open_cache(cache.path).feature_set("video")
    assert reopened.clips()["clip_id"].tolist() == ["a"]
    assert first.name.startswith("00000-")
    assert verify_cache(cache).ok


def test_the_writer_commits_whole_clips_when_the_run_breaks(cache: FeatureCache) -> None:
    features = cache.create_feature_set(make_spec())

    def interrupted_run() -> None:
        with features.writer() as writer:
            writer.add("a", make_tokens("a"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted_run()
    assert features.has("a", "0")


def test_parts_close_at_their_size(cache: FeatureCache) -> None:
    features = cache.create_feature_set(make_spec())
    with features.writer(part_bytes=3 * 4 * 4 * 2) as writer:
        for i in range(6):
            writer.add(f"c{i}", make_tokens(f"c{i}"))
            writer.commit_if_due()
    assert [part.attributes["clips"] for part in features.parts()] == [2, 2, 2]


def test_the_first_part_wins_and_verify_reports_the_other(cache: FeatureCache) -> None:
    features = cache.create_feature_set(make_spec())
    for seed in (0, 1):
        with features.writer() as writer:
            writer.add("a", make_tokens("a", seed=seed))
    tokens, _ = features.load(["a"])
    np.testing.assert_array_equal(tokens, make_tokens("a", seed=0))
    report = verify_cache(cache)
    assert report.ok
    assert [problem.clip_id for problem in report.duplicates] == ["a"]


def test_a_stale_entry_is_not_read_when_the_table_names_its_source(cache: FeatureCache) -> None:
    features = cache.create_feature_set(make_spec())
    with features.writer() as writer:
        writer.add("a", make_tokens("a", seed=0), source="a" * 16)
        writer.add("a", make_tokens("a", seed=1), source="b" * 16)
    tokens, _ = features.load(["a"], sources=["b" * 16])
    np.testing.assert_array_equal(tokens, make_tokens("a", seed=1))
    with pytest.raises(CacheError, match="'a' has tokens of several sources"):
        features.load(["a"])
    with pytest.raises(CacheError, match="no tokens of 1 clip"):
        features.load(["a"], sources=["c" * 16])


def test_a_changed_spec_opens_a_set_of_its_own(cache: FeatureCache) -> None:
    for tokens in ("time", "full"):
        features = cache.create_feature_set(make_spec(tokens=tokens))
        with features.writer() as writer:
            writer.add("a", make_tokens("a"))
    assert len(cache.feature_sets()) == 2
    with pytest.raises(CacheError, match=r"2 feature sets of 'video'; choose one with --features video="):
        cache.feature_set("video")
    fingerprint = make_spec(tokens="full").fingerprint
    assert cache.feature_set("video", fingerprint[:6]).spec.tokens == "full"
    with pytest.raises(CacheError, match="no feature set of 'video' is named 'zzz'"):
        cache.feature_set("video", "zzz")
    with pytest.raises(CacheError, match=r"no tokens of 'pose' .*it holds: video.*mgcli extract --modality pose"):
        cache.feature_set("pose")


def test_info_counts_clips_tokens_and_bytes(cache: FeatureCache) -> None:
    features = cache.create_feature_set(make_spec())
    with features.writer() as writer:
        writer.add("a", make_tokens("a", 3))
        writer.add("b", make_tokens("b", 5))
    features.write_failures([Failure("c", "decode", 'broken, "quoted"\nfile')])
    [info] = open_cache(cache.path).info()["feature_sets"]
    assert (info["clips"], info["tokens"], info["dim"], info["dtype"]) == (2, 8, 4, "float32")
    assert info["format"] == cache.format
    assert info["bytes"] > 8 * 4 * 4
    assert info["failures"] == 1
    json.dumps(info)


def test_remove_deletes_one_set(cache: FeatureCache) -> None:
    for tokens in ("time", "full"):
        cache.create_feature_set(make_spec(tokens=tokens))
    remove_feature_set(cache, make_spec(tokens="full").fingerprint)
    assert [each.spec.tokens for each in cache.feature_sets()] == ["time"]
    with pytest.raises(CacheError, match="0 feature sets fit 'nothing'"):
        remove_feature_set(cache, "nothing")


def test_the_newest_clip_table_of_a_protocol_is_read(cache: FeatureCache) -> None:
    with pytest.raises(CacheError, match="no clip table"):
        cache.read_clips()
    old, new = make_table(6), make_table(8)
    first = cache.write_clips(old, "my protocol")
    os.utime(first, ns=(1, 1))
    cache.write_clips(new, "my protocol")
    assert len(cache.read_clips("my_protocol")) == 8
    os.utime(cache.write_clips(old, "my protocol"))
    assert len(cache.read_clips("my_protocol")) == 6
    pd.testing.assert_frame_equal(
        cache.read_clips("my_protocol"), check_clip_table(old), check_like=True, check_dtype=False
    )


def test_a_table_without_sources_keeps_those_of_stage_one(cache: FeatureCache) -> None:
    plain = make_table(6)
    with_sources = plain.assign(video_source="ab" * 8)
    first = cache.write_clips(with_sources, "p")
    assert cache.write_clips(plain, "p") == first
    assert set(cache.read_clips("p")["video_source"]) == {"ab" * 8}


def test_bad_cache_paths_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(CacheError, match="is a file; choose a folder"):
        open_cache(file, create=True)
    with pytest.raises(CacheError, match=r"no cache in .*absent"):
        open_cache(tmp_path / "absent")
    with pytest.raises(CacheError, match="holds other files"):
        open_cache(tmp_path, create=True)
    with pytest.raises(CacheError, match="unknown cache format 'csv'; known: hdf5, zarr"):
        open_cache(tmp_path / "c", create=True, format="csv")


def test_a_newer_format_says_upgrade(cache: FeatureCache) -> None:
    features = cache.create_feature_set(make_spec())
    with features.writer() as writer:
        writer.add("a", make_tokens("a"))
    marker = cache.path / "mgcache.json"
    marker.write_text(marker.read_text().replace('"format_version": 1', '"format_version": 2'))
    with pytest.raises(CacheError, match=r"format version 2; this mgcli reads version 1. Upgrade with"):
        open_cache(cache.path)


def test_a_hand_edited_spec_is_refused_and_reported(cache: FeatureCache) -> None:
    features = cache.create_feature_set(make_spec())
    file = features.path / "spec.json"
    file.write_text(file.read_text().replace("random:0", "random:1"))
    with pytest.raises(CacheError, match="it was edited"):
        cache.feature_sets()
    report = verify_cache(cache)
    assert not report.ok
    assert "edited" in report.problems[0].problem


def test_a_changed_byte_of_any_clip_is_found(cache: FeatureCache) -> None:
    features = cache.create_feature_set(make_spec(dim=64))
    with features.writer() as writer:
        for clip_id in ("a", "b"):
            writer.add(clip_id, make_tokens(clip_id, 4, 64))
    [file] = [path for path in features.path.rglob("*") if path.name.endswith(".h5") or path.match("tokens/c/0/0")]
    content = bytearray(file.read_bytes())
    where = content.index(make_tokens("b", 4, 64).tobytes()[:64]) + 10
    content[where] ^= 1
    file.write_bytes(content)
    report = verify_cache(cache)
    assert not report.ok
    assert [(problem.clip_id, problem.problem) for problem in report.problems] == [
        ("b", "tokens do not match their checksum")
    ]


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9])
def test_a_truncated_part_is_found(cache: FeatureCache, keep: float) -> None:
    features = cache.create_feature_set(make_spec(dim=64))
    with features.writer() as writer:
        writer.add("a", make_tokens("a", 40, 64))
    file = max((path for path in features.path.rglob("parts/**/*") if path.is_file()), key=lambda f: f.stat().st_size)
    os.truncate(file, int(file.stat().st_size * keep))
    report = verify_cache(cache)
    assert not report.ok
    assert report.problems[0].part.startswith(features.name)


def test_a_folder_without_write_permission_says_so() -> None:
    with tempfile.TemporaryDirectory() as name:  # tmp_path lies in a folder that only its user may enter
        folder = Path(name)
        features = open_cache(folder / "c", create=True).create_feature_set(make_spec())
        with features.writer() as writer:
            writer.add("a", make_tokens("a"))
        writer.add("b", make_tokens("b"))
        for each in (folder, folder / "c", features.path, features.path / "parts"):
            each.chmod(0o555)
        with as_plain_user():
            with pytest.raises(CacheError, match="no permission to write"):
                open_cache(folder / "d", create=True)
            with pytest.raises(CacheError, match=r"no permission to write .*parts; make it writable"):
                writer.commit()
        for each in (folder, folder / "c", features.path, features.path / "parts"):
            each.chmod(0o755)
        assert features.clips()["clip_id"].tolist() == ["a"]


def test_a_full_disk_is_refused_before_anything_is_written(
    cache: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = cache.create_feature_set(make_spec())
    writer = features.writer()
    writer.add("a", make_tokens("a"))
    monkeypatch.setattr("mgcli.cache.durable.shutil.disk_usage", lambda _: type("Usage", (), {"free": 10})())
    with pytest.raises(CacheError, match=r"no space left while writing .*; what was committed is safe. Make space"):
        writer.commit()
    assert list((features.path / "parts").iterdir()) == []


def test_opening_a_cache_imports_no_torch(cache: FeatureCache) -> None:
    code = (
        "import sys; from mgcli.cache import open_cache; "
        f"open_cache({str(cache.path)!r}).info(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
