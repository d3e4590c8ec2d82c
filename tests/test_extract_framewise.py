"""timm and torchvision models as backbones: tokens, checkpoints, names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import timm
import timm.data
import torch
from PIL import Image
from tiny_media import make_video
from torchvision.models import get_model

from mgcli.cache import open_cache
from mgcli.extract import BackboneError, WeightsError, create_backbone, extract_modalities

FRAMES = np.random.default_rng(0).integers(0, 256, (4, 60, 90, 3), dtype=np.uint8)
SHAPES = {  # backbone, layout -> tokens of 4 frames
    ("timm:test_vit", "time"): (4, 64),
    ("timm:test_vit", "full"): (4 * (1 + 10 * 10), 64),
    ("timm:test_vit", "pooled"): (1, 64),
    ("timm:test_resnet", "full"): (4 * 5 * 5, 96),
    ("timm:test_efficientnet", "time"): (4, 256),
    ("torchvision:mc3_18", "time"): (4, 512),
    ("torchvision:r3d_18", "full"): (1 * 7 * 7, 512),
    ("torchvision:r3d_18", "pooled"): (1, 512),
}


@pytest.mark.parametrize(("name", "layout"), SHAPES)
def test_tokens_have_times_and_do_not_depend_on_the_batch(name: str, layout: str) -> None:
    backbone = create_backbone(name, weights="random:0", tokens=layout, num_frames=4)
    (times_s,) = backbone.windows(2.0, 4.0)
    prepared = backbone.prepare(FRAMES, times_s)
    other = backbone.prepare(FRAMES[::-1], times_s)
    together = backbone.embed(torch.stack([prepared.inputs, other.inputs]))
    assert tuple(together.shape[1:]) == (len(prepared.time_s), backbone.embed_dim) == SHAPES[name, layout]
    assert (prepared.time_s > 2).all()
    assert (prepared.time_s < 4).all()
    assert (np.diff(prepared.time_s) >= 0).all()
    torch.testing.assert_close(together[:1], backbone.embed(prepared.inputs[None]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_efficientnet"])
def test_pictures_are_those_of_timms_own_transform(name: str) -> None:
    """They travel as bytes, a fourth of its floats, and are the same bits in the end."""
    model: Any = timm.create_model(name)
    transform: Any = timm.data.create_transform(**timm.data.resolve_data_config(model=model))
    backbone = create_backbone(f"timm:{name}", weights="random:0", num_frames=4)
    prepared = backbone.prepare(FRAMES, np.arange(4.0)).inputs
    assert prepared.dtype == torch.uint8
    expected = torch.stack([transform(Image.fromarray(frame)) for frame in FRAMES])
    assert torch.equal(backbone.finish(torch.stack([prepared, prepared.flip(0)]))[0], expected)


def test_a_rate_looks_at_single_frames() -> None:
    backbone = create_backbone("timm:test_vit", weights="random:0", frames_per_s=2.0)
    windows = backbone.windows(0.0, 3.0)
    assert [times_s.tolist() for times_s in windows] == [[0.25], [0.75], [1.25], [1.75], [2.25], [2.75]]
    assert backbone.embed(backbone.prepare(FRAMES[:1], windows[0]).inputs[None]).shape == (1, 1, 64)


def test_a_timm_checkpoint_with_its_classifier_is_taken(tmp_path: Path) -> None:
    torch.manual_seed(1)
    released: Any = timm.create_model("test_vit").eval()
    torch.save(released.state_dict(), tmp_path / "test_vit.pth")
    backbone = create_backbone("timm:test_vit", weights=str(tmp_path / "test_vit.pth"), num_frames=1)
    inputs = backbone.prepare(FRAMES[:1], np.zeros(1)).inputs
    with torch.inference_mode():
        expected = released.forward_head(released.forward_features(backbone.finish(inputs[None])[0]), pre_logits=True)
    torch.testing.assert_close(backbone.embed(inputs[None])[0], expected)
    torch.save({"patch_embed.proj.weight": torch.zeros(1)}, tmp_path / "part.pth")
    with pytest.raises(WeightsError, match="made for another network"):
        create_backbone("timm:test_vit", weights=str(tmp_path / "part.pth"))


def test_a_torchvision_checkpoint_is_taken(tmp_path: Path) -> None:
    torch.manual_seed(1)
    released = get_model("r3d_18").eval()
    torch.save(released.state_dict(), tmp_path / "r3d.pth")
    backbone = create_backbone("torchvision:r3d_18", weights=str(tmp_path / "r3d.pth"), tokens="pooled", num_frames=4)
    inputs = backbone.prepare(FRAMES, np.arange(4) / 4).inputs[None]
    with torch.inference_mode():
        torch.testing.assert_close(released.fc(backbone.embed(inputs)[:, 0]), released(backbone.finish(inputs)))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:", "timm has no model ''"),
        ("timm:test_vit.bogus", "with tags it has: test_vit.r160_in1k"),
        ("timm:resnet81", "timm has no model 'resnet81'; did you mean"),
        ("torchvision:r3d18", "did you mean r3d_18"),
        ("torchvision:mvit_v2_s", "All: mc3_18, r2plus1d_18"),
    ],
)
def test_an_unknown_name_suggests_near_ones(name: str, message: str) -> None:
    with pytest.raises(BackboneError, match=message):
        create_backbone(name, weights="random:0")


def test_frames_of_videos_become_tokens_in_the_cache(tmp_path: Path) -> None:
    table = pd.DataFrame({"clip_id": ["a"], "video": [str(make_video(tmp_path / "v.mp4", 20))]})
    cache = open_cache(tmp_path / "features", create=True)
    for name in ("timm:test_vit", "torchvision:r3d_18"):
        report = extract_modalities(
            cache,
            table,
            ["video"],
            backbones={"video": name},
            options={"video": {"num_frames": 4}},
            **{"weights": "random:0", "precision": "float32", "workers": 0, "progress": False},
        )
        assert report.failed == 0
    shapes = {each.spec.backbone: each.load(["a"])[0].shape for each in cache.feature_sets()}
    assert shapes == {"timm:test_vit": (4, 64), "torchvision:r3d_18": (1, 512)}


def test_without_weights_it_says_how_to_get_some() -> None:
    with pytest.raises(WeightsError, match=r"give --weights FILE, such as the one of its model card"):
        create_backbone("timm:test_vit")
    with pytest.raises(WeightsError, match=r"no weights file r3d_18-[0-9a-f]{8}\.pth .* Download https"):
        create_backbone("torchvision:r3d_18")


def test_numbers_that_make_no_sense_are_refused() -> None:
    with pytest.raises(BackboneError, match="must be above 0"):
        create_backbone("timm:test_vit", weights="random:0", frames_per_s=0.0)
    with pytest.raises(BackboneError, match="s3d needs 14 or more"):
        create_backbone("torchvision:s3d", weights="random:0", num_frames=4)
