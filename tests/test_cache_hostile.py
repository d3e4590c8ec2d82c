"""Parts and places that nobody should have made: each is refused with a reason, or read as it is meant."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from samples import FORMATS, make_spec, make_tokens

from mgcli.cache import CacheError, FeatureCache, FeatureSet, compact, open_cache, verify_cache
from mgcli.cache.part import ClipTokens, array_checksum, attributes_checksum, pack_clips, part_class

Arrays = dict[str, np.ndarray]


def write_part(features: FeatureSet, change: Callable[[Arrays, dict[str, Any]], None]) -> None:
    """A part of two clips, spoilt by a writer that keeps its checksums right."""
    tokens = {clip_id: make_tokens(clip_id) for clip_id in "ab"}
    clips = [
        ClipTokens(clip_id, 0, 0, each, np.zeros(3, np.float32), np.ones(3, bool), {}, array_checksum(each))
        for clip_id, each in tokens.items()
    ]
    arrays, attributes = pack_clips(clips, features.spec.fingerprint)
    change(arrays, attributes)
    attributes["crc32c"] = {name: array_checksum(array) for name, array in arrays.items() if name != "tokens"}
    attributes["checksum"] = attributes_checksum(attributes)
    kind = part_class(features.format)
    (features.path / "parts").mkdir(exist_ok=True)
    kind.write(features.path / "parts" / f"00000-12345678{kind.suffix}", arrays, attributes)


def long_offsets(arrays: Arrays, _: dict[str, Any]) -> None:
    arrays["offset"] = np.array([0, 3, 60], np.int64)


def falling_offsets(arrays: Arrays, _: dict[str, Any]) -> None:
    arrays["offset"] = np.array([0, 7, 6], np.int64)


def negative_offsets(arrays: Arrays, _: dict[str, Any]) -> None:
    arrays["offset"] = np.array([-3, 3, 6], np.int64)


def few_ids(arrays: Arrays, _: dict[str, Any]) -> None:
    arrays["clip_id"] = arrays["clip_id"][:1]


def wide(arrays: Arrays, _: dict[str, Any]) -> None:
    arrays["tokens"] = np.zeros((6, 5), np.float32)


def of_doubles(arrays: Arrays, _: dict[str, Any]) -> None:
    arrays["tokens"] = arrays["tokens"].astype(np.float64)


def newer(_: Arrays, attributes: dict[str, Any]) -> None:
    attributes["format_version"] = 2


@pytest.mark.parametrize(
    ("change", "reads", "verifies"),
    [
        (long_offsets, "offsets do not fit its rows", "offsets do not divide the rows"),
        (falling_offsets, "offsets do not rise", "offsets do not divide the rows"),
        (negative_offsets, "offsets do not fit its rows", "offsets do not divide the rows"),
        (few_ids, "offsets do not fit its rows", "wrong shape or type"),
        (wide, r"its tokens are \(6, 5\) of float32, not \(6, 4\) of float32", "tokens are ((6, 5)"),
        (of_doubles, r"its tokens are \(6, 4\) of float64, not \(6, 4\) of float32", "dtype('<f8')"),
        (newer, "has format version 2; this mgcli reads version 1. Upgrade with", "format version 2"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_spoilt_part_is_refused_and_reported(
    cache: FeatureCache, change: Callable[[Arrays, dict[str, Any]], None], reads: str, verifies: str
) -> None:
    features = cache.create_feature_set(make_spec())
    write_part(features, change)
    with pytest.raises(CacheError, match=reads):
        features.load(["a"])
    [problem] = verify_cache(cache).problems
    assert verifies in problem.problem
    assert problem.damaged == (change is not newer)


def test_an_id_twice_in_one_part_is_reported_and_the_first_counts(cache: FeatureCache) -> None:
    features = cache.create_feature_set(make_spec())

    def twice(arrays: Arrays, _: dict[str, Any]) -> None:
        arrays["clip_id"] = np.array(["a", "a"], dtype=object)

    write_part(features, twice)
    np.testing.assert_array_equal(features.load(["a"])[0], make_tokens("a"))
    assert len(features) == 1
    [problem] = verify_cache(cache).problems
    assert (problem.clip_id, problem.problem) == ("a", "is in this part twice")
    compact(features)
    assert verify_cache(cache).ok
    np.testing.assert_array_equal(features.load(["a"])[0], make_tokens("a"))


def test_files_of_other_programs_among_the_parts_are_left_alone(cache: FeatureCache) -> None:
    features = cache.create_feature_set(make_spec())
    with features.writer() as writer:
        writer.add("a", make_tokens("a"))
    for name in ("notes.txt", ".DS_Store", "Thumbs.db", "00000-copy.h5.bak", "lost+found"):
        (features.path / "parts" / name).write_text("not ours")
    assert open_cache(cache.path).feature_set("video").clips()["clip_id"].tolist() == ["a"]
    assert verify_cache(cache).ok
    compact(features)
    assert (features.path / "parts" / "notes.txt").exists()


READ_WITHOUT_US = """
import hashlib, sys
from pathlib import Path
import h5py, zarr

path = Path(sys.argv[1])
group = h5py.File(path, "r") if path.suffix == ".h5" else zarr.open_group(path, mode="r")
ids = [each.decode() if isinstance(each, bytes) else str(each) for each in group["clip_id"][:]]
offset = group["offset"][:]
i = ids.index(sys.argv[2])
tokens = group["tokens"][int(offset[i]) : int(offset[i + 1])]
assert not any(name.split(".")[0] == "mgcli" for name in sys.modules)
print(tokens.dtype, tokens.shape, hashlib.sha256(tokens.tobytes()).hexdigest())
"""


@pytest.mark.parametrize("compacted", [False, True])
def test_a_program_without_mgcli_reads_the_same_tokens(cache: FeatureCache, tmp_path: Path, compacted: bool) -> None:
    features = cache.create_feature_set(make_spec(dtype="float16"))
    for i in range(3):
        with features.writer() as writer:
            writer.add(f"clip {i} ü", make_tokens(f"clip {i}", 4 + i))
    if compacted:
        compact(features)
    [part] = features.clips().query("clip_id == 'clip 2 ü'")["part"]
    copy = tmp_path / part
    source = features.path / "parts" / part
    shutil.copytree(source, copy) if source.is_dir() else shutil.copy(source, copy)
    done = subprocess.run(
        [sys.executable, "-c", READ_WITHOUT_US, str(copy), "clip 2 ü"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    tokens, _ = features.load(["clip 2 ü"])
    assert done.stdout.split(maxsplit=1)[0] == "float16"
    assert done.stdout.split()[-1] == hashlib.sha256(np.ascontiguousarray(tokens).tobytes()).hexdigest()


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_where_the_cache_should_be_is_refused(tmp_path: Path, format: str) -> None:
    (tmp_path / "features").write_text("a file")
    with pytest.raises(CacheError, match="is a file; choose a folder"):
        open_cache(tmp_path / "features", create=True, format=format)
