"""Weights files: found by name, verified by SHA-256, loaded without running any code they may hold."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import secrets
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from mgcli.cache import MgcliError
from mgcli.extract.weights_inert import READ_ERRORS, read_inert

WEIGHTS_DIR_VARIABLE = "MGCLI_WEIGHTS_DIR"
PROVENANCE_KEY = "mgcli"  # of a .safetensors file's metadata; its value is JSON
_RANDOM = re.compile(r"random:(\d{1,9})")
_DOWNLOAD_TIMEOUT_S = 30


class WeightsError(MgcliError):
    """Weights that are missing, damaged, or made for another network."""


@dataclass(frozen=True, kw_only=True)
class PublishedWeights:
    """A checkpoint that its authors publish: what it is called and how to know it."""

    file: str
    sha256: str  # full, or the leading digits that its publisher gives; empty where none are given
    url: str  # of the file; empty where there is no direct link
    licence: str
    page: str = ""  # where to find it, if there is no direct link
    size_mb: float | None = None  # 10^6 bytes; None where it is not known


@dataclass(frozen=True, kw_only=True)
class Weights:
    """What a backbone is filled with. `name` and `sha256` go into the spec of its tokens.

    Those of an imported file are those of the checkpoint it was made from: its tensors are the same, so its tokens
    are, whoever imported it and when.
    """

    name: str  # file name, "random:SEED" or "none"
    sha256: str = ""
    path: Path | None = None
    seed: int | None = None


def resolve_weights(
    weights: str | None,
    published: PublishedWeights | None,
    *,
    weights_dir: Path | None = None,
    download: bool = False,
) -> Weights:
    """The weights that a caller means.

    Args:
        weights: path of a file, its name in a weights folder, "random:SEED", or None for the published ones.
        published: the backbone's own checkpoint; None where it has none. What `mgcli weights import` made of it
            stands for it.
        weights_dir: folder looked in first; then MGCLI_WEIGHTS_DIR and torch's hub cache.
        download: fetch the published file when it is nowhere.

    Raises:
        WeightsError: no such file, or one with another SHA-256 than its name promises.
    """
    if weights is None and published is None:
        return Weights(name="none")
    if weights is not None and weights.startswith("random"):
        match = _RANDOM.fullmatch(weights)
        if match is None:
            raise WeightsError(f"weights {weights!r} are not random:SEED with a whole SEED; write for example random:0")
        return Weights(name=weights, seed=int(match[1]))
    name = weights or (published.file if published else "")
    own = published if published is not None and Path(name).stem == Path(published.file).stem else None
    path = find_weights(name, weights_dir) if weights is not None else None
    if path is None and own is not None:
        path = find_published(own, weights_dir)
    if path is None:
        if own is None or not download or not own.url:
            raise WeightsError(_missing_message(name, own, weights_dir))
        path = download_weights(own, weights_dir)
    imported = _imported(path)
    found = imported or Weights(name=path.name, sha256=file_sha256(path), path=path)
    must_be_own = own is not None and (weights is None or path.name == own.file or imported is not None)
    if own is not None and must_be_own and not found.sha256.startswith(own.sha256):
        raise WeightsError(
            f"{path} {'was imported from a file with' if imported else 'has'} SHA-256 {found.sha256[:12]}..., but "
            f"{own.file} has {own.sha256}...: it is damaged or cut short. Delete it and fetch it again from {own.url}"
        )
    return found


def weights_folders(weights_dir: Path | None = None) -> list[Path]:
    """Where weights are looked for, in order."""
    variable = os.environ.get(WEIGHTS_DIR_VARIABLE)
    folders = [weights_dir, Path(variable) if variable else None, Path(torch.hub.get_dir()) / "checkpoints"]
    return [folder for folder in folders if folder is not None]


def download_weights(published: PublishedWeights, weights_dir: Path | None = None) -> Path:
    """Fetch a published checkpoint into the first weights folder; it gets its name only once its hash is right.

    Raises:
        WeightsError: no network, no room, or other bytes than published.
    """
    folder = weights_folders(weights_dir)[0]
    path = folder / published.file
    temporary = folder / f".tmp-{secrets.token_hex(4)}-{published.file}"
    sha256 = hashlib.sha256()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (
            urllib.request.urlopen(published.url, timeout=_DOWNLOAD_TIMEOUT_S) as response,
            temporary.open("wb") as file,
        ):
            while block := response.read(1 << 20):
                sha256.update(block)
                file.write(block)
        if not sha256.hexdigest().startswith(published.sha256):
            raise WeightsError(
                f"{published.url} gave a file with SHA-256 {sha256.hexdigest()[:12]}..., not {published.sha256}...; "
                "try again later, or get it elsewhere and pass --weights FILE"
            )
        temporary.replace(path)
    except (urllib.error.URLError, OSError) as error:
        missing = _missing_message(published.file, published, weights_dir)
        raise WeightsError(f"cannot download {published.url} ({error}); {missing}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def load_weights(module: nn.Module, path: Path) -> None:
    """Fill a module with a checkpoint, key by key, none missing and none left over.

    Raises:
        WeightsError: the file is damaged, holds code, or was made for another network.
    """
    load_state(module, read_state_dict(path), path)


def load_state(module: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Fill a module with tensors that were read from `path`, key by key, none missing and none left over.

    Batch counters may be missing: PyTorch before 0.4.1 did not write them, and a frozen batch norm has no use
    for them.

    Raises:
        WeightsError: the tensors are those of another network; the message lists the keys.
    """
    expected = module.state_dict()
    counters = {key: value for key, value in expected.items() if key.endswith(".num_batches_tracked")}
    fitting = len(expected.keys() & state.keys())
    state = counters | state
    missing = sorted(expected.keys() - state.keys())
    unexpected = sorted(state.keys() - expected.keys())
    if missing or unexpected:
        raise WeightsError(
            f"{path} was made for another network: it lacks {_some(missing)} and has {_some(unexpected)}, "
            f"{fitting} of {len(expected)} names fit"
        )
    reshaped = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(expected[key].shape)}"
        for key in expected
        if state[key].shape != expected[key].shape
    ]
    if reshaped:
        raise WeightsError(f"{path} was made for another network: shapes differ in {_some(reshaped)}")
    module.load_state_dict(state, strict=True)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Names and tensors of a .safetensors file or a torch checkpoint; nothing in it is executed.

    A checkpoint is a plain state dict, or a dict that holds one under "state_dict".

    Raises:
        WeightsError: the file cannot be read, or holds something else.
    """
    content = read_checkpoint(path)
    content = content.get("state_dict", content)
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise WeightsError(f"{path} holds no state dict (names and tensors)")
    return content


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Everything that a .safetensors file or a torch checkpoint holds; nothing in it is executed.

    Raises:
        WeightsError: the file cannot be read, or is no dict.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        read_released(path)  # says what is wrong, unless the other objects can be left out
        raise WeightsError(
            f"{path} holds other objects beside its tensors, such as an optimiser. Take the tensors out once with: "
            f"mgcli weights import {path} --backbone NAME"
        ) from error
    except READ_ERRORS as error:
        raise WeightsError(f"{path} is not a checkpoint, or is cut short: {_first_line(error)}") from error
    return _checked_dict(content, path)


def read_released(path: Path) -> dict[str, Any]:
    """The same of a checkpoint that holds other objects as well; empty ones stand in for these.

    Raises:
        WeightsError: the file cannot be read, names code of the standard library, or is no dict.
    """
    if path.suffix == ".safetensors":
        return read_checkpoint(path)
    try:
        content = read_inert(path)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} is damaged, or holds code that would run when loaded; it was not loaded{_reason(error)}. "
            "A checkpoint should hold only a state_dict(), saved with torch.save or as .safetensors"
        ) from error
    except READ_ERRORS as error:
        raise WeightsError(f"{path} is not a checkpoint, or is cut short: {_first_line(error)}") from error
    return _checked_dict(content, path)


def _checked_dict(content: Any, path: Path) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise WeightsError(f"{path} holds no state dict (names and tensors)")
    return content


def read_provenance(path: Path) -> dict[str, Any]:
    """What a .safetensors file written by mgcli says of its making; empty for any other file.

    Raises:
        WeightsError: the file cannot be read.
    """
    if path.suffix != ".safetensors":
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            content = json.loads((file.metadata() or {}).get(PROVENANCE_KEY, "{}"))
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path} is not a checkpoint, or is cut short: {_first_line(error)}") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: what it says of its making is no JSON object")
    return content


def state_sha256(module: nn.Module) -> str:
    """SHA-256 over a module's parameters and buffers, for weights that come with no file."""
    return _digest(module.state_dict())


def tensors_sha256(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over named tensors, whatever their order and whatever else is in their file."""
    return _digest({key: state[key] for key in sorted(state)})


def _digest(state: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for key, value in state.items():
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def find_weights(name: str, weights_dir: Path | None) -> Path | None:
    """A file of this name: as a path, or in one of the weights folders; None where there is none."""
    candidates = [Path(name), *(folder / name for folder in weights_folders(weights_dir))]
    return next((path for path in candidates if path.is_file()), None)


def find_published(published: PublishedWeights, weights_dir: Path | None) -> Path | None:
    """A published file, or what was imported from it: the same name as .safetensors. That is taken where both are."""
    imported = find_weights(f"{Path(published.file).stem}.safetensors", weights_dir)
    return imported or find_weights(published.file, weights_dir)


def _imported(path: Path) -> Weights | None:
    """What `mgcli weights import` made, under the name and hash of the checkpoint it came from; None for other files.

    Raises:
        WeightsError: its tensors are no longer those that were imported.
    """
    provenance = read_provenance(path)
    source = provenance.get("source")
    if not isinstance(source, dict):
        return None
    name, sha256 = str(source.get("file")), str(source.get("sha256"))
    if tensors_sha256(read_checkpoint(path)) != provenance.get("tensors_sha256"):
        raise WeightsError(f"{path} was changed or damaged since it was imported from {name}; import that file again")
    return Weights(name=name, sha256=sha256, path=path)


def trained_file(stem: str, protocol: str) -> str:
    """Name of the checkpoint that `mgcli backbone-train` makes of a protocol's training split."""
    return f"{stem}-{re.sub(r'[^A-Za-z0-9._-]+', '_', protocol)}.safetensors"


def _missing_message(name: str, published: PublishedWeights | None, weights_dir: Path | None) -> str:
    folders = ", ".join(map(str, weights_folders(weights_dir)))
    if published is None:
        return f"no weights file {name}, neither as a path nor in {folders}"
    sha256 = f" (SHA-256 {published.sha256}...)" if published.sha256 else ""
    return (
        f"no weights file {published.file}{sha256} in {folders}. "
        f"Download {published.url or f'it ({published.page})'} into the first of these, or set "
        f"{WEIGHTS_DIR_VARIABLE}, or use "
        "--weights FILE; --weights random:0 runs without (for trying things out: such tokens mean little)"
    )


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes.

    Raises:
        WeightsError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"cannot read the weights file {path}: {error.strerror}") from error


def _some(names: list[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "nothing") + more


def _reason(error: pickle.UnpicklingError) -> str:
    """What torch's reader stopped at, out of its long message; empty where it does not say."""
    found = re.search(r"npickler error:\s*(?:Unsupported global: GLOBAL (\S+)|([^\n]+))", str(error))
    return f" ({found[1] or found[2]})" if found else ""


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
