"""Derived layouts against extraction with that layout: the same tokens, times and validity, without the videos."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from samples import FORMATS
from tiny_media import make_video
from torch import Tensor, nn

from mgcli.cache import FeatureCache, FeatureSet, check_clip_table, derive_layout, open_cache, verify_cache
from mgcli.extract import backbone_mvit, create_backbone, extract_modalities

CASES: dict[str, tuple[str, dict[str, Any]]] = {  # modality of the backbone, options
    "agcn_joint": ("pose", {"num_frames": 16}),
    "agcn_two_stream": ("pose", {"num_frames": 18, "sampling": "windows", "window_stride_s": 0.3}),
    "torchvision:r3d_18": ("video", {"num_frames": 16}),
    "mvit_v2_s": ("context", {"sampling": "windows", "window_stride_s": 0.3}),
}


@pytest.fixture(scope="session")
def table(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Two clips of a video with a skeleton that lacks some joints, one of them at all times."""
    folder = tmp_path_factory.mktemp("media")
    make_video(folder / "v.mp4", 65)
    joints = np.random.default_rng(0).uniform(10, 60, (65, 22, 3)).astype(np.float32)
    joints[..., 2] = 0.9
    joints[:, 5, 2] = joints[20:45, :, 2] = 0
    np.save(folder / "v.npy", joints)
    rows = [{"clip_id": name, "start_s": start, "end_s": 2.6} for name, start in (("a/1", 0.0), ("b", 0.11))]
    files = {"video": str(folder / "v.mp4"), "skeleton": str(folder / "v.npy"), "emotion": "win"}
    return check_clip_table(pd.DataFrame(rows).assign(**files))


def extracted(folder: Path, table: pd.DataFrame, name: str, tokens: str, format: str, **how: Any) -> FeatureCache:
    """A cache with the tokens of one layout."""
    modality, options = CASES[name]
    cache = open_cache(folder, create=True, format=format)
    settings = {"weights": "random:0", "precision": "float32", "workers": 0, "progress": False, **how}
    chosen = {"backbones": {modality: name}, "options": {modality: options}}
    assert extract_modalities(cache, table, [modality], tokens=tokens, **chosen, **settings).failed == 0
    return cache


def only_set(cache: FeatureCache, tokens: str) -> FeatureSet:
    (found,) = [each for each in cache.feature_sets() if each.spec.tokens == tokens]
    return found


@pytest.fixture(autouse=True)
def quick_mvit(monkeypatch: pytest.MonkeyPatch) -> None:
    """MViTv2-S with its own windows, transform and layouts, but tokens from a cheap formula."""
    mixed = torch.randn(16, 393 * 768, generator=torch.Generator().manual_seed(0))

    def full_tokens(_: nn.Module, inputs: Tensor) -> Tensor:
        return torch.sin(inputs.mean(dim=(1, 3, 4)) @ mixed).unflatten(1, (393, 768))  # (B, 393, 768)

    monkeypatch.setattr(backbone_mvit, "mvit_v2_s", lambda weights: nn.Linear(2, 2))
    monkeypatch.setattr(backbone_mvit, "FusedForward", lambda network: full_tokens)


@pytest.mark.parametrize("name", CASES)
def test_derived_tokens_are_those_of_extraction(tmp_path: Path, table: pd.DataFrame, name: str) -> None:
    full = extracted(tmp_path / "full", table, name, "full", FORMATS[len(name) % 2])
    origin = only_set(full, "full")
    with_torch = create_backbone(name, weights="random:0", **CASES[name][1])
    for layout in set(with_torch.layouts) - {"full"}:
        report = derive_layout(full, origin.name, layout, progress=False)
        assert (report.done.clips, report.skipped.clips) == (len(table), 0)
        derived = only_set(full, layout)
        direct = only_set(extracted(tmp_path / layout, table, name, layout, FORMATS[len(layout) % 2]), layout)
        sources = [direct.clips()["source"].tolist(), derived.clips()["source"].tolist()]
        assert sources[0] == sources[1]
        clip_ids = table["clip_id"].tolist()
        (ours, starts), (theirs, their_starts) = derived.load(clip_ids), direct.load(clip_ids)
        assert starts.tolist() == their_starts.tolist()
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6 * np.abs(theirs).max())
        (time_s, valid), (their_times, their_valid) = derived.load_times(clip_ids), direct.load_times(clip_ids)
        np.testing.assert_allclose(time_s, their_times, rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(valid, their_valid)
        assert report.exact == (derived.name == direct.name)
        if report.exact:
            assert ours.tobytes() == theirs.tobytes()
            assert time_s.tobytes() == their_times.tobytes()
        else:
            assert derived.spec.transform["derived_from"]["fingerprint"] == origin.spec.fingerprint
    assert verify_cache(full).ok


def test_the_class_token_is_the_one_that_extraction_finds_there_already(tmp_path: Path, table: pd.DataFrame) -> None:
    half = {"store_dtype": "float16"}
    cache = extracted(tmp_path / "features", table, "mvit_v2_s", "time", "hdf5", **half)
    report = derive_layout(cache, only_set(cache, "time").spec.fingerprint, "pooled", progress=False)
    assert report.exact
    assert "in the same feature set" in report.summary()
    before = only_set(cache, "pooled").load(["b"])[0].copy()
    extracted(tmp_path / "features", table, "mvit_v2_s", "pooled", "hdf5", **half)
    pooled = only_set(cache, "pooled")
    assert len(pooled.parts()) == 1  # nothing was extracted
    assert pooled.load(["b"])[0].tobytes() == before.tobytes()
