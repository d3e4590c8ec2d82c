"""One file for sharing: it comes back bit-equal, into any cache, or not at all."""

from __future__ import annotations

import io
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from samples import FORMATS, make_spec, make_table, make_tokens

from mgcli.cache import (
    CacheError,
    FeatureCache,
    FeatureSet,
    export_features,
    import_share,
    open_cache,
    verify_cache,
)
from mgcli.cache.stored_entries import read_entries

ODD_IDS = ["with space", "ünïcode 微", "a/b\\c", "x" * 300, "-", "..", "c,omma"]


def shared(cache: FeatureCache, path: Path, **how: object) -> Path:
    """The only feature set of a cache, in a shared file."""
    (features,) = cache.feature_sets()
    export_features(cache, features.name, path, "share", progress=False, **how)  # type: ignore[arg-type]
    return path


def filled(cache: FeatureCache, dtype: str = "float16", clip_ids: list[str] | None = None) -> FeatureSet:
    """Several parts, sources, views and companions, and a clip table with private paths."""
    provenance = {"torch": "2.14", "host": "alices-laptop", "list": "/home/alice/x.pth", "trained_on": {"clips": ["a"]}}
    features = cache.create_feature_set(make_spec(dtype=dtype), provenance)
    for view in (0, 1):
        with features.writer() as writer:
            for i, clip_id in enumerate(clip_ids or [*ODD_IDS, "c0", "c1"]):
                num = i % 3 + 1
                writer.add(
                    clip_id,
                    make_tokens(clip_id, num, seed=view),
                    source=f"{2**64 - 1 - i:016x}",
                    view=view,
                    time_s=np.arange(num) / 3,
                    valid=np.arange(num) > 0,
                    aux={"scores": make_tokens(clip_id, num, 7), "box": np.full((num, 2, 2), i, np.int16)},
                )
    table = make_table(4)
    cache.write_clips(table.assign(video="/home/alice/data/" + table["video"]), "miga")
    return features


def same_entries(ours: FeatureSet, theirs: FeatureSet) -> bool:
    """All that two feature sets keep is equal, bit for bit."""

    def content(features: FeatureSet) -> dict[object, object]:
        return {
            (each.clip_id, each.source, each.view): (
                *(array.dtype.str + str(array.shape) for array in (each.tokens, each.time_s, each.valid)),
                *(array.tobytes() for array in (each.tokens, each.time_s, each.valid)),
                sorted((name, array.dtype.str, array.shape, array.tobytes()) for name, array in each.aux.items()),
            )
            for each in read_entries(features)
        }

    return content(ours) == content(theirs)


@pytest.mark.parametrize("dtype", ["float16", "float32", "bfloat16"])
@pytest.mark.parametrize("other_format", FORMATS)
def test_a_shared_file_comes_back_bit_equal(cache: FeatureCache, tmp_path: Path, dtype: str, other_format: str) -> None:
    features = filled(cache, dtype)
    path = shared(cache, tmp_path / "mvit.mgcache.h5")
    other = open_cache(tmp_path / "other", create=True, format=other_format)
    report = import_share(other, path, progress=False)
    assert (report.done.entries, report.skipped.entries, report.clip_tables) == (18, 0, 1)
    (back,) = other.feature_sets()
    assert back.name == features.name
    assert same_entries(back, features)
    assert {part.format for part in back.parts()} == {other_format}
    assert verify_cache(other).ok
    again = import_share(other, path, progress=False)
    assert (again.done.entries, again.skipped.entries, again.clip_tables) == (0, 18, 0)
    assert same_entries(back, features)
    assert import_share(cache, path, progress=False).skipped.entries == 18  # where it came from


def test_what_is_there_is_kept_and_the_rest_added(cache: FeatureCache, tmp_path: Path) -> None:
    features = filled(cache)
    path = shared(cache, tmp_path / "all.h5")
    other = open_cache(tmp_path / "other", create=True)
    import_share(other, shared(cache, tmp_path / "some.h5", table=make_table(1)), progress=False)
    report = import_share(other, path, progress=False)
    assert (report.done.entries, report.skipped.entries) == (16, 2)
    assert same_entries(other.feature_sets()[0], features)


@pytest.mark.parametrize("change", ["tokens", "time_s", "valid", "aux"])
def test_a_clip_with_other_content_is_named_and_nothing_is_imported(
    cache: FeatureCache, tmp_path: Path, change: str
) -> None:
    filled(cache)
    path = shared(cache, tmp_path / "all.h5")
    other = open_cache(tmp_path / "other", create=True, format=cache.format)
    kept = next(each for each in read_entries(cache.feature_sets()[0]) if each.clip_id == "c1")
    fields = {"tokens": kept.tokens, "time_s": kept.time_s, "valid": kept.valid}
    aux = dict(kept.aux)
    if change == "aux":
        aux["box"] = aux["box"] + 1
    else:
        fields[change] = ~fields[change] if change == "valid" else fields[change] * 2 + 1
    features = other.create_feature_set(cache.feature_sets()[0].spec)
    with features.writer() as writer:
        writer.add(
            "c1",
            fields["tokens"],
            source=f"{kept.source:016x}",
            view=kept.view,
            aux=aux,
            **{name: fields[name] for name in ("time_s", "valid")},
        )
    with pytest.raises(CacheError, match=r"1 clip of .*: already in .* with other content: 'c1'; nothing was"):
        import_share(other, path, progress=False)
    assert len(other.feature_sets()[0].clips()) == 1
    assert not (other.path / "clips").exists()


def test_every_kind_of_damage_is_found_before_anything_is_written(tmp_path: Path) -> None:
    cache = open_cache(tmp_path / "features", create=True)
    filled(cache)
    content = shared(cache, tmp_path / "all.h5").read_bytes()
    other = open_cache(tmp_path / "other", create=True)
    rng = np.random.default_rng(0)
    end_of_line = content.index(b"\0")
    bits = [*range(12 * 8, end_of_line * 8), *rng.integers(512 * 8, len(content) * 8, 100).tolist()]
    damaged = [content[: int(size)] for size in rng.integers(12, len(content), 20)] + [content + b"\0"]
    for bit in bits:
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        damaged.append(bytes(flipped))
    path = tmp_path / "damaged.h5"
    for each in damaged:
        path.write_bytes(each)
        with pytest.raises(CacheError, match=r"is damaged \(.*Get the file again|has share version"):
            import_share(other, path, progress=False)
    assert not other.feature_sets()


def resealed(path: Path) -> None:
    """Make the SHA-256 of a changed file right again, as someone who means harm would."""
    import hashlib

    content = path.read_bytes()
    digest = hashlib.sha256(content[512:]).hexdigest()
    path.write_bytes(f"mgcli-share 1\n{len(content) - 512}\n{digest}\n".encode().ljust(512, b"\0") + content[512:])


HOSTILE = {
    "tokens": lambda file: file["tokens"].__setitem__((3, 0), 9),
    "NaN": lambda file: file["tokens"].__setitem__((0, 0), np.nan),
    "time_s": lambda file: file["time_s"].__setitem__(0, 9),
    "aux": lambda file: file["aux/box"].__setitem__(0, 9),
    "doubled": lambda file: (
        file["clip_id"].__setitem__(1, file["clip_id"][0]) or file["source"].__setitem__(1, 2**64 - 1)
    ),
    "offset": lambda file: file["offset"].__setitem__(2, 0),
    "past": lambda file: file["offset"].__setitem__(-1, 10**6),
    "spec": lambda file: file["spec"].__setitem__((), file["spec"].asstr()[()].replace('"dim": 4', '"dim": "4"')),
    "modality": lambda file: file["spec"].__setitem__((), file["spec"].asstr()[()].replace('"video"', '"../x"')),
    "json": lambda file: file["spec"].__setitem__((), "[" * 100_000),
    "missing": lambda file: file.__delitem__("valid"),
    "aux name": lambda file: file.move("aux/box", "aux/..%2F"),
    "table": lambda file: file.move("clip_tables", "clips"),
    "external": lambda file: file.create_dataset("aux/x", (36,), "u1", external=[("/etc/passwd", 0, 36)]),
}


@pytest.mark.parametrize("harm", HOSTILE)
def test_a_file_made_to_harm_is_refused(tmp_path: Path, harm: str) -> None:
    cache = open_cache(tmp_path / "features", create=True)
    filled(cache)
    path = shared(cache, tmp_path / "all.h5")
    with h5py.File(path, "r+") as file:
        HOSTILE[harm](file)
        if harm == "table":
            (name,) = file["clips"]
            file["clip_tables/..--00000000.csv"] = file[f"clips/{name}"][()]
    resealed(path)
    other = open_cache(tmp_path / "other", create=True)
    with pytest.raises(CacheError):
        import_share(other, path, progress=False)
    assert not other.feature_sets()


def test_other_programs_read_a_shared_file(cache: FeatureCache, tmp_path: Path) -> None:
    filled(cache, "float32")
    with h5py.File(shared(cache, tmp_path / "all.h5")) as file:
        row = file["clip_id"].asstr()[()].tolist().index("c1")
        start, stop = file["offset"][row : row + 2]
        np.testing.assert_array_equal(file["tokens"][start:stop], make_tokens("c1", 3))


def test_no_private_path_or_host_leaves_the_machine(cache: FeatureCache, tmp_path: Path) -> None:
    features = filled(cache)
    table = make_table(4).assign(
        video=["/home/alice/a/1.mp4", "/home/alice/b/1.mp4", "/home/alice/b/2.mp4", "C:\\alice\\3.mp4"],
        skeleton=["/mnt/alice/s/1.csv", "", "rel/2.csv", "~/alice/x.csv"],
        subject_id=["/home/alice/a/1.mp4", "/home/alice/b/1.mp4", "s", "2.mp4"],
        note=["file:///home/alice/n.txt", "win/lose", "", "/"],
    )
    cache.write_clips(table, "second")
    path = shared(cache, tmp_path / "all.h5")
    assert b"alice" not in path.read_bytes()
    other = open_cache(tmp_path / "other", create=True)
    import_share(other, path, progress=False)
    kept = other.read_clips("second")
    assert kept["video"].tolist() == ["a/1.mp4", "b/1.mp4", "b/2.mp4", "3.mp4"]
    assert kept["subject_id"].tolist() == ["a/1.mp4", "b/1.mp4", "s", "2.mp4"]
    assert kept["skeleton"].tolist() == ["1.csv", "", "rel/2.csv", "x.csv"]
    assert kept["note"].tolist() == ["n.txt", "win/lose", "", ""]
    assert kept["split"].tolist() == table["split"].tolist()
    assert other.feature_sets()[0].provenance == {
        "torch": "2.14",
        "list": "x.pth",
        "trained_on": {"clips": ["a"]},
    }
    assert features.provenance["host"] == "alices-laptop"  # the maker's own cache keeps it


def test_a_shared_table_does_not_take_the_place_of_newer_ones(cache: FeatureCache, tmp_path: Path) -> None:
    filled(cache)
    path = shared(cache, tmp_path / "all.h5")
    import_share(cache, path, progress=False)
    assert cache.read_clips("miga")["video"].str.startswith("/home/alice/").all()
    other = open_cache(tmp_path / "other", create=True)
    other.write_clips(make_table(7), "miga")
    import_share(other, path, progress=False)
    assert len(other.read_clips("miga")) == 7
    assert len(list((other.path / "clips").iterdir())) == 2


def test_only_the_clips_of_a_table_and_their_rows(cache: FeatureCache, tmp_path: Path) -> None:
    filled(cache)
    path = shared(cache, tmp_path / "some.h5", table=make_table(1))
    other = open_cache(tmp_path / "other", create=True)
    import_share(other, path, progress=False)
    assert other.feature_sets()[0].clips()["clip_id"].tolist() == ["c0", "c0"]
    assert other.read_clips()["clip_id"].tolist() == ["c0"]


def test_companions_that_differ_between_clips_cannot_be_shared(cache: FeatureCache, tmp_path: Path) -> None:
    features = cache.create_feature_set(make_spec())
    for clip_id, aux in (("a", {"x": np.zeros(3)}), ("b", {})):
        with features.writer() as writer:
            writer.add(clip_id, make_tokens(clip_id), aux=aux)
    with pytest.raises(CacheError, match="clip 'b' has other companions than 'a'"):
        shared(cache, tmp_path / "all.h5")
    assert not list(tmp_path.glob("*all.h5"))


def test_tables_are_read_as_they_were_written(cache: FeatureCache, tmp_path: Path) -> None:
    filled(cache)
    other = open_cache(tmp_path / "other", create=True)
    import_share(other, shared(cache, tmp_path / "all.h5"), progress=False)
    (file,) = (other.path / "clips").iterdir()
    assert pd.read_csv(io.BytesIO(file.read_bytes()))["video"].tolist() == [f"v{i}.mp4" for i in range(4)]
