"""Exports in other programs' forms: what goes out comes in again, whatever the clips are called."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from samples import FORMATS, make_spec, make_table, make_tokens

from mgcli.cache import (
    CacheError,
    FeatureCache,
    FeatureSet,
    check_clip_table,
    export_features,
    import_features,
    open_cache,
    verify_cache,
)

FORMS = {"npy": "out", "npz-per-clip": "out", "npz": "o.npz", "hdf5": "o.h5", "safetensors": "o.safetensors"}
ODD_IDS = ["with space", "ünïcode 微", "a/b", "a", "a/tokens", "A", "a%2Fb", "..", ".hidden", "../x", "CON", "a.npy"]
ODD_IDS += ["x" * 300, "x" * 299 + "y", "微" * 300, "'quote\"", "-", "c,omma", "b\\c", "tokens", "time_s", "{clip_id}"]


def filled(cache: FeatureCache, clip_ids: list[str], **spec: object) -> FeatureSet:
    """A feature set with the `make_tokens` of these clips, 1, 2, ... tokens each."""
    features = cache.create_feature_set(make_spec(**spec))
    with features.writer() as writer:
        for i, clip_id in enumerate(clip_ids):
            time_s = np.arange(i % 5 + 1) + 0.25
            writer.add(
                clip_id,
                make_tokens(clip_id, i % 5 + 1),
                source="ab",
                time_s=time_s,
                valid=time_s > 1,
                aux={"box": time_s},
            )
    return features


def round_trip(features: FeatureSet, cache: FeatureCache, path: Path, form: str) -> FeatureSet:
    """The feature set, exported and imported into another cache."""
    export_features(cache, features.name, path, form, progress=False)
    table = check_clip_table(pd.DataFrame({"clip_id": features.clips()["clip_id"]}))
    other = open_cache(path.parent / "other", create=True, format=cache.format)
    report = import_features(other, path, "video", "copy", table, protocol="p", progress=False)
    assert (report.failures, report.absent, report.unknown) == ([], [], [])
    assert verify_cache(other).ok
    return other.feature_set("video")


@pytest.mark.parametrize("form", FORMS)
def test_odd_clip_ids_come_back_with_their_tokens(cache: FeatureCache, tmp_path: Path, form: str) -> None:
    features = filled(cache, ODD_IDS)
    back = round_trip(features, cache, tmp_path / FORMS[form], form)
    np.testing.assert_array_equal(back.load(ODD_IDS)[0], features.load(ODD_IDS)[0])
    if form in ("npz-per-clip", "hdf5"):
        for ours, theirs in zip(back.load_times(ODD_IDS), features.load_times(ODD_IDS), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert not list(tmp_path.glob(".tmp-*"))


IDS = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=320)


@pytest.mark.parametrize("form", FORMS)
@given(
    ids=st.lists(IDS.map(str.strip).filter(bool), min_size=1, max_size=5, unique=True),
    dtype=st.sampled_from(["float16", "float32", "bfloat16"]),
    format=st.sampled_from(FORMATS),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_clips_come_back_equal(
    tmp_path_factory: pytest.TempPathFactory, form: str, ids: list[str], dtype: str, format: str, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("any")
    cache = open_cache(folder / "features", create=True, format=format)
    rng = np.random.default_rng(seed)
    features = cache.create_feature_set(make_spec(dtype=dtype, dim=int(rng.integers(1, 6))))
    with features.writer() as writer:
        for clip_id in ids:
            scale = 10.0 ** rng.integers(-9, 4)  # down to subnormal float16
            writer.add(clip_id, rng.standard_normal((rng.integers(1, 9), features.spec.dim)) * scale)
    back = round_trip(features, cache, folder / FORMS[form], form)
    kept = "float32" if dtype == "bfloat16" and form != "safetensors" else dtype  # numpy has no bfloat16
    assert back.spec.dtype == kept
    tokens, offsets = features.load(ids)
    again, again_offsets = back.load(ids)
    assert tokens.tobytes() == again.tobytes()
    assert offsets.tolist() == again_offsets.tolist()


def test_other_programs_read_the_exports(cache: FeatureCache, tmp_path: Path) -> None:
    features = filled(cache, ["c0", "a/b"])
    for form, name in FORMS.items():
        export_features(cache, features.spec.fingerprint[:4], tmp_path / form / name, form, progress=False)
    wanted = make_tokens("a/b", 2)
    np.testing.assert_array_equal(np.load(tmp_path / "npy/out/a%2Fb.npy"), wanted)
    assert set(np.load(tmp_path / "npz-per-clip/out/a%2Fb.npz")) == {"tokens", "time_s", "valid"}
    np.testing.assert_array_equal(np.load(tmp_path / "npz/o.npz")["a/b"], wanted)
    np.testing.assert_array_equal(load_file(tmp_path / "safetensors/o.safetensors")["a/b"], wanted)
    with h5py.File(tmp_path / "hdf5/o.h5") as file:
        assert sorted(file) == ["a%2Fb", "c0"]
        assert file["a%2Fb"].attrs["clip_id"] == "a/b"
        np.testing.assert_array_equal(file["a%2Fb/tokens"], wanted)
    index = json.loads((tmp_path / "npy/out/mgcli-index.json").read_text())
    assert index["files"][1] == {"clip_id": "a/b", "file": "a%2Fb.npy"}


def test_only_the_clips_of_a_table(cache: FeatureCache, tmp_path: Path) -> None:
    features = filled(cache, ["c0", "c1", "c2", "other"])
    report = export_features(cache, features.name, tmp_path / "o.npz", "npz", table=make_table(6), progress=False)
    assert (report.count.clips, report.tokens, report.absent) == (3, 6, ["c3", "c4", "c5"])
    assert report.bytes == (tmp_path / "o.npz").stat().st_size
    assert "3 of the clip table have no tokens: c3; c4; c5" in report.summary()
    assert sorted(np.load(tmp_path / "o.npz")) == ["c0", "c1", "c2"]
    with pytest.raises(CacheError, match="has no tokens of the clips of this table"):
        export_features(cache, features.name, tmp_path / "x.npz", "npz", table=make_table(9)[6:], progress=False)


def test_of_several_sources_the_clip_table_names_one(cache: FeatureCache, tmp_path: Path) -> None:
    features = filled(cache, ["c0", "c1"])
    with features.writer() as writer:
        for view, seed in enumerate(("recut", "flipped")):
            writer.add("c0", make_tokens(seed), source="cd", view=view, aux={"box": np.zeros(3)})
    with pytest.raises(CacheError, match="'c0' has tokens of 2 sources"):
        export_features(cache, features.name, tmp_path / "o.npz", "npz", progress=False)
    cache.write_clips(make_table(2).assign(video_source="00000000000000cd"), "p")
    export_features(cache, features.name, tmp_path / "o.npz", "npz", progress=False)
    np.testing.assert_array_equal(np.load(tmp_path / "o.npz")["c0"], make_tokens("recut"))
    export_features(cache, features.name, tmp_path / "v.npz", "npz", view=1, progress=False)
    np.testing.assert_array_equal(np.load(tmp_path / "v.npz")["c0"], make_tokens("flipped"))


@pytest.mark.parametrize("form", FORMS)
def test_nothing_is_overwritten_unasked(cache: FeatureCache, tmp_path: Path, form: str) -> None:
    features, path = filled(cache, ["c0", "c1"]), tmp_path / FORMS[form]
    export_features(cache, features.name, path, form, progress=False)
    with pytest.raises(CacheError, match="exists; choose another name, or replace it with --overwrite"):
        export_features(cache, features.name, path, form, progress=False)
    export_features(cache, features.name, path, form, table=make_table(1), overwrite=True, progress=False)
    table = make_table(2)
    report = import_features(cache, path, "face", "copy", table, protocol="p", progress=False)
    assert (report.done, report.absent) == (1, ["c1"])


def test_an_export_never_replaces_what_is_none(cache: FeatureCache, tmp_path: Path) -> None:
    features = filled(cache, ["c0"])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    (tmp_path / "mine.txt").write_text("more work")
    for path, form, message in (
        (tmp_path / "mine", "npy", "holds other files and no mgcli-index.json"),
        (cache.path / "out", "npy", "lies in the cache itself"),
        (tmp_path / "mine", "npz", r"name the file mine\.npz"),
        (tmp_path / "mine.txt", "npy", "is a file, which this form does not replace"),
    ):
        with pytest.raises(CacheError, match=message):
            export_features(cache, features.name, path, form, overwrite=True, progress=False)
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years of work"
    with pytest.raises(CacheError, match="0 feature sets fit 'nothing'; name one of: video--tiny--"):
        export_features(cache, "nothing", tmp_path / "o.npz", "npz", progress=False)
    with pytest.raises(CacheError, match="unknown form 'zip'; known: npy, npz-per-clip"):
        export_features(cache, features.name, tmp_path / "o.npz", "zip", progress=False)


def test_a_damaged_part_is_not_exported(tmp_path: Path) -> None:
    cache = open_cache(tmp_path / "features", create=True)
    features = filled(cache, ["c0", "c1"])
    (part,) = (features.path / "parts").iterdir()
    content = bytearray(part.read_bytes())
    content[content.find(make_tokens("c1", 2).tobytes())] ^= 4
    part.write_bytes(content)
    with pytest.raises(CacheError, match=r"clip 'c1' in 0000.* do not match their checksum; run mgcli cache verify"):
        export_features(cache, features.name, tmp_path / "o.npz", "npz", progress=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["features"]
