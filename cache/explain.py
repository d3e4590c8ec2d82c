"""Why a clip is stale, missing or up to date: what is asked for now, against what the cache holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from mgcli.cache.feature_set import FeatureSet
from mgcli.cache.spec import FeatureSpec
from mgcli.cache.store import FeatureCache
from mgcli.cache.views import view_source

UP_TO_DATE, STALE, MISSING, FAILED = "up to date", "stale", "missing", "failed"


@dataclass(frozen=True)
class SetDifference:
    """A feature set with the clip whose spec is not the one asked for."""

    feature_set: str
    fields: dict[str, tuple[Any, Any]]  # dotted name -> (there, asked for)


@dataclass(frozen=True)
class Explanation:
    """What there is of one clip in one modality."""

    clip_id: str
    modality: str
    feature_set: str  # that is asked for
    verdict: str  # up to date, stale, missing or failed
    because: str
    views: list[int] = field(default_factory=list)  # augmented views that are there, made as is asked for now
    others: list[SetDifference] = field(default_factory=list)

    def summary(self) -> str:
        """The explanation for people."""
        lines = [f"{self.modality}: {self.verdict} in {self.feature_set}: {self.because}"]
        if self.views:
            lines.append(f"  augmented views that are there: {', '.join(map(str, self.views))}")
        for other in self.others:
            lines.append(f"  {other.feature_set} has the clip, made otherwise:")
            lines += [f"    {name}: {there!r}, now {now!r}" for name, (there, now) in other.fields.items()]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """The explanation as a JSON object."""
        return asdict(self)


def explain_clip(
    cache: FeatureCache,
    clip_id: str,
    wanted: FeatureSpec,
    source: str,
    *,
    views: int = 0,
    recipe: Mapping[str, Any] | None = None,
) -> Explanation:
    """Whether an extraction would compute a clip, and why.

    Args:
        cache: which.
        clip_id: the clip.
        wanted: the spec that is asked for now.
        source: the clip's source now, in hex; empty where its media are not there.
        views: augmented views 1..views of it are asked for too.
        recipe: that they are to be made by; by default the feature set's own.
    """
    of_modality = [each for each in cache.feature_sets() if each.spec.modality == wanted.modality]
    asked = next((each for each in of_modality if each.spec == wanted), None)
    others = [
        SetDifference(each.name, _differences(each.spec, wanted))
        for each in of_modality
        if each is not asked and each.holds([clip_id])[0]
    ]
    verdict, because = _verdict(asked, clip_id, wanted, source)
    there = _views_there(asked, clip_id, source, recipe)
    lacking = [view for view in range(1, views + 1) if view not in there]
    if verdict == UP_TO_DATE and lacking:
        verdict, because = MISSING, _why_without_views(asked, clip_id, wanted, lacking, views)
    return Explanation(clip_id, wanted.modality, wanted.name, verdict, because, there, others)


def _views_there(asked: FeatureSet | None, clip_id: str, source: str, recipe: Mapping[str, Any] | None) -> list[int]:
    """Augmented views of a clip that are made of this source by this recipe."""
    if asked is None or not source:
        return []
    recipe = asked.view_recipe if recipe is None else recipe
    own = source if recipe is None else view_source(source, recipe)
    clips = asked.clips()
    return sorted(clips.loc[(clips["clip_id"] == clip_id) & (clips["view"] > 0) & (clips["source"] == own), "view"])


def _why_without_views(
    asked: FeatureSet | None, clip_id: str, wanted: FeatureSpec, lacking: list[int], views: int
) -> str:
    """Why augmented views of a clip are not there, though the plain one is."""
    assert asked is not None, "the plain view is there"
    extract = f"mgcli extract --modality {wanted.modality} --views {views}"
    clips = asked.clips()
    otherwise = clips[(clips["clip_id"] == clip_id) & clips["view"].isin(lacking)]
    failed = asked.failures()
    failed = failed[failed["clip_id"] == clip_id]
    named = f"view{'s' if len(lacking) > 1 else ''} {', '.join(map(str, lacking))}"
    if len(failed):
        return (
            f"the plain view is there; {failed.iloc[-1]['stage']}: {failed.iloc[-1]['reason']}; {extract} tries again"
        )
    if len(otherwise):
        return (
            f"the plain view is there; {named} of another source, or made with another seed or other settings; "
            f"run {extract}"
        )
    return f"the plain view is there, {named} not yet; run {extract}"


def _verdict(asked: FeatureSet | None, clip_id: str, wanted: FeatureSpec, source: str) -> tuple[str, str]:
    extract = f"mgcli extract --modality {wanted.modality}"
    if asked is None:
        return MISSING, f"no feature set of this spec yet; run {extract}"
    if source and asked.has(clip_id, source):
        return UP_TO_DATE, f"made from source {source}, as it is now; {extract} passes over it"
    clips = asked.clips()
    there = clips.loc[(clips["clip_id"] == clip_id) & (clips["view"] == 0), "source"].tolist()
    if there and not source:
        return STALE, f"made from source {', '.join(there)}, which is not there now: is the media file where it was?"
    if there:
        changed = f"its {wanted.reads} file, or the clip's interval in it, changed"
        return STALE, f"made from source {', '.join(there)}, now it is {source}: {changed}; run {extract}"
    failures = asked.failures()
    failed = failures[failures["clip_id"] == clip_id]
    if len(failed):
        return FAILED, f"{failed.iloc[-1]['stage']}: {failed.iloc[-1]['reason']}; {extract} tries again"
    return MISSING, f"not extracted yet; run {extract}"


def _differences(there: FeatureSpec, wanted: FeatureSpec) -> dict[str, tuple[Any, Any]]:
    """Dotted field -> (there, asked for), of those that differ."""
    ours, theirs = _flat(wanted.to_dict()), _flat(there.to_dict())
    names = [*theirs, *(name for name in ours if name not in theirs)]
    return {name: (theirs.get(name), ours.get(name)) for name in names if theirs.get(name) != ours.get(name)}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat
