"""Weights files: found by name, verified by SHA-256, fetched where they are published."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import torch

from mgcli.extract.weights_checkpoint import (
    MissingWeightsError,
    WeightsError,
    file_sha256,
    read_checkpoint,
    read_provenance,
    tensors_sha256,
)

WEIGHTS_DIR_VARIABLE = "MGCLI_WEIGHTS_DIR"
_RANDOM = re.compile(r"random:(\d{1,9})")
_DOWNLOAD_TIMEOUT_S = 30


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
            raise MissingWeightsError(_missing_message(name, own, weights_dir))
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
