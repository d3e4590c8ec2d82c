"""Damage that a reader must not pass on, and refusals of the system that are no damage."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from samples import FORMATS, as_plain_user, make_spec, make_table, make_tokens
from typer.testing import CliRunner

from mgcli.cache import (
    CacheError,
    Failure,
    FeatureCache,
    FeatureSet,
    collect_garbage,
    compact,
    export_features,
    merge_cache,
    open_cache,
    verify_cache,
)
from mgcli.cache.part import open_part
from mgcli.cli import app

KEEP = "keep a copy, delete the"


def fill(cache: FeatureCache, ids: str, **changes: object) -> FeatureSet:
    """A feature set with one part a clip, each with times, validity and boxes."""
    features = cache.create_feature_set(make_spec(**changes))
    for clip_id in ids:
        with features.writer() as writer:
            writer.add(
                clip_id,
                make_tokens(clip_id, dim=features.spec.dim),
                time_s=np.arange(3, dtype=np.float32),
                valid=np.array([True, False, True]),
                aux={"boxes": np.full((3, 4), 7, np.float32)},
            )
    return features


def move_part(source: FeatureSet, target: FeatureSet) -> Path:
    """Copy the one part of a feature set into the folder of another, as a hand would."""
    [part] = source.parts()
    copy = target.path / "parts" / part.name
    shutil.copytree(part.path, copy) if part.path.is_dir() else shutil.copy(part.path, copy)
    return copy


def uses(cache: FeatureCache, tmp_path: Path) -> dict[str, Callable[[], object]]:
    """Everything that takes tokens out of the one feature set of `tiny`, by name."""
    [name] = [each.name for each in cache.set_folders() if "--tiny--" in each.name]
    other = open_cache(tmp_path / "other", create=True)
    return {
        "load": lambda: cache.named_set(name).load(["a"]),
        "compact": lambda: compact(cache.named_set(name)),
        "merge": lambda: merge_cache(other, cache),
        "export": lambda: export_features(cache, name, tmp_path / "out.h5", "share", progress=False),
    }


@pytest.mark.parametrize("many_parts", [False, True], ids=["", "with an index file"])
def test_a_part_of_another_feature_set_is_refused_and_named(
    cache: FeatureCache, tmp_path: Path, many_parts: bool
) -> None:
    ours = fill(cache, "abcdefghijklmnopqr" if many_parts else "b")
    assert len(cache.named_set(ours.name)) == (18 if many_parts else 1)
    assert (ours.path / "index.h5").exists() == many_parts
    theirs = fill(cache, "a", backbone="other")
    copy = move_part(theirs, ours)
    before = sorted(path.name for path in copy.parent.iterdir())
    said = f"{copy} belongs to fingerprint {theirs.spec.fingerprint}, not to {ours.spec.fingerprint}: move it out"
    for name, use in uses(cache, tmp_path).items():
        with pytest.raises(CacheError) as caught:
            use()
        assert said in str(caught.value), name
    assert sorted(path.name for path in copy.parent.iterdir()) == before
    report = verify_cache(cache)
    assert [problem.part for problem in report.problems] == [f"{ours.name}/{copy.name}"]
    assert said in report.summary()
    assert KEEP not in report.summary()
    shutil.rmtree(copy) if copy.is_dir() else copy.unlink()
    assert verify_cache(cache).ok
    cache.named_set(ours.name).load(["b"])


@pytest.mark.parametrize("of_before", [False, True])
def test_an_index_file_of_another_feature_set_or_of_before_is_not_believed(
    cache: FeatureCache, of_before: bool
) -> None:
    ours, theirs = fill(cache, "abcdefghijklmnop"), fill(cache, "ABCDEFGHIJKLMNOP", backbone="other")
    for features in (ours, theirs):
        assert len(cache.named_set(features.name)) == 16
    shutil.copy(theirs.path / "index.h5", ours.path / "index.h5")
    if of_before:  # its parts' fingerprints were not looked at
        with h5py.File(ours.path / "index.h5", "r+") as index:
            index.attrs["version"], index.attrs["fingerprint"] = 1, ours.spec.fingerprint
    for part in theirs.parts():
        shutil.move(part.path, ours.path / "parts" / part.name)
    with pytest.raises(CacheError, match=f"belongs to fingerprint {theirs.spec.fingerprint}"):
        cache.named_set(ours.name).load(["A"])


def damage_bytes(part: Path, pattern: bytes) -> None:
    """Flip one bit of a part where these bytes lie, without its library."""
    files = [part] if part.is_file() else [path for path in part.rglob("*") if path.is_file()]
    [(file, content)] = [(each, each.read_bytes()) for each in files if pattern in each.read_bytes()]
    spoilt = bytearray(content)
    spoilt[content.index(pattern) + len(pattern) - 1] ^= 1
    file.write_bytes(spoilt)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("time_s", np.array([0.5, 1.25, 2.125], np.float32)),
        ("valid", np.array([True, False, True] * 6)),
        ("aux/boxes", np.full((18, 4), 7, np.float32)),
    ],
)
def test_damage_beside_the_tokens_is_refused_and_never_passed_on(
    cache: FeatureCache, tmp_path: Path, name: str, values: np.ndarray
) -> None:
    features = cache.create_feature_set(make_spec())
    num_tokens = len(values)
    beside = {"time_s": np.linspace(5, 6, num_tokens, dtype=np.float32), "valid": np.ones(num_tokens, bool)}
    beside["aux/boxes"] = np.zeros((num_tokens, 4), np.float32)
    beside[name] = values
    for clip_id in "ab":
        with features.writer() as writer:
            writer.add(
                clip_id,
                make_tokens(clip_id, num_tokens),
                time_s=beside["time_s"],
                valid=beside["valid"],
                aux={"boxes": beside["aux/boxes"]},
            )
    part = features.parts()[0].path
    damage_bytes(part, values.tobytes())
    said = f"part {part}: its array {name} does not match its checksum; run mgcli cache verify"
    for use, action in uses(cache, tmp_path).items():
        if use == "load":
            action()  # the tokens are sound
            continue
        with pytest.raises(CacheError) as caught:
            action()
        assert said in str(caught.value), use
    selection = cache.named_set(features.name).select(["a"])
    with pytest.raises(CacheError, match="does not match its checksum"):
        selection.load_companions(name)
    assert part.exists()
    assert not (tmp_path / "out.h5").exists()
    assert "array" in verify_cache(cache).problems[0].problem


def test_a_feature_set_that_lost_its_spec_is_reported_and_never_collected(cache: FeatureCache) -> None:
    features = fill(cache, "ab")
    spec = features.path / "spec.json"
    kept = spec.read_bytes()
    spec.unlink()
    left = features.path / "parts" / ".tmp-1234-00009-ab.h5"
    left.write_bytes(b"x")
    assert collect_garbage(cache, age_s=-60.0).removed == [left.relative_to(cache.path).as_posix()]
    assert len(list((features.path / "parts").iterdir())) == 2
    report = verify_cache(cache)
    [problem] = report.problems
    assert (problem.part, problem.problem) == (
        features.name,
        "has parts but no spec.json: restore it from a copy, or extract again with the same settings",
    )
    assert KEEP not in report.summary()
    spec.write_bytes(kept)
    assert verify_cache(cache).ok
    spec.unlink()
    cache.create_feature_set(features.spec)  # as an extraction with the same settings does
    assert verify_cache(cache).ok
    assert len(cache.feature_set("video")) == 2


DAMAGED_TABLES = [b"", b"\xff\xfe\0junk", b'a,b\n"', b"clip_id,stage\nx,y,z,w,v\n", b"one,two\n1,2\n"]


@pytest.mark.parametrize("content", DAMAGED_TABLES)
def test_a_damaged_list_of_failures_counts_as_empty(cache: FeatureCache, content: bytes) -> None:
    features = fill(cache, "a")
    features.write_failures([Failure("x", "open", "gone")], (0, 2))
    (features.path / "failures.csv").write_bytes(content)
    assert features.info()["failures"] == 0
    (features.path / "failures" / "0-of-2.csv").write_bytes(content)
    features.write_failures([Failure("y", "open", "gone")], (1, 2))
    assert features.failures()["clip_id"].tolist() == ["y"]


@pytest.mark.parametrize("content", DAMAGED_TABLES)
def test_a_damaged_clip_table_is_refused_and_not_copied(cache: FeatureCache, tmp_path: Path, content: bytes) -> None:
    fill(cache, "a")
    table = cache.write_clips(make_table(), "p")
    table.write_bytes(content)
    other = open_cache(tmp_path / "other", create=True)
    for use in (cache.read_clips, lambda: merge_cache(other, cache)):
        with pytest.raises(
            CacheError, match=r"clips/p--.* does not hold what its name says: .* Restore it from a copy"
        ):
            use()
    assert other.clip_tables() == []
    assert other.set_folders() == []
    [problem] = verify_cache(cache).problems
    assert "does not hold what its name says" in problem.problem
    table.unlink()
    cache.write_clips(make_table(), "p")
    assert cache.read_clips()["clip_id"].tolist() == make_table()["clip_id"].tolist()


@pytest.mark.parametrize("format", FORMATS)
def test_a_part_that_may_not_be_read_is_not_called_damaged(format: str) -> None:
    with tempfile.TemporaryDirectory() as name:  # tmp_path lies in a folder that only its user may enter
        Path(name).chmod(0o755)
        cache = open_cache(Path(name) / "c", create=True, format=format)
        features = fill(cache, "ab")
        part = features.parts()[0].path
        file = part if part.is_file() else part / "part.json"
        file.chmod(0)
        said = f"part {part} may be sound, but cannot be read: Permission denied; make it readable for this user"
        with as_plain_user():
            with pytest.raises(CacheError) as caught:
                cache.named_set(features.name).load(["a"])
            report = verify_cache(cache)
        assert said in str(caught.value)
        assert [problem.part for problem in report.problems] == [f"{features.name}/{part.name}"]
        assert said in report.summary()
        assert "delete" not in report.summary()


@pytest.mark.parametrize(
    ("number", "advice"),
    [(errno.EIO, "check the disk"), (errno.EMFILE, "ulimit -n"), (errno.ESTALE, "check the disk or the network")],
)
@pytest.mark.parametrize("named_in_text", [False, True])
def test_a_disk_that_refuses_is_named_with_its_reason(
    cache: FeatureCache, monkeypatch: pytest.MonkeyPatch, number: int, advice: str, named_in_text: bool
) -> None:
    features = fill(cache, "a")
    [part] = features.parts()

    def refuse(*_: object) -> None:
        if named_in_text:  # as HDF5 does while it reads
            raise OSError(f"Can't synchronously read data (file read failed: errno = {number}, error message = '...')")
        raise OSError(number, os.strerror(number))

    tokens = cache.named_set(features.name).select(["a"])
    monkeypatch.setattr(type(part), "read_arrays", refuse)
    assert open_part(part.path) is not None
    for use in (lambda: cache.named_set(features.name).load(["a"]), lambda: tokens.load_companions("time_s")):
        with pytest.raises(CacheError) as caught:
            use()
        assert f"may be sound, but cannot be read: {os.strerror(number)}" in str(caught.value)
        assert advice in str(caught.value)
        assert "delete" not in str(caught.value)
    assert "delete" not in verify_cache(cache).summary()


def test_verify_says_which_parts_to_delete_where_others_may_be_sound(
    cache: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = fill(cache, "ab")
    sound, damaged = features.parts()
    damage_bytes(damaged.path, make_tokens("b").tobytes())
    read_arrays = type(sound).read_arrays

    def refuse(self: object, names: list[str]) -> object:
        if self.name == sound.name:  # type: ignore[attr-defined]
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read_arrays(self, names)  # type: ignore[arg-type]

    monkeypatch.setattr(type(sound), "read_arrays", refuse)
    report = verify_cache(cache)
    assert [problem.damaged for problem in report.problems] == [False, True]
    assert "keep a copy, delete the damaged parts, and extract again" in report.summary()


def test_merge_opens_every_cache_before_it_copies_a_clip(tmp_path: Path) -> None:
    cache, good = (open_cache(tmp_path / name, create=True) for name in ("mine", "good"))
    fill(good, "a")
    nowhere = tmp_path / "nowhere"
    done = CliRunner().invoke(app, ["cache", "merge", str(good.path), str(nowhere), "--cache", str(cache.path)])
    assert f"no cache in {nowhere}" in str(done.exception)
    assert cache.set_folders() == []


def test_merge_says_at_once_what_was_copied(tmp_path: Path) -> None:
    cache, good, spoilt = (open_cache(tmp_path / name, create=True) for name in ("mine", "good", "spoilt"))
    fill(good, "a")
    damage_bytes(fill(spoilt, "b").parts()[0].path, make_tokens("b").tobytes())
    done = CliRunner().invoke(app, ["cache", "merge", str(good.path), str(spoilt.path), "--cache", str(cache.path)])
    assert done.exit_code == 1
    assert f"{make_spec().name}: 1 clip" in done.output
    assert "do not match their checksum" in str(done.exception)
