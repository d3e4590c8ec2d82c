"""Weights of one stream of 2s-AGCN: two released files become one, and the other stream's are refused."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from released_forms import NTU, agcn_released, as_old_torch, as_openmmlab, with_module
from torch import Tensor

from mgcli.extract import WeightsError, create_backbone, import_weights


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The weights folder."""
    return tmp_path / "weights"


def two_released(folder: Path, rewrite: Callable[[dict[str, Tensor]], dict[str, Any]], network: str) -> list[Path]:
    """A file of the joint stream and one of the bone stream."""
    paths = []
    for stream, shift in (("joint", 0.0), ("bone", 0.02)):
        state = {key: value + shift if key == "fc.weight" else value for key, value in agcn_released(network).items()}
        paths.append(folder / f"{stream}.pt")
        torch.save(rewrite(state), paths[-1])
    return paths


@pytest.mark.parametrize(
    ("network", "rewrite"), [("agcn", with_module), ("agcn", as_old_torch), ("aagcn", as_openmmlab)]
)
def test_two_released_streams_become_one_file(
    network: str, rewrite: Callable[[dict[str, Tensor]], dict[str, Any]], tmp_path: Path, folder: Path
) -> None:
    sources = two_released(tmp_path, rewrite, network)
    imported = import_weights(sources, "agcn_two_stream", weights_dir=folder, options=NTU)
    assert imported.path == folder / "joint-two_stream.safetensors"
    hashes = [hashlib.sha256(source.read_bytes()).hexdigest() for source in sources]
    both = hashlib.sha256("".join(hashes).encode()).hexdigest()
    facts = imported.provenance["source"]
    assert (facts["file"], facts["sha256"]) == ("joint.pt+bone.pt", both)
    assert [each["sha256"] for each in facts["files"]] == hashes
    assert imported.left_out == (["meta", "state_dict/backbone.A"] * 2 if rewrite is as_openmmlab else [])
    joined = create_backbone("agcn_two_stream", weights="joint-two_stream.safetensors", weights_dir=folder)
    assert (joined.weights.name, joined.weights.sha256) == ("joint.pt+bone.pt", both)
    torch.manual_seed(0)
    inputs = torch.randn(1, 2, 3, 12, 25, 2)
    tokens, kept = joined.embed_with_companions(inputs)
    scores = torch.zeros(())
    for number, name in enumerate(("agcn_joint", "agcn_bone")):
        alone = create_backbone(name, weights=str(sources[number]), **NTU)
        expected, expected_kept = alone.embed_with_companions(inputs[:, number])
        torch.testing.assert_close(tokens[..., 256 * number : 256 * (number + 1)], expected)
        half = create_backbone(name, weights=str(imported.path))  # one stream of the joined file
        torch.testing.assert_close(half.embed(inputs[:, number]), expected)
        scores = scores + expected_kept["class_scores"]
    torch.testing.assert_close(kept["class_scores"], scores)


def test_two_files_that_are_no_two_streams_are_refused(tmp_path: Path, folder: Path) -> None:
    joint, bone = two_released(tmp_path, dict, "agcn")
    with pytest.raises(WeightsError, match=r"agcn_joint is imported from one file; 2 were given"):
        import_weights([joint, bone], "agcn_joint", weights_dir=folder, options=NTU)
    with pytest.raises(WeightsError, match=r"from those of agcn_joint and agcn_bone; 3 were given"):
        import_weights([joint, bone, bone], "agcn_two_stream", weights_dir=folder, options=NTU)
    with pytest.raises(WeightsError, match=r"mgcli weights import JOINT BONE --backbone agcn_two_stream"):
        import_weights(joint, "agcn_two_stream", weights_dir=folder, options=NTU)
    known = bone.rename(tmp_path / "ntu_cv_agcn_bone-49-29400.pt")
    with pytest.raises(WeightsError, match=r"29400\.pt is published as weights of agcn_bone, not of agcn_joint"):
        import_weights([known, joint], "agcn_two_stream", weights_dir=folder, options=NTU)
    torch.save(agcn_released("aagcn"), tmp_path / "other.pt")
    with pytest.raises(WeightsError, match=r"joint\.pt \+ .*other\.pt: its two streams are of different networks"):
        import_weights([joint, tmp_path / "other.pt"], "agcn_two_stream", weights_dir=folder, options=NTU)
    part = {key: value for key, value in agcn_released().items() if key != "l3.gcn1.PA"}
    torch.save(part, tmp_path / "part.pt")
    with pytest.raises(WeightsError, match=r"1 missing:\n  bone_stream\.l3\.gcn1\.PA$"):
        import_weights([joint, tmp_path / "part.pt"], "agcn_two_stream", weights_dir=folder, options=NTU)
    assert not folder.exists() or list(folder.iterdir()) == []


@pytest.mark.parametrize(("stream", "other"), [("agcn_joint", "agcn_bone"), ("agcn_bone", "agcn_joint")])
def test_weights_of_the_other_stream_are_refused(stream: str, other: str, tmp_path: Path, folder: Path) -> None:
    torch.save(agcn_released(), tmp_path / "ntu.pt")
    path = import_weights(tmp_path / "ntu.pt", stream, weights_dir=folder, options=NTU).path
    assert create_backbone(stream, weights=str(path)).weights.name == "ntu.pt"
    with pytest.raises(WeightsError, match=rf"was imported as weights of {stream}, not of {other}: use --backbone"):
        create_backbone(other, weights=str(path))
