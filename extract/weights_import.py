"""A released checkpoint brought once to a .safetensors file: the network's tensors under its own names, nothing else.

What it was made from stands in the file's metadata, under `mgcli`, as JSON: the source's name, size and SHA-256,
the backbone with its options, the licence where it is known, when and by which version. `resolve_weights` goes by it.
Two files of one stream each become one file of both; its source is then both names and the SHA-256 over both hashes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor, nn

from mgcli.cache import committed_file, writing
from mgcli.extract.backbone import Backbone, backbone_class, create_backbone
from mgcli.extract.weights import weights_folders
from mgcli.extract.weights_checkpoint import PROVENANCE_KEY, WeightsError, tensors_sha256
from mgcli.extract.weights_released import Source, find_source, listed, read_source

JOINED: dict[str, dict[str, str]] = {  # backbone -> its parts, in order, and the backbones whose files they are
    "agcn_two_stream": {"joint_stream": "agcn_joint", "bone_stream": "agcn_bone"},
}


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
    file: str | Path | Sequence[str | Path],
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
        file: the checkpoint, or its name in a weights folder; or two of one stream each, joint stream first, which
            are joined for agcn_two_stream.
        backbone: that it is for.
        out: file to write; by default the checkpoint's name with .safetensors, or the first one's with
            -two_stream.safetensors, in the first weights folder, where `create_backbone` finds it by that name.
        weights_dir: first weights folder; then MGCLI_WEIGHTS_DIR and torch's hub cache.
        options: of the backbone, such as joints="ntu25"; kept with the file.
        licence: of the checkpoint, where mgcli does not know it.
        overwrite: replace a file that is there.

    Raises:
        WeightsError: the checkpoint is missing, damaged, holds code, is published for another backbone, or does not
            fit; in the last case the message lists the names. Or the file is there already.
        BackboneError: unknown backbone or option.
        CacheError: the disk is full or read-only.
    """
    kind = backbone_class(backbone)
    if not kind.has_weights:
        raise WeightsError(f"{kind.name} is computed without weights; there is nothing to import")
    files = [file] if isinstance(file, str | Path) else list(file)
    parts = {"": backbone} if len(files) == 1 else JOINED.get(kind.name, {})
    if len(files) != len(parts):
        several = f", or from those of {' and '.join(JOINED[kind.name].values())}" if kind.name in JOINED else ""
        raise WeightsError(f"{kind.name} is imported from one file{several}; {len(files)} were given")
    paths = [find_source(each, weights_dir) for each in files]
    path = _target(paths, out, weights_dir, overwrite)
    sources = [read_source(each, backbone_class(part)) for each, part in zip(paths, parts.values(), strict=True)]
    state = {
        f"{part}.{key}" if part else key: value
        for part, source in zip(parts, sources, strict=True)
        for key, value in source.state.items()
    }
    fresh = create_backbone(backbone, weights="random:0", **(options or {}))
    licences = {source.licence for source in sources}
    provenance: dict[str, Any] = {
        "source": _source_facts(sources),
        "licence": licence or (licences.pop() if len(licences) == 1 else "unknown"),
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
            _check_fit(fresh, temporary, state, " + ".join(map(str, paths)))
            provenance["network"] = _network_facts(fresh)
            temporary.write_bytes(save(state, {PROVENANCE_KEY: json.dumps(provenance)}))
            size_mb = round(temporary.stat().st_size / 1e6, 1)
    return ImportedWeights(
        path=path,
        backbone=kind.name,
        num_tensors=len(state),
        size_mb=size_mb,
        left_out=[name for source in sources for name in source.left_out],
        provenance=provenance,
    )


def _target(sources: Sequence[Path], out: Path | None, weights_dir: Path | None, overwrite: bool) -> Path:
    """Where the new file goes.

    Raises:
        WeightsError: it would be no .safetensors, or something is there already.
    """
    ending = ".safetensors" if len(sources) == 1 else "-two_stream.safetensors"
    path = out or weights_folders(weights_dir)[0] / f"{sources[0].stem}{ending}"
    if path.suffix != ".safetensors":
        raise WeightsError(f"{path} must end in .safetensors; choose another --out")
    if path.exists() and any(path.samefile(source) for source in sources):
        raise WeightsError(f"{path} cannot take its own place; choose another with --out")
    if path.exists() and not overwrite:
        raise WeightsError(f"{path} is there already; --overwrite replaces it, --out writes another")
    return path


def _source_facts(sources: Sequence[Source]) -> dict[str, Any]:
    """What the file was made from: name, size, SHA-256; of two files their names together, and the hash of hashes."""
    facts = [source.facts() for source in sources]
    if len(facts) == 1:
        return facts[0]
    return {
        "file": "+".join(each["file"] for each in facts),
        "size_bytes": sum(each["size_bytes"] for each in facts),
        "sha256": hashlib.sha256("".join(each["sha256"] for each in facts).encode()).hexdigest(),
        "files": facts,
    }


def _check_fit(fresh: Backbone, written: Path, state: Mapping[str, Tensor], source: str) -> None:
    """Fill a freshly built backbone with the new file.

    Raises:
        WeightsError: it does not fit; with the names, all of them as far as that is readable.
    """
    try:
        fresh.load_checkpoint(written)
    except WeightsError as error:
        message = str(error).replace(str(written), source)
        expected = _expected_names(fresh)
        missing = [key for key in expected if key not in state and not key.endswith(".num_batches_tracked")]
        unknown = [key for key in state if key not in expected]
        if missing:
            message += f"\n{len(missing)} missing:{listed(missing)}"
        if unknown:
            message += f"\n{len(unknown)} unknown:{listed(unknown)}"
        raise WeightsError(message) from error


def _expected_names(backbone: Backbone) -> list[str]:
    """Names of the tensors in a backbone's file: of its network, of those of its streams, or its own."""
    parts = {name: getattr(part, "network", None) for name, part in backbone.named_children()}
    streams = {name: network for name, network in parts.items() if isinstance(network, nn.Module)}
    if streams:
        return [f"{name}.{key}" for name, network in streams.items() for key in network.state_dict()]
    return list(getattr(backbone, "network", backbone).state_dict())


def _network_facts(filled: Backbone) -> dict[str, Any]:
    """What a checkpoint made of the backbone's network."""
    network = getattr(filled, "network", filled)
    facts = {name: getattr(network, name, None) for name in ("num_people", "num_classes")}
    return {
        "class": type(network).__name__,
        "num_parameters": sum(each.numel() for each in network.parameters()),
        **{name: value for name, value in facts.items() if isinstance(value, int)},
    }
