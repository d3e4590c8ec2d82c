"""Released checkpoints become .safetensors: every form they come in, whole or not at all, running nothing."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from released_forms import NTU, agcn_released, as_old_torch, as_openmmlab, with_module
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from mgcli.cache import CacheError
from mgcli.extract import (
    Backbone,
    BackboneError,
    PublishedWeights,
    WeightsError,
    create_backbone,
    describe_weights,
    import_weights,
    read_provenance,
    weights_are_here,
)
from mgcli.extract.backbone_swinface import SwinFace
from mgcli.extract.weights import resolve_weights

TINY = "tiny_backbones:TinyVideo"


@pytest.fixture(autouse=True)
def nowhere_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No weights but those of the test."""
    monkeypatch.delenv("MGCLI_WEIGHTS_DIR", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch-home"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The weights folder."""
    return tmp_path / "weights"


def tiny_state(seed: int = 5) -> dict[str, Tensor]:
    return create_backbone(TINY, weights=f"random:{seed}").state_dict()


def agcn_tokens(backbone: Backbone) -> Tensor:
    torch.manual_seed(0)
    return backbone.embed(torch.randn(1, 3, 12, 25, 2))


@pytest.mark.parametrize(
    ("network", "rewrite"),
    [("agcn", dict), ("agcn", with_module), ("agcn", as_old_torch), ("aagcn", as_openmmlab), ("aagcn", with_module)],
)
def test_every_released_form_of_agcn_gives_the_tokens_of_the_original(
    network: str, rewrite: Callable[[dict[str, Tensor]], dict[str, Any]], tmp_path: Path, folder: Path
) -> None:
    source = tmp_path / "released.pt"
    state = agcn_released(network)
    torch.save(rewrite(state), source)
    imported = import_weights(source, "agcn_bone", weights_dir=folder, options=NTU)
    assert imported.path == folder / "released.safetensors"
    written = load_file(imported.path)
    assert written.keys() <= state.keys()
    assert all(torch.equal(value, state[key]) for key, value in written.items())
    assert imported.left_out == (["meta", "state_dict/backbone.A"] if rewrite is as_openmmlab else [])
    original = create_backbone("agcn_bone", weights=str(source), **NTU)
    converted = create_backbone("agcn_bone", weights=str(imported.path))  # the options are kept with the file
    assert converted.transform == original.transform
    assert torch.equal(agcn_tokens(converted), agcn_tokens(original))
    assert converted.weights.name == original.weights.name == "released.pt"
    assert converted.weights.sha256 == original.weights.sha256


def test_where_it_comes_from_stands_in_the_file(tmp_path: Path, folder: Path) -> None:
    source = tmp_path / "ntu_cv_agcn_bone-49-29400.pt"
    torch.save(as_old_torch(agcn_released(num_people=2)), source)
    imported = import_weights(source, "agcn_bone", weights_dir=folder, options=NTU)
    with safe_open(imported.path, framework="pt") as file:
        metadata = file.metadata()
    provenance = read_provenance(imported.path)
    assert json.loads(metadata["mgcli"]) == provenance == imported.provenance
    assert provenance["source"] == {
        "file": source.name,
        "size_bytes": source.stat().st_size,
        "sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
    }
    assert (provenance["backbone"], provenance["options"]) == ("agcn_bone", NTU)
    assert provenance["licence"] == "CC BY-NC 4.0"
    assert {"num_people": 2, "num_classes": 60, "class": "AGCN"}.items() <= provenance["network"].items()
    assert {"mgcli", "date"} <= provenance.keys()
    assert read_provenance(source) == {}
    mine = import_weights(source, "agcn_bone", out=folder / "mine.safetensors", options=NTU, licence="by letter")
    assert mine.provenance["licence"] == "by letter"
    assert "ntu_cv_agcn_bone-49-29400.pt" in mine.summary()


class Schedule(torch.optim.lr_scheduler.LRScheduler):
    """A schedule of the training's own, which is pickled as a whole, with its optimiser."""

    def get_lr(self) -> list[Any]:
        return [group["lr"] for group in self.optimizer.param_groups]


def training_state() -> dict[str, Any]:
    """What trainings save beside the network."""
    layer = torch.nn.Linear(3, 4)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.rand(2, 3)).sum().backward()
    optimizer.step()
    return {"state_optimizer": optimizer.state_dict(), "state_lr_scheduler": Schedule(optimizer), "epoch": 7}


def test_swinface_is_taken_out_of_its_training_and_found_by_its_name(tmp_path: Path, folder: Path) -> None:
    torch.manual_seed(0)
    network = SwinFace().network
    sections = {name: part.state_dict() for name, part in network.named_children()}
    content = {f"state_dict_{name}": section for name, section in sections.items()}
    content |= {"state_dict_softmax_fc": {"weight": torch.zeros(4, 512)}, **training_state()}
    source = tmp_path / "checkpoint_step_79999_gpu_0.pt"
    torch.save(content, source)
    with pytest.raises(WeightsError, match=rf"mgcli weights import {source} --backbone NAME"):
        create_backbone("swinface", weights=str(source))
    assert not weights_are_here("swinface", folder)
    imported = import_weights(source, "swinface", weights_dir=folder)
    left_out = {"state_dict_softmax_fc", "state_optimizer", "state_lr_scheduler", "epoch"}
    assert (imported.num_tensors, set(imported.left_out)) == (473, left_out)
    assert imported.provenance["licence"] == "MIT"
    assert weights_are_here("swinface", folder)
    found = create_backbone("swinface", weights_dir=folder)
    assert isinstance(found, SwinFace)
    expected = network.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in found.network.state_dict().items())
    assert found.weights.path == folder / "checkpoint_step_79999_gpu_0.safetensors"
    assert (found.weights.name, found.weights.sha256) == (source.name, hashlib.sha256(source.read_bytes()).hexdigest())
    rows = {row["name"]: row["here"] for row in describe_weights(folder)}
    assert rows["swinface"] == f"yes: {found.weights.path}"


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_objects_beside_the_tensors_are_left_out(legacy: bool, tmp_path: Path, folder: Path) -> None:
    content = {"state_dict": tiny_state(), **training_state()}
    torch.save(content, tmp_path / "tiny.pt", _use_new_zipfile_serialization=not legacy)
    imported = import_weights(tmp_path / "tiny.pt", TINY, weights_dir=folder)
    assert imported.left_out == ["state_optimizer", "state_lr_scheduler", "epoch"]
    written = load_file(imported.path)
    assert written.keys() == tiny_state().keys()
    assert all(torch.equal(written[key], value) for key, value in tiny_state().items())


def test_tensors_that_share_memory_are_written_apart(tmp_path: Path, folder: Path) -> None:
    shared = torch.rand(3, 16, 16)
    state = tiny_state() | {"blocks.0.0.weight": shared[0, 0], "blocks.0.0.bias": shared[0, :, 0]}
    torch.save(state, tmp_path / "views.pt")
    imported = import_weights(tmp_path / "views.pt", TINY, weights_dir=folder)
    assert torch.equal(load_file(imported.path)["blocks.0.0.bias"], shared[0, :, 0])
    assert imported.path.stat().st_size < 4 * sum(value.numel() for value in state.values()) + 5000


class _Calls:
    """An object whose unpickling calls a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def touch(path: str) -> None:
    """A function of a package that is no part of Python or torch."""
    Path(path).touch()


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", ["os.system", "builtins.eval", "pathlib.Path.touch", "builtins.getattr"])
def test_code_in_a_checkpoint_is_refused_and_does_not_run(
    name: str, legacy: bool, tmp_path: Path, folder: Path
) -> None:
    ran = tmp_path / "ran"
    bomb = {
        "os.system": _Calls(os.system, f"touch {ran}"),
        "builtins.eval": _Calls(eval, f"open({str(ran)!r}, 'w')"),
        "pathlib.Path.touch": _Calls(Path.touch, ran),
        "builtins.getattr": _Calls(getattr, ran, "parent"),
    }[name]
    source = tmp_path / "bomb.pt"
    torch.save({"state_dict": tiny_state(), "optimizer": bomb}, source, _use_new_zipfile_serialization=not legacy)
    for use in (
        lambda: import_weights(source, TINY, weights_dir=folder),
        lambda: create_backbone(TINY, weights=str(source)),
    ):
        with pytest.raises(WeightsError, match="holds code that would run when loaded; it was not loaded") as raised:
            use()
        assert "weights import" not in str(raised.value)
    assert not ran.exists()
    assert not folder.exists()


def test_a_function_of_another_package_is_not_called_either(tmp_path: Path, folder: Path) -> None:
    torch.save({"state_dict": tiny_state(), "hook": _Calls(touch, str(tmp_path / "ran"))}, tmp_path / "tiny.pt")
    import_weights(tmp_path / "tiny.pt", TINY, weights_dir=folder)
    assert not (tmp_path / "ran").exists()
    torch.save({"state_dict": {**tiny_state(), "stem.bias": _Calls(touch, "ran")}}, tmp_path / "hidden.pt")
    with pytest.raises(WeightsError, match=r"these are no tensors:\n  stem\.bias$"):
        import_weights(tmp_path / "hidden.pt", TINY, weights_dir=folder)


def test_a_partial_checkpoint_is_refused_with_all_its_keys(tmp_path: Path, folder: Path) -> None:
    state = agcn_released()
    lost = [key for key in state if key.startswith("l3.gcn1.conv_") or key == "fc.bias"]
    torch.save({key: value for key, value in state.items() if key not in lost[:-1]}, tmp_path / "part.pt")
    with pytest.raises(WeightsError) as raised:
        import_weights(tmp_path / "part.pt", "agcn_joint", weights_dir=folder, options=NTU)
    message = str(raised.value)
    assert f"{tmp_path / 'part.pt'} was made for another network" in message
    assert f"{len(lost) - 1} missing:\n" in message
    assert all(f"\n  {key}" in message for key in lost[:-1])
    renamed = {key.replace("l1.gcn1.", "l1a."): value for key, value in state.items()}
    torch.save(renamed, tmp_path / "renamed.pt")
    with pytest.raises(WeightsError, match=r"unknown:\n  l1a\.PA\n"):
        import_weights(tmp_path / "renamed.pt", "agcn_joint", weights_dir=folder, options=NTU)
    assert list(folder.iterdir()) == []


def test_a_checkpoint_of_another_model_or_skeleton_is_refused(tmp_path: Path, folder: Path) -> None:
    torch.save(agcn_released(), tmp_path / "ntu.pt")
    with pytest.raises(WeightsError, match=r"ntu\.pt is for 25 joints, layout 'imigue22' has 22; set joints"):
        import_weights(tmp_path / "ntu.pt", "agcn_joint", weights_dir=folder)
    with pytest.raises(WeightsError, match=r"ntu\.pt was made for another network[\s\S]*14 missing:\n  stem\.weight"):
        import_weights(tmp_path / "ntu.pt", TINY, weights_dir=folder)
    torch.save(tiny_state() | {"stem.weight": torch.zeros(2, 2)}, tmp_path / "shape.pt")
    with pytest.raises(WeightsError, match=r"stem\.weight \(2, 2\) instead of \(16, 192\)"):
        import_weights(tmp_path / "shape.pt", TINY, weights_dir=folder)
    torch.save({"state_dict_backbone": {}, "epoch": 1}, tmp_path / "half.pt")
    with pytest.raises(WeightsError, match="section state_dict_fam"):
        import_weights(tmp_path / "half.pt", "swinface", weights_dir=folder)
    torch.save({"state_dict": {}}, tmp_path / "none.pt")
    with pytest.raises(WeightsError, match="holds no state dict"):
        import_weights(tmp_path / "none.pt", TINY, weights_dir=folder)
    with pytest.raises(WeightsError, match="joints is computed without weights"):
        import_weights(tmp_path / "ntu.pt", "joints", weights_dir=folder)
    with pytest.raises(BackboneError, match="no option 'joint'; did you mean 'joints'"):
        import_weights(tmp_path / "ntu.pt", "agcn_joint", weights_dir=folder, options={"joint": "ntu25"})
    with pytest.raises(WeightsError, match=r"no file gone\.pt, neither as a path nor in .*weights"):
        import_weights("gone.pt", TINY, weights_dir=folder)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.7, 0.99])
def test_a_truncated_checkpoint_is_said_to_be_one(legacy: bool, share: float, tmp_path: Path, folder: Path) -> None:
    source = tmp_path / "cut.pt"
    torch.save({"state_dict": tiny_state(), **training_state()}, source, _use_new_zipfile_serialization=not legacy)
    whole = source.read_bytes()
    source.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(WeightsError, match=r"is not a checkpoint, or is cut short|is damaged, or"):
        import_weights(source, TINY, weights_dir=folder)
    assert not folder.exists()


def test_nothing_is_overwritten_unless_asked_for(tmp_path: Path, folder: Path) -> None:
    torch.save(tiny_state(1), tmp_path / "tiny.pt")
    first = import_weights(tmp_path / "tiny.pt", TINY, weights_dir=folder).path
    kept = first.read_bytes()
    torch.save(tiny_state(2), tmp_path / "tiny.pt")
    with pytest.raises(WeightsError, match=r"tiny\.safetensors is there already; --overwrite"):
        import_weights(tmp_path / "tiny.pt", TINY, weights_dir=folder)
    assert first.read_bytes() == kept
    import_weights(tmp_path / "tiny.pt", TINY, weights_dir=folder, overwrite=True)
    assert torch.equal(load_file(first)["stem.weight"], tiny_state(2)["stem.weight"])
    with pytest.raises(WeightsError, match=r"must end in \.safetensors"):
        import_weights(tmp_path / "tiny.pt", TINY, out=folder / "tiny.pth")
    with pytest.raises(WeightsError, match="was written by mgcli and is used as it is"):
        import_weights(first, TINY, out=folder / "again.safetensors")
    save_file(tiny_state(), folder / "plain.safetensors")
    with pytest.raises(WeightsError, match="cannot take its own place"):
        import_weights("plain.safetensors", TINY, weights_dir=folder, overwrite=True)
    assert import_weights(folder / "plain.safetensors", TINY, out=folder / "new.safetensors").num_tensors == 14


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> bytes:
        raise OSError(errno.ENOSPC, "No space left on device")

    torch.save(tiny_state(), tmp_path / "tiny.pt")
    monkeypatch.setattr("mgcli.extract.weights_import.save", full)
    with pytest.raises(CacheError, match=r"no space left while writing .*tiny\.safetensors"):
        import_weights(tmp_path / "tiny.pt", TINY, weights_dir=folder)
    assert list(folder.iterdir()) == []


def test_an_imported_file_stands_for_the_published_one_it_was_made_from(tmp_path: Path, folder: Path) -> None:
    torch.save(tiny_state(), tmp_path / "tiny-1.pth")
    sha256 = hashlib.sha256((tmp_path / "tiny-1.pth").read_bytes()).hexdigest()
    right = PublishedWeights(file="tiny-1.pth", sha256=sha256[:8], url="https://example.org", licence="none")
    wrong = PublishedWeights(file="tiny-1.pth", sha256="0" * 8, url="https://example.org", licence="none")
    path = import_weights(tmp_path / "tiny-1.pth", TINY, weights_dir=folder).path
    for weights in (None, "tiny-1.pth", "tiny-1.safetensors", str(path)):
        found = resolve_weights(weights, right, weights_dir=folder)
        assert (found.path, found.name, found.sha256) == (path, "tiny-1.pth", sha256)
        with pytest.raises(WeightsError, match="was imported from a file with SHA-256"):
            resolve_weights(weights, wrong, weights_dir=folder)
    save_file(tiny_state(), path)  # one that does not say where it comes from
    with pytest.raises(WeightsError, match="damaged or cut short"):
        resolve_weights(None, right, weights_dir=folder)
    assert resolve_weights(str(path), right, weights_dir=folder).name == "tiny-1.safetensors"


def test_an_imported_file_that_was_changed_is_refused(tmp_path: Path, folder: Path) -> None:
    torch.save(tiny_state(), tmp_path / "tiny.pt")
    path = import_weights(tmp_path / "tiny.pt", TINY, weights_dir=folder).path
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    save_file(load_file(path) | {"stem.bias": torch.ones(16)}, path, metadata)
    with pytest.raises(WeightsError, match=r"was changed or damaged since it was imported from tiny\.pt"):
        create_backbone(TINY, weights=str(path))


def test_the_list_of_weights_says_what_is_known(folder: Path) -> None:
    rows = {(row["name"], row["file"]): row for row in describe_weights(folder)}
    mvit = rows["mvit_v2_s", "mvit_v2_s-ae3be167.pth"]
    assert (mvit["size"], mvit["sha256"], mvit["here"]) == ("138 MB", "ae3be167", "no")
    swinface = rows["swinface", "checkpoint_step_79999_gpu_0.pt"]
    assert (swinface["size"], swinface["sha256"], swinface["licence"]) == ("unknown", "-", "MIT")
    assert rows["agcn_bone", "ntu_cs_agcn_bone-49-31300.pt"]["licence"] == "CC BY-NC 4.0"
    assert rows["torchvision:r3d_18", "r3d_18-b3b3357e.pth"]["size"] == "134 MB"
    assert ("timm:NAME", "the model's own") in rows
    folder.mkdir()
    (folder / "ntu_cs_agcn_bone-49-31300.pt").touch()
    here = {row["file"]: row["here"] for row in describe_weights(folder)}
    assert here["ntu_cs_agcn_bone-49-31300.pt"] == f"yes: {folder / 'ntu_cs_agcn_bone-49-31300.pt'}"
