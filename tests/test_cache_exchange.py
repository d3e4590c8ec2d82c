"""Importing a user's own features."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from samples import make_table, make_tokens

from mgcli.cache import CacheError, FeatureCache, import_features, verify_cache


def write_features(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    """An .npz or .h5 file keyed by clip id."""
    if path.suffix == ".npz":
        np.savez(path, **arrays)  # type: ignore[arg-type]  # numpy's own way to name arrays
    else:
        with h5py.File(path, "w") as file:
            for name, array in arrays.items():
                file[name] = array
    return path


@pytest.fixture(params=[".npz", ".h5"])
def features_file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Where a test writes the features to import, in each layout in turn."""
    return tmp_path / f"features{request.param}"


def test_imported_tokens_come_back_bit_equal(cache: FeatureCache, features_file: Path) -> None:
    table = make_table(6)
    arrays = {clip_id: make_tokens(clip_id, i + 1) for i, clip_id in enumerate(table["clip_id"])}
    arrays["c0"] = arrays["c0"][0]  # (D,) is one token
    write_features(features_file, arrays)
    report = import_features(cache, features_file, "face", "mine", table, protocol="p")
    assert (report.done, report.skipped, report.absent, report.failures) == (6, 0, [], [])
    features = cache.feature_set("face")
    tokens, offsets = features.load(table["clip_id"].tolist())
    np.testing.assert_array_equal(tokens, np.concatenate([np.atleast_2d(array) for array in arrays.values()]))
    assert offsets.tolist() == [0, 1, 3, 6, 10, 15, 21]
    assert features.spec.weights == "imported"
    assert len(cache.read_clips("p")) == 6
    assert verify_cache(cache).ok


def test_importing_again_skips_and_other_tokens_are_refused(cache: FeatureCache, features_file: Path) -> None:
    table = make_table(3)
    arrays = {clip_id: make_tokens(clip_id) for clip_id in table["clip_id"]}
    write_features(features_file, arrays)
    import_features(cache, features_file, "face", "mine", table, protocol="p")
    assert import_features(cache, features_file, "face", "mine", table, protocol="p").skipped == 3
    features_file.unlink()
    write_features(features_file, arrays | {"c1": make_tokens("c1", seed=1)})
    with pytest.raises(CacheError, match=r"'c1' is already in face--mine--.* with other tokens; give --backbone"):
        import_features(cache, features_file, "face", "mine", table, protocol="p")


def test_one_bad_clip_does_not_stop_the_others(cache: FeatureCache, features_file: Path) -> None:
    table = make_table(7)
    arrays = {clip_id: make_tokens(clip_id) for clip_id in table["clip_id"]}
    arrays["c1"][0, 0] = np.nan
    arrays["c2"] = np.zeros((3, 5), np.float32)
    arrays["c3"] = np.zeros((2, 3, 4), np.float32)
    arrays["c4"] = np.zeros((0, 4), np.float32)
    arrays["c5"] = np.array([[b"x"]])
    del arrays["c6"]
    arrays["other"] = make_tokens("other")
    report = import_features(cache, write_features(features_file, arrays), "face", "mine", table, protocol="p")
    reasons = {failure.clip_id: failure.reason for failure in report.failures}
    assert reasons["c1"] == "has tokens with NaN or infinity"
    assert reasons["c2"] == "has tokens 5 wide; the others are 4 wide"
    assert "expected (N, D)" in reasons["c3"]
    assert "expected (N, D)" in reasons["c4"]
    assert "not numbers" in reasons["c5"]
    assert (report.done, report.absent, report.unknown) == (1, ["c6"], ["other"])
    assert sorted(cache.feature_set("face").failures()["clip_id"]) == sorted(reasons)


def test_files_that_are_no_features_are_refused(cache: FeatureCache, tmp_path: Path) -> None:
    table = make_table(3)
    for name, content, message in [
        ("absent.npz", None, "no file"),
        ("broken.npz", b"PK\x03\x04broken", "not a readable .npz"),
        ("empty.npz", b"", "not a readable .npz"),
        ("broken.h5", b"broken", "not a readable HDF5"),
        ("features.csv", b"a,b", "give an .npz, .h5 or .hdf5"),
    ]:
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(CacheError, match=message):
            import_features(cache, path, "face", "mine", table, protocol="p")
    other = write_features(tmp_path / "other.npz", {"elsewhere": make_tokens("x")})
    with pytest.raises(CacheError, match="holds no clip of the clip table; its keys are clip ids such as: 'elsewhere'"):
        import_features(cache, other, "face", "mine", table, protocol="p")


def test_pickles_inside_an_archive_are_not_opened(cache: FeatureCache, tmp_path: Path) -> None:
    path = tmp_path / "objects.npz"
    np.savez(path, c0=np.array([{"a": 1}], dtype=object))
    with pytest.raises(CacheError, match="holds pickled objects, which are never opened"):
        import_features(cache, path, "face", "mine", make_table(3), protocol="p")
