"""A released checkpoint brought once to a .safetensors file: the network's tensors under its own names, nothing else.

What it was made from stands in the file's metadata, under `mgcli`, as JSON: the source's name, size and SHA-256,
the backbone with its options, the licence where it is known, when and by which version. `resolve_weights` goes by it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from mgcli.cache import committed_file, writing
from mgcli.extract.backbone import Backbone, backbone_class, create_backbone
from mgcli.extract.weights import (
    PROVENANCE_KEY,
    PublishedWeights,
    WeightsError,
    file_sha256,
    find_weights,
    read_provenance,
    read_released,
    tensors_sha256,
    weights_folders,
)
from mgcli.extract.weights_agcn import RELEASED

RELEASED_FORMS: dict[str, str] = {  # backbone -> function that brings a released file's names to its own
    "agcn_joint": "mgcli.extract.weights_agcn:agcn_state",
    "agcn_bone": "mgcli.extract.weights_agcn:agcn_state",
    "swinface": "mgcli.extract.weights_swinface:swinface_state",
}
_MOST_LISTED = 40  # keys of one kind in an error message


@dataclass(frozen=True, kw_only=True)
class ImportedWeights:
    """What an import wrote."""

    path: Path
    backbone: str
    num_tensors: int
    size_mb: float  # 10^6 bytes
    left_out: list[str]  # names in the source that are no part of the network
    provenance: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """All of it as plain JSON values."""
        return asdict(self) | {"path": str(self.path)}

    def summary(self) -> str:
        """A line or two for people."""
        left_out = f"\nleft out: {', '.join(self.left_out)}" if self.left_out else ""
        source = self.provenance["source"]["file"]
        return f"{source}: {self.num_tensors} tensors of {self.backbone} -> {self.path} ({self.size_mb} MB){left_out}"


def import_weights(
    file: str | Path,
    backbone: str,
    *,
    out: Path | None = None,
    weights_dir: Path | None = None,
    options: Mapping[str, Any] | None = None,
    licence: str | None = None,
    overwrite: bool = False,
) -> ImportedWeights:
    """Convert a released checkpoint to .safetensors, once it is shown to fill the backbone, name by name.

    Nothing in the checkpoint is run, whatever it holds.

    Args:
        file: the checkpoint, or its name in a weights folder.
        backbone: that it is for.
        out: file to write; by default the checkpoint's name with .safetensors, in the first weights folder, where
            `create_backbone` finds it by that name.
        weights_dir: first weights folder; then MGCLI_WEIGHTS_DIR and torch's hub cache.
        options: of the backbone, such as joints="ntu25"; kept with the file.
        licence: of the checkpoint, where mgcli does not know it.
        overwrite: replace a file that is there.

    Raises:
        WeightsError: the checkpoint is missing, damaged, holds code, or does not fit; in the last case the message
            lists the names. Or the file is there already.
        BackboneError: unknown backbone or option.
        CacheError: the disk is full or read-only.
    """
    kind = backbone_class(backbone)
    if not kind.has_weights:
        raise WeightsError(f"{kind.name} is computed without weights; there is nothing to import")
    source = find_weights(str(file), weights_dir)
    if source is None:
        folders = ", ".join(map(str, weights_folders(weights_dir)))
        raise WeightsError(f"no file {file}, neither as a path nor in {folders}")
    if read_provenance(source):
        raise WeightsError(f"{source} was written by mgcli and is used as it is; give it with --weights")
    path = _target(source, out, weights_dir, overwrite)
    content = read_released(source)
    named = _own_names(content, kind, source)
    state = {key: _plain(key, value, source) for key, value in named.items()}
    fresh = create_backbone(backbone, weights="random:0", **(options or {}))
    sha256 = file_sha256(source)
    provenance: dict[str, Any] = {
        "source": {"file": source.name, "size_bytes": source.stat().st_size, "sha256": sha256},
        "licence": licence or _known_licence(kind, source.name, sha256),
        "backbone": kind.name,
        "options": dict(options or {}),
        "tensors_sha256": tensors_sha256(state),
        "mgcli": version("mgcli"),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with committed_file(path) as temporary:
            temporary.write_bytes(save(state))
            _check_fit(fresh, temporary, state, source)
            provenance["network"] = _network_facts(fresh)
            temporary.write_bytes(save(state, {PROVENANCE_KEY: json.dumps(provenance)}))
            size_mb = round(temporary.stat().st_size / 1e6, 1)
    return ImportedWeights(
        path=path,
        backbone=kind.name,
        num_tensors=len(state),
        size_mb=size_mb,
        left_out=_left_out(content, named),
        provenance=provenance,
    )


def _target(source: Path, out: Path | None, weights_dir: Path | None, overwrite: bool) -> Path:
    """Where the new file goes.

    Raises:
        WeightsError: it would be no .safetensors, or something is there already.
    """
    path = out or weights_folders(weights_dir)[0] / f"{source.stem}.safetensors"
    if path.suffix != ".safetensors":
        raise WeightsError(f"{path} must end in .safetensors; choose another --out")
    if path.exists() and path.samefile(source):
        raise WeightsError(f"{path} cannot take its own place; choose another with --out")
    if path.exists() and not overwrite:
        raise WeightsError(f"{path} is there already; --overwrite replaces it, --out writes another")
    return path


def _own_names(content: Mapping[str, Any], kind: type[Backbone], source: Path) -> dict[str, Tensor]:
    """The network's tensors, still as they were read, under the names that the backbone gives them.

    Raises:
        WeightsError: there is something else among them.
    """
    state = content.get("state_dict", content)
    if isinstance(state, Mapping) and kind.name in RELEASED_FORMS:
        module_name, _, function = RELEASED_FORMS[kind.name].partition(":")
        to_own_names: Callable[[Mapping[str, Any]], dict[str, Any]] = getattr(import_module(module_name), function)
        state = to_own_names(state)
    if not isinstance(state, Mapping) or not state:
        raise WeightsError(f"{source} holds no state dict (names and tensors)")
    others = [str(key) for key, value in state.items() if not isinstance(key, str) or not isinstance(value, Tensor)]
    if others:
        raise WeightsError(f"{source} holds no state dict: these are no tensors:{_listed(others)}")
    return dict(state)


def _plain(key: str, value: Tensor, source: Path) -> Tensor:
    """A tensor that shares its memory with no other."""
    if value.layout != torch.strided or value.is_quantized or value.is_meta:
        raise WeightsError(f"{source}: {key} is sparse, quantized or without values; only plain tensors can be kept")
    return value.detach().clone(memory_format=torch.contiguous_format)


def _check_fit(fresh: Backbone, written: Path, state: Mapping[str, Tensor], source: Path) -> None:
    """Fill a freshly built backbone with the new file.

    Raises:
        WeightsError: it does not fit; with the names, all of them as far as that is readable.
    """
    try:
        fresh.load_checkpoint(written)
    except WeightsError as error:
        message = str(error).replace(str(written), str(source))
        expected = getattr(fresh, "network", fresh).state_dict()
        missing = [key for key in expected if key not in state and not key.endswith(".num_batches_tracked")]
        unknown = [key for key in state if key not in expected]
        if missing:
            message += f"\n{len(missing)} missing:{_listed(missing)}"
        if unknown:
            message += f"\n{len(unknown)} unknown:{_listed(unknown)}"
        raise WeightsError(message) from error


def _network_facts(filled: Backbone) -> dict[str, Any]:
    """What a checkpoint made of the backbone's network."""
    network = getattr(filled, "network", filled)
    facts = {name: getattr(network, name, None) for name in ("num_people", "num_classes")}
    return {
        "class": type(network).__name__,
        "num_parameters": sum(each.numel() for each in network.parameters()),
        **{name: value for name, value in facts.items() if isinstance(value, int)},
    }


def _known_licence(kind: type[Backbone], file: str, sha256: str) -> str:
    """The licence of a file that its authors publish under this name, and with this hash if they give one."""
    candidates: list[PublishedWeights] = [*RELEASED.get(kind.name, ())]
    if kind.published is not None:
        candidates.append(kind.published)
    fitting = (each for each in candidates if each.file == file and sha256.startswith(each.sha256))
    return next((each.licence for each in fitting), "unknown")


def _left_out(content: Mapping[str, Any], named: Mapping[str, Tensor]) -> list[str]:
    """Names in the source, of entries or of tensors in an entry, that are not among the network's."""
    used = {id(value) for value in named.values()}
    left_out: list[str] = []
    for name, entry in content.items():
        inner = entry.items() if isinstance(entry, Mapping) else ()
        if any(id(value) in used for _, value in inner):
            left_out += [f"{name}/{key}" for key, value in inner if id(value) not in used]
        elif id(entry) not in used:
            left_out.append(str(name))
    return left_out


def _listed(keys: list[str]) -> str:
    lines = keys[:_MOST_LISTED] + ([f"and {len(keys) - _MOST_LISTED} more"] if len(keys) > _MOST_LISTED else [])
    return "".join(f"\n  {line}" for line in lines)
