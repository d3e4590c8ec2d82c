"""Smaller token layouts from the tokens that a cache has, without the videos.

A layout that only selects tokens (`pooled` of a network with a class token) has the very bits that stage one
would write, and goes into the very feature set: same spec, same fingerprint. A mean of stored tokens is a mean
of rounded numbers, and can differ in the last digit from what stage one rounds after the mean; two things that
can differ never share a feature set, so its spec names what it was derived from, and it gets one of its own.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np

from mgcli.cache.entry_count import EntryCount
from mgcli.cache.errors import CacheError
from mgcli.cache.feature_set import FeatureSet
from mgcli.cache.part import from_stored
from mgcli.cache.progress import Progress
from mgcli.cache.spec import FeatureSpec
from mgcli.cache.store import FeatureCache
from mgcli.cache.stored_entries import entry_lengths, read_entries
from mgcli.cache.token_grid import DERIVED, TokenGrid
from mgcli.cache.views import adopt_views

GRID_KEY = "token_grid"  # of the provenance
LAYOUTS_KEY = "token_layouts"  # likewise: those that the backbone offers
DERIVED_KEY = "derived_from"  # of a derived spec's transform


@dataclass(frozen=True)
class DeriveReport:
    """What one derivation did."""

    feature_set: str
    derived_from: str
    done: EntryCount
    skipped: EntryCount  # already there
    exact: bool  # the very tokens that stage one would write, in its own feature set
    left_out: list[str]  # companions that are no floats

    def summary(self) -> str:
        """The report for people."""
        lines = [f"{self.feature_set}: {self.done} derived, {self.skipped} already there"]
        if self.exact:
            lines.append("  these are the tokens that extraction gives, in the same feature set")
        else:
            lines.append("  means of stored tokens may differ from extraction in the last digit: a set of their own")
        if self.left_out:
            lines.append(f"  companions without a mean were left out: {', '.join(self.left_out)}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON object."""
        return asdict(self)


def derive_layout(
    cache: FeatureCache, name: str, tokens: str, *, grid: TokenGrid | None = None, progress: bool = True
) -> DeriveReport:
    """Make the feature set of a smaller token layout, every source and view; what is there already stays.

    Args:
        cache: which holds the tokens, and takes the new ones.
        name: folder name, or start of the fingerprint, of a feature set of layout `full` (or `time`, for `pooled`).
        tokens: layout to make: time, joint or pooled.
        grid: how the tokens of `full` lie, for a feature set that does not say.
        progress: show it on stderr.

    Raises:
        CacheError: no such feature set, it has not what the layout needs, or a part of it is damaged.
    """
    features = cache.named_set(name)
    grid = _grid_of(features, tokens, grid)
    lengths = entry_lengths(features)
    odd = next((key[0] for key, length in lengths.items() if length % grid.num_tokens), None)
    if odd is not None:
        raise CacheError(
            f"clip {odd!r} of {features.name} does not have {grid.num_tokens} tokens a window, as {grid} says"
        )
    exact = grid.selects(tokens)
    target = cache.create_feature_set(_derived_spec(features.spec, tokens, grid, exact), _provenance(features))
    missing = {key for key in lengths if not target.has(key[0], f"{key[1]:016x}", key[2])}
    done, skipped = (EntryCount.of((key[0], key[2]) for key in keys) for keys in (missing, lengths.keys() - missing))
    left_out: set[str] = set()
    with target.writer() as writer, Progress("derive", done.entries, unit=done.unit, shown=progress) as bar:
        for entry in read_entries(features, missing):
            aux = {name: array for name, array in entry.aux.items() if exact or array.dtype.kind == "f"}
            left_out |= set(entry.aux) - set(aux)
            writer.add(
                entry.clip_id,
                grid.derive(from_stored(entry.tokens, features.spec.dtype), tokens, _mean),
                source=f"{entry.source:016x}",
                view=entry.view,
                time_s=grid.derive_times(entry.time_s, tokens),
                valid=grid.derive(entry.valid, tokens, np.any),
                aux={name: grid.derive(array, tokens, _mean) for name, array in aux.items()},
            )
            writer.commit_if_due()
            bar.step()
    adopt_views(target, features.view_recipe)
    return DeriveReport(
        feature_set=target.name,
        derived_from=features.name,
        done=done,
        skipped=skipped,
        exact=exact,
        left_out=sorted(left_out),
    )


def parse_grid(text: str) -> TokenGrid:
    """The grid of `CLASS,TIMES,PLACES`, or `CLASS,TIMES,PLACES,MIDDLE`; the middle is half-way by default.

    Raises:
        CacheError: it does not read so.
    """
    try:
        class_tokens, times, places, *middle = text.split(",")
        (middle_step,) = map(float, middle or [str((int(times) - 1) / 2)])
        return TokenGrid(class_tokens=int(class_tokens), times=int(times), places=int(places), middle=middle_step)
    except ValueError:
        raise CacheError(f"--grid is {text!r}; it takes CLASS,TIMES,PLACES, such as 1,8,49 for mvit_v2_s") from None


def _mean(cells: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """In float64, so that the mean of equal numbers is that number; rounded once, to the type it had."""
    return cells.mean(axis=axes, dtype=np.float64).astype(cells.dtype)


def _grid_of(features: FeatureSet, tokens: str, given: TokenGrid | None) -> TokenGrid:
    """How the tokens of a feature set lie, once it is known that the layout can come from them."""
    spec = features.spec
    if DERIVED_KEY in spec.transform:
        origin = spec.transform[DERIVED_KEY]["fingerprint"]
        raise CacheError(f"{features.name} was derived itself; derive {tokens!r} from {origin}")
    if tokens not in DERIVED.get(spec.tokens, ()):
        known = "; ".join(f"{layout}: {', '.join(smaller)}" for layout, smaller in DERIVED.items())
        raise CacheError(
            f"no {tokens!r} tokens come from the {spec.tokens!r} tokens of {features.name}; there are {known}"
        )
    offered = features.provenance.get(LAYOUTS_KEY, [tokens])
    if tokens not in offered:
        raise CacheError(f"{spec.backbone} has no layout {tokens!r}; it offers: {', '.join(offered)}")
    grid = given or _kept_grid(features)
    return replace(grid, places=1) if spec.tokens == "time" else grid


def _kept_grid(features: FeatureSet) -> TokenGrid:
    kept = features.provenance.get(GRID_KEY)
    if kept is None:
        raise CacheError(
            f"{features.name} does not say how its tokens lie (an earlier mgcli made it, or the backbone has no such "
            "rule). Give --grid CLASS,TIMES,PLACES, such as 1,8,49 for mvit_v2_s; or extract the layout itself"
        )
    if not isinstance(kept, dict) or set(kept) != {each.name for each in fields(TokenGrid)}:
        raise CacheError(f"{features.path}/spec.json: its {GRID_KEY} {kept} makes no sense; restore it, or give --grid")
    try:
        return TokenGrid(**kept)
    except TypeError as error:
        raise CacheError(f"{features.path}/spec.json: its {GRID_KEY} makes no sense ({error}); give --grid") from None


def _derived_spec(spec: FeatureSpec, tokens: str, grid: TokenGrid, exact: bool) -> FeatureSpec:
    if exact:
        return replace(spec, tokens=tokens)
    origin = {"fingerprint": spec.fingerprint, "tokens": spec.tokens, "grid": asdict(grid)}
    return replace(spec, tokens=tokens, transform=spec.transform | {DERIVED_KEY: origin})


def _provenance(features: FeatureSet) -> dict[str, Any]:
    kept = {key: value for key, value in features.provenance.items() if key not in (GRID_KEY, LAYOUTS_KEY)}
    return kept | {DERIVED_KEY: features.name}
