"""What is in a clip table, beside what its protocol was published with, and what is wrong with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from mgcli.cache import (
    CLASS_GROUPS,
    PROTOCOLS,
    SPLITS,
    TASKS,
    LeakageReport,
    align_columns,
    class_group,
    class_name,
    find_leakage,
    label_classes,
)
from mgcli.extract.check_expected import compare_counts, task_clips, video_ids
from mgcli.extract.check_media import Finding, finding, look_into_files, missing_files
from mgcli.extract.source import add_sources

_SHOWN = 5  # names a line of text; JSON has all
_OF_ROW = ", line "  # in what a data set left out: the row of a file


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """What a check found."""

    dataset: str
    protocol: str
    counts: list[dict[str, Any]]  # one row a split and task
    expected: list[dict[str, Any]]  # one row a published count
    classes: list[dict[str, Any]]  # one row a class
    files: dict[str, Any]  # kind -> how many were looked into, of how many
    findings: list[Finding]
    leakage: LeakageReport

    @property
    def faults(self) -> list[Finding]:
        """Those that cost clips."""
        return [each for each in self.findings if each.is_fault]

    def to_json(self) -> dict[str, Any]:
        """All of it, with every name, as plain JSON values."""
        return {
            "dataset": self.dataset,
            "protocol": self.protocol,
            "counts": self.counts,
            "expected": self.expected,
            "classes": self.classes,
            "files": self.files,
            "findings": [each.to_json() for each in self.findings],
            "leakage": self.leakage.to_json(),
            "ok": not self.faults and not self.leakage.refused,
        }

    def summary(self) -> str:
        """For people: counts, classes, then what is odd, what costs clips last."""
        lines = [f"{self.dataset}, protocol {self.protocol}", *_aligned(self.counts)]
        if self.expected:
            lines += ["", "as published:", *_aligned([_with_sign(row) for row in self.expected])]
        if self.classes:
            lines += ["", *_aligned(self.classes)]
        looked = ", ".join(f"{n['looked_into']} of {n['of']} {kind} files" for kind, n in self.files.items() if n["of"])
        if looked:
            partly = any(each["looked_into"] < each["of"] for each in self.files.values())
            lines += ["", f"looked into {looked}" + ("; all of them: --all" if partly else "")]
        hands = ", ".join(f"{order} in {count}" for order, count in self.files["skeleton"]["hands"].items())
        if hands:
            lines.append(f"fingertips of the hands, in skeleton files that have them in a row: {hands}")
        warnings = [_line(each) for each in self.findings if not each.is_fault] + self.leakage.warnings()
        refused = [f"leakage: {each.message()}" for each in self.leakage.refused]
        lines += [""] if warnings or self.faults or refused else []
        lines += [f"warning: {text}" for text in warnings]
        lines += [f"fault: {text}" for text in (*refused, *map(_line, self.faults))]
        return "\n".join([*lines, "no faults"] if not (refused or self.faults) else lines)


def check_dataset(
    table: pd.DataFrame,
    *,
    dataset: str,
    protocol: str,
    all_files: bool = False,
    seed: int = 0,
    progress: bool = True,
) -> CheckReport:
    """Check a clip table, the files that it names, and its splits.

    Args:
        table: as a data set gives it; `attrs` may say what was left out (`dropped`) and what is odd (`warnings`).
        dataset: its name.
        protocol: its protocol; of a published one the counts are compared.
        all_files: look into every video and skeleton file, not only into a sample.
        seed: of that sample.
        progress: show it on stderr.
    """
    expected = compare_counts(table, protocol)
    of_files, files = look_into_files(table, protocol, all_files=all_files, seed=seed, progress=progress)
    findings = [
        *_said_by_dataset(table, protocol),
        *_differences(expected),
        *missing_files(table),
        *of_files,
    ]
    return CheckReport(
        dataset=dataset,
        protocol=protocol,
        counts=_counts(table, protocol),
        expected=expected,
        classes=[row for task in TASKS for row in _classes(table, task, protocol)],
        files=files,
        findings=findings,
        leakage=find_leakage(_with_media_sources(table), protocol),
    )


def _counts(table: pd.DataFrame, protocol: str) -> list[dict[str, Any]]:
    rows = []
    for split in (*SPLITS, ""):
        for task in TASKS:
            clips = task_clips(table[table["split"] == split], task, protocol)
            if len(clips):
                rows.append(
                    {
                        "split": split or "no split",
                        "task": task,
                        "clips": len(clips),
                        "videos": video_ids(clips, protocol).nunique(),
                        "subjects": clips["subject_id"].nunique(),
                        "classes": clips[task].replace("", pd.NA).nunique(),
                        "unlabelled": int((clips[task] == "").sum()),
                    }
                )
    return rows


def _classes(table: pd.DataFrame, task: str, protocol: str) -> list[dict[str, Any]]:
    """One row a class that occurs: its name, body part, head, middle or tail, and clips by split."""
    labelled = table[table[task] != ""]
    if labelled.empty:
        return []
    counts = pd.crosstab(labelled[task], labelled["split"]).reindex(columns=list(SPLITS), fill_value=0)
    is_gesture = task == "gesture"
    groups = CLASS_GROUPS.get(PROTOCOLS[protocol].dataset, {}) if is_gesture and protocol in PROTOCOLS else {}
    body_parts = {str(label): part for part, labels in groups.items() for label in labels}
    rows = []
    for label in label_classes(labelled, task):
        of_split = {split: int(counts[split].get(label, 0)) for split in SPLITS}
        rows.append(
            {
                "task": task,
                "class": label,
                "name": class_name(label, protocol) if is_gesture else label,
                "body part": body_parts.get(label, "-"),
                "group": class_group(of_split["train"]),
                **of_split,
            }
        )
    return rows


def _said_by_dataset(table: pd.DataFrame, protocol: str) -> list[Finding]:
    """What the data set left out, by reason, and what it found odd.

    Rows that it could not read are faults; clips that it names are left out by a published protocol on purpose.
    """
    found = [Finding(is_fault=False, text=text, names=()) for text in table.attrs.get("warnings", [])]
    by_reason: dict[tuple[bool, str], list[str]] = {}
    for what, reason in table.attrs.get("dropped", []):
        is_fault = _OF_ROW in what or protocol not in PROTOCOLS
        by_reason.setdefault((is_fault, reason), []).append(what)
    for (is_fault, reason), names in by_reason.items():
        found += finding(is_fault, f"{len(names)} left out: {reason}", names)
    return found


def _differences(expected: list[dict[str, Any]]) -> list[Finding]:
    differing = [
        f"{row['split']} {row['task']} {row['what']} {row['found']}, not {row['expected']}"
        for row in expected
        if not row["fits"]
    ]
    return finding(False, f"{len(differing)} of {len(expected)} counts are not as published", differing)


def _with_media_sources(table: pd.DataFrame) -> pd.DataFrame:
    """With the identity of each clip's video; of its skeleton file only where it has none, as those are read whole."""
    alone = table["skeleton"].where(table["video"] == "", "")
    return add_sources(table.assign(skeleton=alone)).assign(skeleton=table["skeleton"])


def _with_sign(row: dict[str, Any]) -> dict[str, Any]:
    return {"": "ok" if row["fits"] else "differs", **{key: value for key, value in row.items() if key != "fits"}}


def _line(found: Finding) -> str:
    more = f" and {len(found.names) - _SHOWN} more" if len(found.names) > _SHOWN else ""
    return found.text + (f": {', '.join(found.names[:_SHOWN])}{more}" if found.names else "")


def _aligned(rows: list[dict[str, Any]]) -> list[str]:
    """Rows of the same keys as lines of a table."""
    if not rows:
        return []
    cells = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    return align_columns(cells)
