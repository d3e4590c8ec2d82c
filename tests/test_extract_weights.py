"""Weights are found by name, known by their hash, and never trusted to run code."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models.video import mvit_v2_s

from mgcli.extract import PublishedWeights, WeightsError, create_backbone, download_weights
from mgcli.extract.weights import resolve_weights
from mgcli.extract.weights_checkpoint import load_weights

TINY = "tiny_backbones:TinyVideo"


@pytest.fixture(autouse=True)
def nowhere_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No weights but those of the test."""
    monkeypatch.delenv("MGCLI_WEIGHTS_DIR", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch-home"))


@pytest.fixture
def tiny_state() -> dict[str, torch.Tensor]:
    return create_backbone(TINY, weights="random:5").state_dict()


def published(content: bytes, url: str = "https://example.org/tiny.pth") -> PublishedWeights:
    sha256 = hashlib.sha256(content).hexdigest()
    return PublishedWeights(file="tiny.pth", sha256=sha256[:8], url=url, licence="none")


@pytest.mark.parametrize("name", ["tiny.pth", "tiny.safetensors"])
def test_a_file_is_loaded_and_recorded_with_its_hash(
    name: str, tmp_path: Path, tiny_state: dict[str, torch.Tensor]
) -> None:
    path = tmp_path / name
    if path.suffix == ".pth":
        torch.save({"state_dict": tiny_state}, path)
    else:
        save_file(tiny_state, path)
    backbone = create_backbone(TINY, weights=str(path))
    assert all(torch.equal(value, tiny_state[key]) for key, value in backbone.state_dict().items())
    assert backbone.weights.name == name
    assert backbone.weights.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_mvit_v2_s_takes_torchvisions_own_file(tmp_path: Path) -> None:
    released = mvit_v2_s().state_dict()
    torch.save(released, tmp_path / "mvit.pth")
    loaded = create_backbone("mvit_v2_s", weights=str(tmp_path / "mvit.pth")).state_dict()
    assert all(torch.equal(loaded[f"network.{key}"], value) for key, value in released.items())


def test_batch_counters_may_be_missing_and_nothing_else(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.BatchNorm2d(3))
    state = {**module.state_dict(), "0.weight": torch.rand(3)}
    del state["0.num_batches_tracked"]
    torch.save(state, tmp_path / "old.pth")
    load_weights(module, tmp_path / "old.pth")
    assert torch.equal(module.state_dict()["0.weight"], state["0.weight"])
    del state["0.bias"]
    torch.save(state, tmp_path / "part.pth")
    with pytest.raises(WeightsError, match=r"it lacks 0\.bias and has nothing"):
        load_weights(module, tmp_path / "part.pth")


def test_a_name_is_found_in_the_folder_given_then_in_the_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("given", "variable", "torch-home/hub/checkpoints"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "tiny.pth").write_bytes(b"tiny")
    monkeypatch.setenv("MGCLI_WEIGHTS_DIR", str(tmp_path / "variable"))
    expected = published(b"tiny")
    for folder in ("given", "variable", "torch-home/hub/checkpoints"):
        found = resolve_weights(None, expected, weights_dir=tmp_path / "given")
        assert found.path == tmp_path / folder / "tiny.pth"
        found.path.unlink()


def test_missing_weights_say_what_where_and_how(tmp_path: Path) -> None:
    with pytest.raises(WeightsError) as raised:
        create_backbone("mvit_v2_s", weights_dir=tmp_path)
    message = str(raised.value)
    for part in ("mvit_v2_s-ae3be167.pth", "ae3be167", str(tmp_path), "--weights FILE", "--weights random:0", "https"):
        assert part in message
    with pytest.raises(WeightsError, match=r"no weights file gone\.pth"):
        create_backbone("mvit_v2_s", weights="gone.pth", weights_dir=tmp_path)


def test_a_published_name_with_other_bytes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mvit_v2_s-ae3be167.pth").write_bytes(b"half a file")
    with pytest.raises(WeightsError, match="damaged or cut short"):
        create_backbone("mvit_v2_s", weights_dir=tmp_path)


def test_a_checkpoint_of_another_network_names_what_does_not_fit(
    tmp_path: Path, tiny_state: dict[str, torch.Tensor]
) -> None:
    path = tmp_path / "other.pth"
    torch.save({"conv.weight": torch.zeros(3), **dict(list(tiny_state.items())[1:])}, path)
    with pytest.raises(WeightsError, match=r"lacks stem\.weight and has conv\.weight"):
        create_backbone(TINY, weights=str(path))
    torch.save(tiny_state | {"stem.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(WeightsError, match=r"stem\.weight \(2, 2\) instead of \(16, 192\)"):
        create_backbone(TINY, weights=str(path))
    torch.save([1, 2, 3], path)
    with pytest.raises(WeightsError, match="no state dict"):
        create_backbone(TINY, weights=str(path))


class _Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.target,)


def test_a_checkpoint_that_would_run_code_is_refused_and_does_not_run_it(tmp_path: Path) -> None:
    for name, save in (
        ("zip.pth", torch.save),
        ("plain.pth", lambda it, path: path.write_bytes(pickle.dumps(it, protocol=2))),
    ):
        save({"stem.weight": _Bomb(tmp_path / "ran")}, tmp_path / name)
        with pytest.raises(WeightsError, match="holds code that would run when loaded; it was not loaded"):
            create_backbone(TINY, weights=str(tmp_path / name))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["cut.pth", "cut.safetensors", "noise.pth", "noise.safetensors", "empty.pth"])
def test_a_broken_checkpoint_is_said_to_be_one(name: str, tmp_path: Path, tiny_state: dict[str, torch.Tensor]) -> None:
    path = tmp_path / name
    (save_file if path.suffix == ".safetensors" else torch.save)(tiny_state, path)
    whole = path.read_bytes()
    path.write_bytes({"cut": whole[: len(whole) * 2 // 3], "noise": b"\x13 noise" * 999, "empty": b""}[path.stem])
    with pytest.raises(WeightsError, match=r"not a checkpoint, or is cut short|is damaged, or"):
        create_backbone(TINY, weights=str(path))


def test_a_download_gets_its_name_only_once_its_hash_is_right(tmp_path: Path) -> None:
    remote = tmp_path / "remote.pth"
    remote.write_bytes(b"the real thing")
    folder = tmp_path / "weights"
    right = published(b"the real thing", remote.as_uri())
    wrong = published(b"something else", remote.as_uri())
    with pytest.raises(WeightsError, match="gave a file with SHA-256"):
        download_weights(wrong, folder)
    assert list(folder.iterdir()) == []
    assert resolve_weights(None, right, weights_dir=folder, download=True).path == folder / "tiny.pth"
    assert (folder / "tiny.pth").read_bytes() == b"the real thing"
    gone = published(b"", (tmp_path / "gone.pth").as_uri())
    with pytest.raises(WeightsError, match=r"cannot download .*no weights file tiny.pth .*--weights random:0"):
        download_weights(gone, folder)
