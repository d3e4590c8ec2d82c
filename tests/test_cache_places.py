"""Places that may not be read, names that cannot be, and what is deleted by which name."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from samples import as_plain_user, make_spec, make_table, make_tokens
from typer.testing import CliRunner

from mgcli.cache import CacheError, Failure, FeatureCache, export_features, import_features, open_cache
from mgcli.cache import remove_feature_set as remove
from mgcli.cli import app


def fill(cache: FeatureCache, clip_id: str = "a") -> Path:
    """A feature set of one clip; gives its folder."""
    features = cache.create_feature_set(make_spec())
    with features.writer() as writer:
        writer.add(clip_id, make_tokens("a"))
    return features.path


@pytest.mark.parametrize("where", ["", "SET", "SET/parts"])
def test_a_folder_that_may_not_be_read_is_named(where: str) -> None:
    with tempfile.TemporaryDirectory() as name:  # tmp_path lies in a folder that only its user may enter
        Path(name).chmod(0o755)
        cache = open_cache(Path(name) / "c", create=True)
        closed = cache.path / where.replace("SET", fill(cache).name)

        def list_sets() -> list[str]:
            return [each.describe() for each in open_cache(cache.path).feature_sets()]

        assert len(list_sets()) == 1
        closed.chmod(0)
        with as_plain_user(), pytest.raises(CacheError) as caught:
            list_sets()
        closed.chmod(0o755)
    assert str(closed) in str(caught.value)
    assert "make it readable for this user" in str(caught.value)


def link(path: Path, target: Path) -> Path:
    path.symlink_to(target)
    return path


@pytest.mark.parametrize("create", [False, True])
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: link(folder / "c", folder / "c"), "is a link that leads to no folder; mend or remove the link"),
        (lambda folder: link(folder / "c", folder / "gone"), "is a link that leads to no folder"),
        (lambda folder: folder / ("c" * 300), "has a name that is too long for its disk; choose a shorter one"),
    ],
    ids=["loop", "dangling", "long"],
)
def test_a_place_where_no_cache_can_be_is_refused(
    tmp_path: Path, make: Callable[[Path], Path], said: str, create: bool
) -> None:
    place = make(tmp_path)
    with pytest.raises(CacheError) as caught:
        open_cache(place, create=create)
    assert str(place) in str(caught.value)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("to", "said"), [("c", "leads back to itself"), ("gone", "c is a link that leads to no folder")]
)
def test_a_place_behind_a_broken_link_is_refused(tmp_path: Path, to: str, said: str) -> None:
    place = link(tmp_path / "c", tmp_path / to) / "features"
    with pytest.raises(CacheError, match=said):
        open_cache(place, create=True)


def test_a_disk_that_gives_no_answer_is_named(cache: FeatureCache, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(cache)

    def refuse(folder: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(folder))

    monkeypatch.setattr("mgcli.cache.store.children", refuse)
    with pytest.raises(CacheError, match=f"cannot read {cache.path}: Input/output error; check the disk"):
        cache.feature_sets()


@pytest.mark.parametrize("form", ["npz", "npy"])
def test_a_very_long_clip_id_is_exported_or_refused(cache: FeatureCache, tmp_path: Path, form: str) -> None:
    long = "ü" * 35_000
    name = fill(cache, long).name
    out = tmp_path / ("out.npz" if form == "npz" else "out")
    if form == "npy":
        assert export_features(cache, name, out, form, progress=False).count.clips == 1
        return
    with pytest.raises(CacheError, match=r"clip id 'üü.* has 35000 characters, more than .*--form npy"):
        export_features(cache, name, out, form, progress=False)
    assert not out.exists()


def test_an_empty_or_short_name_deletes_nothing(cache: FeatureCache) -> None:
    folder = fill(cache)
    fingerprint = make_spec().fingerprint
    done = CliRunner().invoke(app, ["cache", "rm", "", "--yes", "--cache", str(cache.path)])
    assert f"the name of a feature set is empty; name one of: {folder.name}" in str(done.exception)
    with pytest.raises(CacheError, match=f"is short for a name to delete by; give 4 digits .*: {folder.name}"):
        remove(cache, fingerprint[:3])
    assert cache.set_folders() == [folder]
    assert cache.named_set(fingerprint[:3]).name == folder.name  # to look at it, a short one will do
    remove(cache, fingerprint[:4])
    assert cache.set_folders() == []


@pytest.mark.parametrize("shard", [None, (0, 2)])
@pytest.mark.parametrize("failures", [[], [Failure("a", "open", "gone")]])
def test_a_list_of_failures_that_stays_the_same_is_not_written(
    cache: FeatureCache, failures: list[Failure], shard: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = cache.create_feature_set(make_spec())
    features.write_failures(failures, shard)

    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    for change in ("committed_file", "remove_tree"):
        monkeypatch.setattr(f"mgcli.cache.failures.{change}", refuse)
    features.write_failures(failures, shard)
    with pytest.raises(CacheError, match=r"no permission to write .*failures.csv"):
        features.write_failures([Failure("b", "open", "gone")], shard)


def test_the_newest_clip_table_is_not_written_again(cache: FeatureCache, monkeypatch: pytest.MonkeyPatch) -> None:
    table = make_table().assign(video_source="1" * 16)
    first = cache.write_clips(table, "p")
    with monkeypatch.context() as patch:
        patch.setattr("mgcli.cache.store.os.utime", lambda *_: pytest.fail("it is the newest already"))
        assert cache.write_clips(table, "p") == first
    other = cache.write_clips(table.iloc[:5], "q")
    assert cache.read_clips().attrs["path"] == str(other)
    for path in (first, other):
        os.utime(path, (1e9, 1e9))
    cache.write_clips(table, "p")
    assert cache.read_clips().attrs["path"] == str(first)
    first.write_bytes(b"junk")
    cache.write_clips(table, "p")
    assert len(cache.read_clips("p")) == len(table)


@pytest.mark.parametrize("pattern", [None, "{clip_id}.npy"])
def test_a_link_to_itself_is_named_and_the_rest_imported(
    cache: FeatureCache, tmp_path: Path, pattern: str | None
) -> None:
    export_features(cache, fill(cache).name, tmp_path / "in", "npy", progress=False)
    (tmp_path / "in" / "mgcli-index.json").unlink()
    link(tmp_path / "in" / "b.npy", tmp_path / "in" / "b.npy")
    table = make_table(2).assign(clip_id=["a", "b"])
    report = import_features(cache, tmp_path / "in", "face", "theirs", table, protocol="p", pattern=pattern)
    assert report.done == 1
    assert "1 could not be taken: b is a link that leads back to itself" in report.summary()
