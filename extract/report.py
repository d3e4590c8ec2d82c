"""What a run of stage one did: for a person, and for a machine."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mgcli.extract.run_clock import RunProfile
from mgcli.extract.shard import Shard


@dataclass(frozen=True, kw_only=True)
class ModalityReport:
    """What a run did for one modality; counts are clips."""

    feature_set: str
    weights: str
    done: int
    skipped: int  # in the cache already
    failed: int
    seconds: float  # of the whole run: its modalities share it

    @property
    def clips_per_second(self) -> float:
        """Clips done in this run, per second."""
        return self.done / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, kw_only=True)
class ExtractReport:
    """What a run did, modality by modality."""

    cache: Path
    modalities: dict[str, ModalityReport]
    profile: RunProfile = field(default_factory=RunProfile)
    shard: Shard | None = None  # of the data; its counts are those of the share
    warnings: list[str] = field(default_factory=list)

    @property
    def failed(self) -> int:
        """Failed clips over all modalities; the command line exits 3 if there are any."""
        return sum(report.failed for report in self.modalities.values())

    def to_json(self) -> dict[str, dict[str, Any]]:
        """Modality -> feature set, counts and where the time went, as plain JSON values."""
        return {
            modality: {
                "feature_set": report.feature_set,
                "done": report.done,
                "skipped": report.skipped,
                "failed": report.failed,
                "seconds": round(report.seconds, 3),
                "clips_per_second": round(report.clips_per_second, 3),
                "run": self.profile.to_json(),  # the same for all of them
            }
            for modality, report in self.modalities.items()
        }

    def summary(self) -> str:
        """A few lines of text."""
        lines = []
        if self.shard is not None and not any(
            each.done + each.skipped + each.failed for each in self.modalities.values()
        ):
            lines.append(f"nothing to do for shard {self.shard}: there are fewer videos than shards")
        for modality, report in self.modalities.items():
            lines.append(
                f"{modality}: {report.done} clips done, {report.skipped} there already, {report.failed} failed "
                f"in {report.seconds:.1f} s ({report.clips_per_second:.2f} clips/s) -> {report.feature_set}"
            )
            if report.weights.startswith("random:"):
                lines.append(f"  weights are {report.weights}: good for trying things out, not for results")
            if report.failed:
                total = report.done + report.skipped + report.failed
                failures = self.cache / report.feature_set / "failures.csv"
                lines.append(
                    f"  {report.failed} of {total} clips failed, listed in {failures}; "
                    "run the same command again to retry them"
                )
        if self.profile.inputs:
            lines.append(self.profile.summary())
        return "\n".join(lines)
