"""What a run of stage one did: for a person, and for a machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mgcli.cache import Failure
from mgcli.extract.engine import ClipKey, PlannedModality
from mgcli.extract.run_clock import RunProfile
from mgcli.extract.shard import Shard


@dataclass(frozen=True, kw_only=True)
class ModalityReport:
    """What a run did for one modality; counts are clips, those of views apart from them."""

    feature_set: str
    weights: str
    done: int
    skipped: int  # in the cache already
    failed: int
    seconds: float  # of the whole run: its modalities share it
    views: int = 0  # how many augmented views were asked for
    views_done: int = 0
    views_skipped: int = 0
    views_failed: int = 0

    @property
    def clips_per_second(self) -> float:
        """Clips done in this run, per second."""
        return self.done / self.seconds if self.seconds else 0.0

    def views_to_json(self) -> dict[str, Any]:
        """The counts of augmented views, where any were asked for."""
        counts = {"done": self.views_done, "skipped": self.views_skipped, "failed": self.views_failed}
        return {"views": {"asked_for": self.views, **counts}} if self.views else {}


def modality_report(
    planned: PlannedModality, over: Iterable[ClipKey], failures: Mapping[ClipKey, Failure], seconds: float
) -> ModalityReport:
    """What became of one modality.

    Args:
        planned: what there was to do.
        over: all that is over, of any modality.
        failures: those of it that failed.
        seconds: of the run.
    """
    counts = Counter((key[2] > 0, key in failures) for key in over if key[0] == planned.modality)
    return ModalityReport(
        feature_set=planned.feature_set,
        weights=planned.weights,
        done=counts[False, False],
        skipped=planned.num_skipped,
        failed=counts[False, True],
        seconds=seconds,
        views=planned.views,
        views_done=counts[True, False],
        views_skipped=planned.num_views_skipped,
        views_failed=counts[True, True],
    )


def failures_to_list(failures: Mapping[ClipKey, Failure], modality: str) -> list[Failure]:
    """The failures of one modality for its `failures.csv`; where a clip itself failed, its views are not named too."""
    return [
        failure
        for (of, clip_id, view), failure in failures.items()
        if of == modality and (view == 0 or (of, clip_id, 0) not in failures)
    ]


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
        """Failed clips and views over all modalities; the command line exits 3 if there are any."""
        return sum(report.failed + report.views_failed for report in self.modalities.values())

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
                **report.views_to_json(),
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
            if report.views:
                lines.append(
                    f"  augmented views 1 to {report.views} of the training clips: {report.views_done} done, "
                    f"{report.views_skipped} there already, {report.views_failed} failed"
                )
            if report.weights.startswith("random:"):
                lines.append(f"  weights are {report.weights}: good for trying things out, not for results")
            if report.failed or report.views_failed:
                total = report.done + report.skipped + report.failed
                what = f"{report.failed} of {total} clips" if report.failed else f"{report.views_failed} views"
                failures = self.cache / report.feature_set / "failures.csv"
                lines.append(f"  {what} failed, listed in {failures}; run the same command again to retry them")
        if self.profile.inputs:
            lines.append(self.profile.summary())
        return "\n".join(lines)
