"""`mgcli report`: what went in, what came out and how far to believe it, on one HTML page that opens without a network.

A page has the same sections for each group of runs that can be compared (one task, one protocol, the same classes).
The first run of a group is looked at closely, the others are compared with it. What cannot be shown (a missing file, a
cache that has lost the run's tokens) is said where it would have stood; the rest of the page is there all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from mgcli.cache import FeatureCache, Page, Section, counted, expect_page_place
from mgcli.fuse.report_calibration import calibration_section
from mgcli.fuse.report_classes import confusion_section, tail_section
from mgcli.fuse.report_clip_table import judged_clips, used_clips
from mgcli.fuse.report_clips import clips_section
from mgcli.fuse.report_data import data_section
from mgcli.fuse.report_grid import grid_section
from mgcli.fuse.report_group import RunGroup, group_runs
from mgcli.fuse.report_map import MapConfig, expect_map
from mgcli.fuse.report_modalities import modalities_section
from mgcli.fuse.report_plot import with_plots
from mgcli.fuse.report_scores import scores_section
from mgcli.fuse.report_tokens import tokens_section
from mgcli.fuse.report_training import making_section, training_section
from mgcli.fuse.run import Run, RunError

NO_CACHE = "no cache was given"
PRINCIPAL = MapConfig()


@dataclass(frozen=True, kw_only=True)
class Report:
    """A page that was written."""

    out: Path
    num_bytes: int
    groups: list[RunGroup]
    sections: list[str]  # anchors
    warnings: list[str]

    def to_json(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        groups = [
            {
                "task": group.task,
                "protocol": group.run.protocol,
                "split": group.split,
                "runs": [str(run.path) for run in group.runs],
            }
            for group in self.groups
        ]
        return {
            "out": str(self.out),
            "bytes": self.num_bytes,
            "groups": groups,
            "sections": self.sections,
            "warnings": self.warnings,
        }

    def summary(self) -> str:
        """For people."""
        runs = sum(len(group.runs) for group in self.groups)
        about = f"{counted(runs, 'run')} in {counted(len(self.groups), 'group')}, {self.num_bytes / 1e6:.1f} MB"
        return f"wrote {self.out}: {about}; open it with any browser"


def write_report(
    runs: Sequence[Run | str | Path],
    out: Path,
    *,
    cache: FeatureCache | str = NO_CACHE,
    viewer: Sequence[Section] = (),
    token_map: MapConfig = PRINCIPAL,
    say: Callable[[str], None] | None = None,
) -> Report:
    """Write the page of some runs.

    Args:
        runs: runs or their folders; the first of each task and protocol is looked at closely.
        out: file to write; an older page there is replaced.
        cache: where the runs' tokens are; or why there is none, as the page will say.
        viewer: further sections, made elsewhere, put behind those of the runs.
        token_map: how clips are laid out in the map of the token space.
        say: told what is being worked on.

    Raises:
        RunError: a folder is no run, or named twice.
        PageError: the page cannot be written there.
        MapError: such a map cannot be drawn here.
    """
    expect_page_place(out)
    expect_map(token_map)
    loaded = [run if isinstance(run, Run) else Run.load(run) for run in runs]
    places = [run.path.resolve() for run in loaded]
    twice = next((path for path in places if places.count(path) > 1), None)
    if twice is not None:
        raise RunError(f"{twice} is named twice; name each run once")
    groups = group_runs(loaded)
    sections: list[Section] = []
    for group in groups:
        if say is not None:
            say(f"{group.task}: {counted(len(group.runs), 'run')}")
        sections += group_sections(group, cache, token_map)
    warnings = list(dict.fromkeys(text for group in groups for text in group.warnings))
    page = Page(
        title=_title(groups),
        lead=_lead(groups),
        warnings=warnings,
        sections=[*map(with_plots, sections), *viewer],
        footer=f"Made by mgcli {version('mgcli')} on {datetime.now(UTC):%Y-%m-%d %H:%M} UTC; nothing in it is fetched.",
    )
    page.write(out)
    return Report(
        out=out,
        num_bytes=out.stat().st_size,
        groups=groups,
        sections=[section.anchor for section in page.sections],
        warnings=warnings,
    )


def group_sections(group: RunGroup, cache: FeatureCache | str, token_map: MapConfig = PRINCIPAL) -> list[Section]:
    """All sections of one group, in the order of the page."""
    table = used_clips(group.run, cache)
    selection = judged_clips(group, cache, table)
    found = [
        scores_section(group),
        data_section(group, table),
        confusion_section(group),
        tail_section(group, _train_counts(group, table)),
        modalities_section(group, selection),
        grid_section(group),
        calibration_section(group),
        tokens_section(group, selection, token_map),
        training_section(group),
        clips_section(group),
        making_section(group),
    ]
    return [section for section in found if section is not None]


def _train_counts(group: RunGroup, table: pd.DataFrame | str) -> pd.Series | str:
    """Label -> training clips."""
    return table if isinstance(table, str) else table.loc[table["split"] == "train", group.task].value_counts()


def _title(groups: Sequence[RunGroup]) -> str:
    tasks = list(dict.fromkeys(group.task for group in groups))
    return " and ".join(tasks).capitalize() + (
        " recognition" if tasks == ["gesture"] else " prediction" if tasks == ["emotion"] else ": results"
    )


def _lead(groups: Sequence[RunGroup]) -> str:
    parts = []
    for group in groups:
        counts = group.run.config["clips"]["counts"].get(group.split, {"clips": 0, "subjects": 0})
        others = f" and {counted(len(group.runs) - 1, 'other run')}" if len(group.runs) > 1 else ""
        parts.append(
            f"{group.name}{others} on {counts['clips']:,} {group.split} clips of "
            f"{counted(counts['subjects'], 'subject')} ({group.run.protocol or 'own clip table'})"
        )
    return "; ".join(parts) + "."
