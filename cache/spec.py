"""What decides a token's value, and the fingerprint that keeps two such things apart."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from mgcli.cache.errors import CacheError

FORMAT_VERSION = 1
STORED_DTYPES = ("float16", "float32", "bfloat16")
READS = ("video", "skeleton", "face", "imported")


@dataclass(frozen=True, kw_only=True)
class FeatureSpec:
    """Everything that decides the tokens of one feature set. All fields are plain JSON values.

    Two specs that differ in any field never share a feature set. What does not change a token (batch
    size, worker count, package versions, the date) is provenance and stays out.
    """

    modality: str  # video, pose, face, context, or a name of the user's
    backbone: str  # name as on the command line
    reads: str  # video, skeleton, face or imported: whose identity is the `source` of an entry
    weights: str  # file name, "random:SEED", "none" or "imported"
    weights_sha256: str  # of the file; empty where there is none
    tokens: str  # token layout: full, time, pooled, ...
    dim: int  # D, width of a token
    dtype: str  # as stored: float16, float32 or bfloat16
    precision: str  # as computed: float32 or bfloat16
    sampling: dict[str, Any] = field(default_factory=dict)
    transform: dict[str, Any] = field(default_factory=dict)
    views: int = 0  # those of every set lie beside the plain one whatever is asked for: see `mgcli.cache.views`
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_]+", self.modality):
            raise CacheError(f"modality {self.modality!r} may hold only letters, digits and '_'")
        if not self.backbone:
            raise CacheError("the backbone needs a name")
        if self.dtype not in STORED_DTYPES:
            raise CacheError(f"tokens cannot be stored as {self.dtype!r}; known: {', '.join(STORED_DTYPES)}")
        if self.reads not in READS:
            raise CacheError(f"unknown input {self.reads!r}; known: {', '.join(READS)}")
        if self.dim < 1:
            raise CacheError(f"token width {self.dim} must be 1 or more")

    @property
    def fingerprint(self) -> str:
        """Eight hex digits of the SHA-256 of the spec's canonical JSON."""
        canonical = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode("utf-8")).hexdigest()[:8]

    @property
    def name(self) -> str:
        """Folder name of the feature set: modality--backbone--fingerprint."""
        backbone = re.sub(r"[^A-Za-z0-9._-]+", "_", self.backbone)
        return f"{self.modality}--{backbone}--{self.fingerprint}"

    @property
    def source_column(self) -> str | None:
        """Clip-table column that names the source of this set's entries; None for imported tokens."""
        return None if self.reads == "imported" else f"{self.reads}_source"

    def to_dict(self) -> dict[str, Any]:
        """The spec as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any], where: str) -> FeatureSpec:
        """The spec that `to_dict` gave.

        Raises:
            CacheError: a field is missing or unknown; `where` names the file.
        """
        known = {each.name for each in fields(cls)}
        if set(values) != known:
            missing, extra = sorted(known - set(values)), sorted(set(values) - known)
            raise CacheError(f"{where}: the spec lacks {missing} and has unknown fields {extra}; was it edited?")
        return cls(**values)
