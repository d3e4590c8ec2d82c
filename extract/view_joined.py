"""All that a page shows of a clip, gathered: its media, its tokens in the cache, and what a trained head made of it."""

# Shapes: R tokens of a clip in a feature set.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mgcli.cache import AbsentTokens, FeatureCache, TokenTrace, trace_clip
from mgcli.extract.source import add_sources
from mgcli.extract.view_media import ClipMedia, view_clip

_DETECTED = "given, else "  # how a spec says which detector finds the faces that no file gives
_LABELS = {"split": "split", "subject_id": "subject", "gesture": "gesture", "emotion": "emotion"}


@dataclass(frozen=True, kw_only=True, eq=False)
class Answer:
    """What a trained head makes of a clip; stage two gives it in plain values, so that this room knows no heads."""

    head: str
    seed: int
    how: str  # what the attention is, or why there is none
    true: str  # class, for people; empty where it is not known
    probabilities: Mapping[str, float]  # class, for people -> probability
    attention: Mapping[str, np.ndarray]  # name of a feature set -> (R,)


@dataclass(frozen=True, kw_only=True, eq=False)
class ViewedClip:
    """All that is shown of a clip."""

    view: ClipMedia
    facts: Mapping[str, str]  # in order
    traces: Sequence[TokenTrace]
    absent: Sequence[AbsentTokens]
    notes: Sequence[str]  # what is missing or odd
    answer: Answer | None

    def attention_to(self, trace: TokenTrace) -> np.ndarray | None:
        """(R,) attention to the tokens of a trace; None where there is none that fits them."""
        found = None if self.answer is None else self.answer.attention.get(trace.features.name)
        return found if found is not None and len(found) == len(trace.time_s) else None

    def to_json(self) -> dict[str, Any]:
        """What there is, as plain JSON values."""
        answer = self.answer
        attention = {} if answer is None else {name: each.tolist() for name, each in answer.attention.items()}
        return {
            "clip_id": self.view.clip_id,
            "facts": dict(self.facts),
            "frames": len(self.view.frames),
            "faces_seen": sum(face is not None for face in self.view.faces),
            "tokens": {trace.features.name: len(trace.time_s) for trace in self.traces},
            "without_tokens": {each.feature_set: each.reason for each in self.absent},
            "probabilities": dict(answer.probabilities) if answer else {},
            "attention": attention,
            "notes": list(self.notes),
        }

    def summary(self) -> str:
        """The same for people."""
        view = self.view
        seen = f", a face in {sum(face is not None for face in view.faces)} of them" if view.faces else ""
        tokens = "; ".join(f"{trace.features.name} {len(trace.time_s)}" for trace in self.traces) or "none"
        lines = [f"{view.clip_id}: {len(view.frames)} frames{seen}", f"cached tokens: {tokens}"]
        if self.answer is not None:
            best, share = max(self.answer.probabilities.items(), key=lambda item: item[1])
            lines.append(f"{self.answer.head}: {best} ({100 * share:.1f} %), true: {self.answer.true or 'not known'}")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def look_at_clip(cache: FeatureCache | None, clip: Mapping[str, Any], answer: Answer | None = None) -> ViewedClip:
    """Gather what there is of a clip.

    Args:
        cache: None where there is none yet.
        clip: a row of a checked clip table.
        answer: of a trained head.

    Raises:
        CacheError: a part of the cache is damaged.
    """
    traces: list[TokenTrace] = []
    absent: list[AbsentTokens] = []
    if cache is not None:
        traces, absent = trace_clip(cache, clip)
    specs = [trace.features.spec for trace in traces]
    joints = next((str(spec.transform["joints"]) for spec in specs if "joints" in spec.transform), None)
    view = view_clip(clip, joints=joints, detector=None if clip["face"] else _detector(traces))
    facts = {
        "video": Path(clip["video"]).name or "none",  # no more of it: a page is passed on
        "interval": f"{view.start_s:.2f} to {view.end_s:.2f} s ({view.end_s - view.start_s:.2f} s)",
        **{label: str(clip[column]) for column, label in _LABELS.items() if clip[column]},
    }
    if view.skeleton is not None:
        layout = view.skeleton.layout
        facts["skeleton"] = layout.name if layout else f"{view.skeleton.joints.shape[1]} joints of an unknown layout"
    notes = [*view.notes, *_changed(clip, traces), *_misfits(traces, answer)]
    return ViewedClip(view=view, facts=facts, traces=traces, absent=absent, notes=notes, answer=answer)


def _detector(traces: Sequence[TokenTrace]) -> str | None:
    """The detector that found the faces whose tokens the cache has."""
    for trace in traces:
        faces = str(trace.features.spec.transform.get("faces", ""))
        if faces.startswith(_DETECTED):
            return faces.removeprefix(_DETECTED).split(" ")[0]
    return None


def _changed(clip: Mapping[str, Any], traces: Sequence[TokenTrace]) -> list[str]:
    """Files that are no longer those that the cached tokens were made from."""
    now = add_sources(pd.DataFrame([dict(clip)])).iloc[0]
    notes = []
    for column in dict.fromkeys(trace.features.spec.source_column for trace in traces):
        then = str(clip.get(column) or "") if column else ""
        if column and then and now[column] and now[column] != then:
            what = column.removesuffix("_source")
            notes.append(f"the {what} file has changed since the tokens were made: they are of the old one")
    return notes


def _misfits(traces: Sequence[TokenTrace], answer: Answer | None) -> list[str]:
    """Attention that cannot be laid over the tokens of the clip."""
    tokens = {trace.features.name: len(trace.time_s) for trace in traces}
    return [
        f"attention to {name} is not shown: the head saw {len(each)} tokens, the cache has {tokens.get(name, 0)}"
        for name, each in (answer.attention if answer else {}).items()
        if len(each) and len(each) != tokens.get(name, 0)
    ]
