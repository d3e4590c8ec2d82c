"""SwinFace: the golden outputs through the released checkpoint's form, token layouts, expression probabilities."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from golden_weights import TAG, golden_state, scaled_error

from mgcli.extract import BackboneError, WeightsError, create_backbone
from mgcli.extract.backbone_swinface import SwinFace
from mgcli.extract.backbone_swinface_tasks import BRANCHES

GOLDEN = Path(__file__).parent / "data" / "golden_swinface.npz"
TOLERANCE = 5e-5
SECTIONS = ("backbone", "fam", "tss", "om")


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as the authors' training writes it."""
    network = SwinFace().network
    content = {f"state_dict_{s}": golden_state(getattr(network, s), "swinface", f"{TAG}/{s}") for s in SECTIONS}
    content |= {"epoch": 7, "state_dict_softmax_fc": {"weight": torch.zeros(4, 512)}, "state_optimizer": {}}
    path = tmp_path_factory.mktemp("weights") / "swinface.pt"
    torch.save(content, path)
    return path


@pytest.fixture(scope="module")
def swinface(released: Path) -> SwinFace:
    backbone = create_backbone("swinface", weights=str(released))
    assert isinstance(backbone, SwinFace)
    return backbone


@pytest.fixture(scope="module")
def inputs() -> torch.Tensor:
    """(2, 3, 112, 112), blocks of 8 x 8 pixels."""
    with np.load(GOLDEN) as golden:
        images = golden["blocks"].repeat(8, axis=1).repeat(8, axis=2)
    backbone = create_backbone("swinface", weights="random:0")
    return torch.stack([backbone.prepare(image[None], np.zeros(1)).inputs for image in images])


def test_a_released_checkpoint_gives_the_golden_outputs(swinface: SwinFace, inputs: torch.Tensor) -> None:
    branches = tuple(range(len(BRANCHES)))
    network = swinface.network
    with np.load(GOLDEN) as golden, torch.inference_mode():
        features = network.backbone(inputs)
        fam = network.fam(features, branches)
        tss = network.tss(fam, branches)
        tasks = network.om(tss)
        found = {
            "local_features": features.local_features[:, ::12],
            "global_features": features.global_features[:, ::8],
            "backbone_pooled": features.pooled,
            "fam": fam[..., ::4],
            "tss": tss[..., ::4],
            "tasks": torch.cat([tasks[name] for name in sorted(tasks)], dim=1),
            "identity": network.backbone.identity(features),
        }
        for name, value in found.items():
            assert scaled_error(value, golden[name]) < TOLERANCE, name
        widths = [tasks[name].shape[1] for name in sorted(tasks)]
        by_task = np.split(golden["tasks"], np.cumsum(widths)[:-1], axis=1)
        for scores, task in zip(by_task, sorted(tasks), strict=True):
            assert scaled_error(tasks[task], scores) < TOLERANCE, task


def test_layouts_are_parts_of_the_network(swinface: SwinFace, released: Path, inputs: torch.Tensor) -> None:
    tokens = {
        layout: create_backbone("swinface", weights=str(released), tokens=layout).embed(inputs)
        for layout in SwinFace.layouts
    }
    shapes = {layout: tuple(value.shape) for layout, value in tokens.items()}
    assert shapes == {
        "tasks": (2, 11, 512),
        "expression": (2, 1, 512),
        "spatial": (2, 49, 768),
        "identity": (2, 1, 512),
    }
    torch.testing.assert_close(tokens["expression"][:, 0], tokens["tasks"][:, 2])
    with np.load(GOLDEN) as golden:
        spatial = tokens["spatial"].transpose(1, 2).unflatten(2, (7, 7))
        assert scaled_error(spatial[:, ::8], golden["global_features"]) < TOLERANCE
        assert scaled_error(tokens["identity"][:, 0], golden["identity"]) < TOLERANCE


def test_expression_probabilities_stand_beside_every_token(swinface: SwinFace, inputs: torch.Tensor) -> None:
    with torch.inference_mode():
        tokens = swinface(inputs)
        (probabilities,) = swinface.companions(tokens).values()
        scores = swinface.network.om(tokens.transpose(0, 1))["Expression"]
    assert probabilities.shape == (2, 11, 7)
    torch.testing.assert_close(probabilities[:, 5], scores.softmax(dim=1))


def test_tokens_do_not_depend_on_the_batch(swinface: SwinFace, inputs: torch.Tensor) -> None:
    together = swinface.embed(inputs)
    alone = torch.cat([swinface.embed(each[None]) for each in inputs])
    assert scaled_error(alone, together.numpy()) < 1e-5


def test_bfloat16_changes_tokens_little(swinface: SwinFace, released: Path, inputs: torch.Tensor) -> None:
    narrow = create_backbone("swinface", weights=str(released), precision="bfloat16")
    cosine = torch.cosine_similarity(swinface.embed(inputs), narrow.embed(inputs), dim=-1)
    assert cosine.mean() >= 0.999


def test_a_face_is_looked_at_at_the_chosen_rate(swinface: SwinFace) -> None:
    windows = swinface.windows(10.0, 13.0)
    np.testing.assert_allclose(np.concatenate(windows), [10.25, 10.75, 11.25, 11.75, 12.25, 12.75])
    assert len(swinface.windows(5.0, 5.1)) == 1


def test_a_black_crop_is_no_face(swinface: SwinFace) -> None:
    crop = np.zeros((1, 112, 112, 3), np.uint8)
    assert not swinface.prepare(crop, np.zeros(1)).valid.any()
    crop[0, 50, 50] = 9
    assert swinface.prepare(crop, np.zeros(1)).valid.all()
    with pytest.raises(BackboneError, match="one aligned face at a time"):
        swinface.prepare(np.zeros((1, 96, 96, 3), np.uint8), np.zeros(1))


def test_a_file_without_a_section_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict_backbone": {}, "epoch": 1}, tmp_path / "half.pt")
    with pytest.raises(WeightsError, match="section state_dict_fam"):
        create_backbone("swinface", weights=str(tmp_path / "half.pt"))
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(WeightsError, match="0 of 473 names fit"):
        create_backbone("swinface", weights=str(tmp_path / "other.pt"))
