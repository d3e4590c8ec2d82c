"""A released checkpoint as it comes: read without running anything in it, its tensors under the network's own names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mgcli.extract.backbone import Backbone
from mgcli.extract.weights import PublishedWeights, find_weights, weights_folders
from mgcli.extract.weights_agcn import RELEASED
from mgcli.extract.weights_checkpoint import WeightsError, file_sha256, read_provenance, read_released

RELEASED_FORMS: dict[str, str] = {  # backbone -> function that brings a released file's names to its own
    "agcn_joint": "mgcli.extract.weights_agcn:agcn_state",
    "agcn_bone": "mgcli.extract.weights_agcn:agcn_state",
    "swinface": "mgcli.extract.weights_swinface:swinface_state",
}
_MOST_LISTED = 40  # keys of one kind in an error message


@dataclass(frozen=True)
class Source:
    """A checkpoint as it was read: all of the network, or one stream of it."""

    path: Path
    sha256: str
    licence: str
    state: dict[str, Tensor]  # under the network's own names
    left_out: list[str]

    def facts(self) -> dict[str, Any]:
        """What stands in a file that was made from it."""
        return {"file": self.path.name, "size_bytes": self.path.stat().st_size, "sha256": self.sha256}


def find_source(file: str | Path, weights_dir: Path | None) -> Path:
    """A checkpoint that was not written by mgcli.

    Raises:
        WeightsError: it is nowhere, or was imported before.
    """
    source = find_weights(str(file), weights_dir)
    if source is None:
        folders = ", ".join(map(str, weights_folders(weights_dir)))
        raise WeightsError(f"no file {file}, neither as a path nor in {folders}")
    if read_provenance(source):
        raise WeightsError(
            f"{source} was written by mgcli and is used as it is; give it with --weights. "
            "Two streams are joined from the files that they came in"
        )
    return source


def read_source(path: Path, kind: type[Backbone]) -> Source:
    """The tensors of a checkpoint for a backbone, or for one stream of one.

    Raises:
        WeightsError: it is damaged, holds code or no state dict, or is published for another backbone.
    """
    published_for = [name for name, known in RELEASED.items() if any(each.file == path.name for each in known)]
    if published_for and kind.name not in published_for:
        raise WeightsError(f"{path} is published as weights of {published_for[0]}, not of {kind.name}")
    content = read_released(path)
    named = _own_names(content, kind, path)
    sha256 = file_sha256(path)
    return Source(
        path=path,
        sha256=sha256,
        licence=_known_licence(kind, path.name, sha256),
        state={key: _plain(key, value, path) for key, value in named.items()},
        left_out=_left_out(content, named),
    )


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
        raise WeightsError(f"{source} holds no state dict: these are no tensors:{listed(others)}")
    return dict(state)


def _plain(key: str, value: Tensor, source: Path) -> Tensor:
    """A tensor that shares its memory with no other."""
    if value.layout != torch.strided or value.is_quantized or value.is_meta:
        raise WeightsError(f"{source}: {key} is sparse, quantized or without values; only plain tensors can be kept")
    return value.detach().clone(memory_format=torch.contiguous_format)


def weights_licence(backbone: Backbone) -> str:
    """The licence of the file that a backbone was filled from; empty where there is no file."""
    path = backbone.weights.path
    if path is None:
        return ""
    if backbone.trained_on is not None:
        return "your own, by mgcli backbone-train"
    return read_provenance(path).get("licence") or _known_licence(type(backbone), path.name, backbone.weights.sha256)


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


def listed(keys: list[str]) -> str:
    """Keys for a message, one a line, as far as that is readable."""
    lines = keys[:_MOST_LISTED] + ([f"and {len(keys) - _MOST_LISTED} more"] if len(keys) > _MOST_LISTED else [])
    return "".join(f"\n  {line}" for line in lines)
