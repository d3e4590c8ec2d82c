"""What `cache import` takes besides one archive keyed by clip id, and what it refuses."""

from __future__ import annotations

import contextlib
import io
import json
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file
from samples import make_spec, make_table, make_tokens

from mgcli.cache import (
    CacheError,
    FeatureCache,
    ImportReport,
    check_clip_table,
    export_features,
    import_features,
    open_cache,
    verify_cache,
)


def imported(cache: FeatureCache, path: Path, table: pd.DataFrame | None = None, **how: str) -> ImportReport:
    """Import clips c0 .. c3, or those of a table, as modality `face`."""
    table = make_table(4) if table is None else table
    return import_features(cache, path, "face", "mine", table, protocol="p", progress=False, **how)


def reasons(report: ImportReport) -> dict[str, str]:
    return {failure.clip_id: failure.reason for failure in report.failures}


def assert_holds(cache: FeatureCache, clip_ids: list[str], dtype: str = "float32") -> None:
    """The cache has these clips' `make_tokens`, and verifies."""
    features = cache.feature_set("face")
    tokens, _ = features.load(clip_ids)
    np.testing.assert_array_equal(tokens, np.concatenate([make_tokens(each) for each in clip_ids]))
    assert features.spec.dtype == dtype
    assert verify_cache(cache).ok


C0_TO_C3 = ["c0", "c1", "c2", "c3"]


def test_a_folder_with_a_file_for_each_clip(cache: FeatureCache, tmp_path: Path) -> None:
    folder = tmp_path / "i3d"
    (folder / "deep").mkdir(parents=True)
    for clip_id in C0_TO_C3[:3]:
        np.save(folder / f"{clip_id}.npy", make_tokens(clip_id))
    np.savez(folder / "c3.npz", anything=make_tokens("c3"))
    np.save(folder / "deep" / "x.npy", make_tokens("x"))
    (folder / "notes.txt").write_text("not one of them")
    report = imported(cache, folder)
    assert (report.done, report.unknown, report.failures) == (4, ["deep/x"], [])
    assert_holds(cache, C0_TO_C3)
    assert imported(cache, folder).skipped == 4


def test_files_named_as_extractors_name_them(cache: FeatureCache, tmp_path: Path) -> None:
    folder = tmp_path / "i3d"
    folder.mkdir()
    for clip_id in C0_TO_C3:
        np.save(folder / f"{clip_id}_rgb.npy", make_tokens(clip_id))
        np.save(folder / f"{clip_id}_fps.npy", np.float64(25))
    with pytest.raises(CacheError, match=r"such as: 'c0_fps', .*; if file names hold more than that, give --pattern"):
        imported(cache, folder)
    report = imported(cache, folder, pattern="{clip_id}_rgb.npy")
    assert (report.done, report.unknown) == (4, [])
    assert_holds(cache, C0_TO_C3)
    for pattern in ("{clip}_rgb.npy", "{clip_id}/{clip_id}.npy", "{clip_id}.csv"):
        with pytest.raises(CacheError, match=r"it names files with \{clip_id\} in it once"):
            imported(cache, folder, pattern=pattern)


def test_of_several_arrays_one_is_named(cache: FeatureCache, tmp_path: Path) -> None:
    for clip_id in C0_TO_C3:
        np.savez(tmp_path / f"{clip_id}.npz", rgb=make_tokens(clip_id), flow=make_tokens("flow"), valid=[1, 0, 1])
    with pytest.raises(CacheError, match="clip 'c0' has several arrays; name one with --key: rgb, flow, valid"):
        imported(cache, tmp_path)
    with pytest.raises(CacheError, match="has no array 'rbg'; it has: rgb, flow, valid"):
        imported(cache, tmp_path, key="rbg")
    imported(cache, tmp_path, key="rgb")
    assert_holds(cache, C0_TO_C3)
    assert cache.feature_set("face").load_times(["c1"])[1].tolist() == [True, False, True]


@pytest.mark.parametrize("key", [None, "rgb"])
def test_hdf5_with_a_group_for_each_clip(cache: FeatureCache, tmp_path: Path, key: str | None) -> None:
    with h5py.File(tmp_path / "clips.h5", "w") as file:
        for clip_id in C0_TO_C3:
            file[f"{clip_id}/{key or 'tokens'}"] = make_tokens(clip_id)
            file[f"{clip_id}/time_s"] = [1.0, 2.0, 3.0]
            file[f"{clip_id}/valid"] = [False, True, True]
            if key:
                file[f"{clip_id}/flow"] = make_tokens("flow")
    imported(cache, tmp_path / "clips.h5", **({"key": key} if key else {}))
    assert_holds(cache, C0_TO_C3)
    time_s, valid = cache.feature_set("face").load_times(["c2"])
    assert (time_s.tolist(), valid.tolist()) == ([1.0, 2.0, 3.0], [False, True, True])


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_safetensors_keep_their_type(cache: FeatureCache, tmp_path: Path, dtype: str) -> None:
    arrays = {clip_id: make_tokens(clip_id).astype(dtype) for clip_id in C0_TO_C3}
    save_file(arrays, tmp_path / "clips.safetensors")
    imported(cache, tmp_path / "clips.safetensors")
    features = cache.feature_set("face")
    assert features.spec.dtype == dtype
    np.testing.assert_array_equal(features.load(C0_TO_C3)[0], np.concatenate(list(arrays.values())))


def test_bfloat16_stays_bfloat16(cache: FeatureCache, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file as save_torch

    tokens = {clip_id: torch.from_numpy(make_tokens(clip_id)).bfloat16() for clip_id in C0_TO_C3}
    save_torch(tokens, tmp_path / "clips.safetensors")
    imported(cache, tmp_path / "clips.safetensors")
    features = cache.feature_set("face")
    assert features.spec.dtype == "bfloat16"
    np.testing.assert_array_equal(features.load(["c1", "c2"])[0], torch.cat([tokens["c1"], tokens["c2"]]).float())
    assert imported(cache, tmp_path / "clips.safetensors").skipped == 4


def test_a_link_out_of_the_folder_is_not_followed(cache: FeatureCache, tmp_path: Path) -> None:
    folder, outside = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    outside.mkdir()
    for clip_id in ("c0", "c1"):
        np.save(folder / f"{clip_id}.npy", make_tokens(clip_id))
    np.save(outside / "c2.npy", make_tokens("c2"))
    (folder / "c2.npy").symlink_to(outside / "c2.npy")
    (folder / "linked").symlink_to(outside)
    (folder / "c3.npy").symlink_to("c0.npy")  # one that stays inside is fine
    report = imported(cache, folder)
    assert "leads out of" in reasons(report)["c2"]
    assert (report.done, report.unknown) == (3, ["linked"])
    (tmp_path / "elsewhere").symlink_to(folder)  # the folder itself may be linked
    assert imported(cache, tmp_path / "elsewhere").skipped == 3


def test_two_files_of_one_clip_are_refused(cache: FeatureCache, tmp_path: Path) -> None:
    np.save(tmp_path / "c0.npy", make_tokens("c0"))
    np.save(tmp_path / "c1.npy", make_tokens("c1"))
    np.savez(tmp_path / "c1.npz", a=make_tokens("c1"))
    assert reasons(imported(cache, tmp_path)) == {"c1": "has two files: c1.npy and c1.npz"}


def npy_bytes(array: np.ndarray, **header: object) -> bytes:
    """A `.npy` file, its header changed where asked."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, np.lib.format.header_data_from_array_1_0(array) | header)
    return stream.getvalue() + array.tobytes()


HOSTILE = {
    "c1": (npy_bytes(make_tokens("c1"))[:-5], "truncated or damaged: its header promises shape"),
    "c2": (npy_bytes(make_tokens("c2"), shape=(10**7, 10**6)), "claims shape .* GB; one clip may have 4 GB"),
    "c3": (npy_bytes(make_tokens("c3"), shape=(-1, 4)), "truncated or damaged|claims shape"),
    "c4": (npy_bytes(make_tokens("c4"), descr="|O"), "pickled objects, which are never opened"),
    "c5": (npy_bytes(make_tokens("c5"), descr="<U4"), "not numbers"),
    "c6": (b"", "cannot be read"),
    "c7": (b"\x93NUMPY\x03\x00" + b"\0" * 100, "version"),
    "c8": (b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535, "cannot be read"),
}


@pytest.mark.parametrize("form", ["folder", "archive"])
def test_hostile_arrays_fail_their_clip_only(cache: FeatureCache, tmp_path: Path, form: str) -> None:
    content = {"c0": npy_bytes(make_tokens("c0")), "../c9": npy_bytes(make_tokens("x"))}
    content |= {clip_id: data for clip_id, (data, _) in HOSTILE.items()}
    path = tmp_path / "clips.npz"
    if form == "folder":
        path = tmp_path / "clips"
        path.mkdir()
        for clip_id, data in content.items():
            (path / f"{clip_id}.npy").write_bytes(data)  # "../c9" lies beside the folder
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for clip_id, data in content.items():
                archive.writestr(f"{clip_id}.npy", data)
    report = imported(cache, path, make_table(9))
    assert report.done == 1
    for clip_id, (_, message) in HOSTILE.items():
        assert pd.Series(reasons(report)[clip_id]).str.contains(message).all(), (clip_id, reasons(report)[clip_id])
    assert report.unknown == ([] if form == "folder" else ["../c9"])
    assert_holds(cache, ["c0"])


def test_an_archive_with_damaged_or_doubled_members(cache: FeatureCache, tmp_path: Path) -> None:
    path = tmp_path / "clips.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for clip_id in ("c0", "c1", "c2"):
            archive.writestr(f"{clip_id}.npy", npy_bytes(make_tokens(clip_id)))
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("c2.npy", npy_bytes(make_tokens("c2")))
    content = bytearray(path.read_bytes())
    content[content.find(make_tokens("c1").tobytes())] ^= 1
    path.write_bytes(content)
    report = imported(cache, path)
    assert "Bad CRC-32" in reasons(report)["c1"]
    assert reasons(report)["c2"] == "is in the archive twice"
    assert report.absent == ["c3"]
    assert_holds(cache, ["c0"])


def test_hdf5_that_points_to_other_files_is_not_followed(cache: FeatureCache, tmp_path: Path) -> None:
    secret = tmp_path / "secret.raw"
    secret.write_bytes(make_tokens("secret").tobytes())
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["c1"] = make_tokens("c1")
    layout = h5py.VirtualLayout((3, 4), "f4")
    layout[:] = h5py.VirtualSource(tmp_path / "other.h5", "c1", (3, 4))
    with h5py.File(tmp_path / "clips.h5", "w") as file:
        file["c0"] = make_tokens("c0")
        file["c1"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "c1")
        file.create_dataset("c2", (3, 4), "f4", external=[(str(secret), 0, 48)])
        file.create_virtual_dataset("c3", layout)
        file.create_dataset("c4", (10**6, 10**6), "f4", chunks=(1000, 1000))
    report = imported(cache, tmp_path / "clips.h5", make_table(5))
    assert (report.done, report.absent) == (1, ["c1"])
    for clip_id in ("c2", "c3"):
        assert reasons(report)[clip_id] == "takes its numbers from other files, which are not opened"
    assert "claims shape" in reasons(report)["c4"]


def safetensors_bytes(header: str, data: bytes = b"") -> bytes:
    return len(header).to_bytes(8, "little") + header.encode() + data


def test_damaged_safetensors_are_refused(cache: FeatureCache, tmp_path: Path) -> None:
    entry = '{"dtype":"F32","shape":[3,4],"data_offsets":[0,48]}'
    path = tmp_path / "clips.safetensors"
    for content in (
        b"",
        b"\xff" * 100,
        safetensors_bytes(f'{{"c0":{entry}}}', b"\0" * 47),
        safetensors_bytes(f'{{"c0":{entry}}}', b"\0" * 49),
        safetensors_bytes('{"c0":{"dtype":"F32","shape":[3,4],"data_offsets":[-48,0]}}', b"\0" * 48),
        safetensors_bytes("[" * 5000),
    ):
        path.write_bytes(content)
        with pytest.raises(CacheError, match=r"is not a readable .safetensors file"):
            imported(cache, path)
    path.write_bytes(safetensors_bytes('{"c0":{"dtype":"F8_E4M3","shape":[1,4],"data_offsets":[0,4]}}', b"\0" * 4))
    with pytest.raises(CacheError, match="holds F8_E4M3, which cannot be taken"):
        imported(cache, path)


def test_digits_are_never_lost_silently(cache: FeatureCache, tmp_path: Path) -> None:
    arrays = {"c0": make_tokens("c0").astype(np.float16), "c1": make_tokens("c1"), "c2": np.full((1, 4), 1e300)}
    np.savez(tmp_path / "a.npz", **arrays)  # type: ignore[arg-type]
    report = imported(cache, tmp_path / "a.npz")
    assert "is float32, the others float16: it would lose digits" in reasons(report)["c1"]
    np.savez(tmp_path / "b.npz", **({"c0": make_tokens("c0"), "c1": arrays["c0"], "c2": arrays["c2"]}))  # type: ignore
    report = import_features(cache, tmp_path / "b.npz", "pose", "mine", make_table(3), protocol="p", progress=False)
    assert report.done == 2
    assert "NaN or infinity" in reasons(report)["c2"]


def test_key_and_pattern_are_refused_where_they_mean_nothing(cache: FeatureCache, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", c0=make_tokens("c0"))
    with pytest.raises(CacheError, match="--key names an array of a clip"):
        imported(cache, tmp_path / "a.npz", key="tokens")
    with pytest.raises(CacheError, match="--pattern names the files of a folder"):
        imported(cache, tmp_path / "a.npz", pattern="{clip_id}.npy")


def test_an_index_that_leads_elsewhere_is_refused(cache: FeatureCache, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    np.save(tmp_path / "c0.npy", make_tokens("c0"))
    for name in ("../c0.npy", "/etc/passwd", "..\\c0.npy", "c0.txt"):
        (folder / "mgcli-index.json").write_text(json.dumps({"files": [{"clip_id": "c0", "file": name}]}))
        with pytest.raises(CacheError, match=r"which is no .npy or .npz file of this folder"):
            imported(cache, folder)
    (folder / "mgcli-index.json").write_text('{"files": [3]}')
    with pytest.raises(CacheError, match="is damaged"):
        imported(cache, folder)


def test_odd_clip_ids_are_found_in_subfolders(cache: FeatureCache, tmp_path: Path) -> None:
    ids = ["S 1/a b", "ünï/微", "%2F"]
    for clip_id in ids:
        (tmp_path / clip_id).parent.mkdir(exist_ok=True)
        np.save(tmp_path / f"{clip_id}.npy", make_tokens(clip_id))
    assert imported(cache, tmp_path, check_clip_table(pd.DataFrame({"clip_id": ids}))).done == 3
    assert_holds(cache, ids)


@pytest.mark.parametrize("form", ["npy", "npz-per-clip", "npz", "hdf5", "safetensors"])
def test_no_flipped_bit_or_cut_brings_a_traceback(tmp_path: Path, form: str) -> None:
    cache = open_cache(tmp_path / "features", create=True)
    made = cache.create_feature_set(make_spec())
    with made.writer() as writer:
        for clip_id in C0_TO_C3:
            writer.add(clip_id, make_tokens(clip_id))
    path = tmp_path / {"npz": "o.npz", "hdf5": "o.h5", "safetensors": "o.safetensors"}.get(form, "o")
    export_features(cache, made.name, path, form, progress=False)
    file = next(path.glob("c0.*")) if path.is_dir() else path
    content = file.read_bytes()
    rng = np.random.default_rng(0)
    for i in range(40):
        damaged = bytearray(content[: rng.integers(len(content))] if i % 4 == 0 else content)
        for bit in rng.integers(len(damaged) * 8, size=rng.integers(1, 4)) if damaged else []:
            damaged[bit // 8] ^= 1 << bit % 8
        file.write_bytes(damaged)
        other = open_cache(tmp_path / f"other{i}", create=True)
        with contextlib.suppress(CacheError):
            import_features(other, path, "face", "mine", make_table(4), protocol="p", progress=False)
