"""`cache info --html`: what a cache holds, specs side by side and failures by reason, on one page."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from markupsafe import Markup

from mgcli.cache.feature_set import FeatureSet
from mgcli.cache.page import Page, Section, html_table
from mgcli.cache.store import FeatureCache

EXAMPLES = 3  # clips named for each reason
_SIZES = ((10**9, "GB"), (10**6, "MB"), (10**3, "kB"))


def cache_page(cache: FeatureCache) -> Page:
    """The page of a cache."""
    sets = cache.feature_sets()
    modalities = list(dict.fromkeys(each.spec.modality for each in sets))
    random = [each for each in sets if each.spec.weights.startswith("random")]
    return Page(
        title="Feature cache",
        lead=f"{cache.path}: {len(sets)} feature set(s) of {', '.join(modalities) or 'no modality yet'}.",
        warnings=[f"{each.name} was made with random weights ({each.spec.weights})" for each in random],
        sections=[_sets(sets), _specs(sets, modalities), _failures(sets), _tables(cache)],
        footer=f"Made by mgcli {version('mgcli')} on {datetime.now(UTC):%Y-%m-%d %H:%M} UTC; nothing in it is fetched.",
    )


def _sets(sets: Sequence[FeatureSet]) -> Section:
    rows = []
    for info in (each.info() for each in sets):
        tokens = f"{info['tokens']:,} × {info['dim']}"
        stored = f"{info['dtype']}, {info['format']}"
        rows.append(
            [
                *(info["modality"], info["backbone"], info["layout"], info["weights"], info["fingerprint"]),
                *(
                    f"{info['clips']:,}",
                    f"{info['view_entries']:,}",
                    tokens,
                    stored,
                    _size(info["bytes"]),
                    f"{info['failures']:,}",
                ),
            ]
        )
    header = [
        "modality",
        "backbone",
        "layout",
        "weights",
        "fingerprint",
        "clips",
        "augmented views",
        "tokens",
        "stored as",
        "size",
        "failed",
    ]
    body = html_table(header, rows, caption="Feature sets.")
    return Section(anchor="sets", title="Feature sets", body=body if rows else _nothing("The cache is empty."))


def _specs(sets: Sequence[FeatureSet], modalities: Sequence[str]) -> Section:
    """One table a modality: a field of the spec a row, a feature set a column, what differs in another colour."""
    parts = []
    for modality in modalities:
        own = [each for each in sets if each.spec.modality == modality]
        flat = [_flat(each.spec.to_dict()) for each in own]
        rows = []
        for field in dict.fromkeys(field for each in flat for field in each):
            values = [each.get(field, "-") for each in flat]
            differs = len(set(values)) > 1
            mark = Markup('<span class="differs">{}</span>') if differs else Markup("{}")
            rows.append([mark.format(field), *(mark.format(value) for value in values)])
        caption = f"{modality}: everything that decides a token's value."
        if len(own) > 1:
            caption += " What differs is set in bold and in another colour."
        parts.append(html_table(["field", *(each.spec.fingerprint for each in own)], rows, caption=caption))
    return Section(
        anchor="specs", title="Specs side by side", body=Markup("\n").join(parts) or _nothing("There are none yet.")
    )


def _failures(sets: Sequence[FeatureSet]) -> Section:
    rows = []
    for each in sets:
        failures = each.failures()
        for (stage, reason), clips in failures.groupby(["stage", "reason"], sort=False)["clip_id"]:
            some = ", ".join(clips.head(EXAMPLES)) + (", ..." if len(clips) > EXAMPLES else "")
            rows.append((len(clips), [each.name, stage, reason, f"{len(clips):,}", some]))
    rows.sort(key=lambda row: -row[0])
    caption = "Clips that gave no tokens in the last run, by reason; the next extraction tries them again."
    body = html_table(["feature set", "stage", "reason", "clips", "such as"], [row for _, row in rows], caption=caption)
    return Section(anchor="failures", title="Failures", body=body if rows else _nothing("No clip failed."))


def _tables(cache: FeatureCache) -> Section:
    names = [path.name.rpartition("--") for path in cache.clip_tables()]
    rows = [[protocol, name.removesuffix(".csv")] for protocol, _, name in names]
    body = html_table(["protocol", "content"], rows, caption="Clip tables, one for each protocol and content.")
    return Section(anchor="tables", title="Clip tables", body=body if rows else _nothing("There are none yet."))


def _nothing(text: str) -> Markup:
    return Markup('<p class="missing">{}</p>').format(text)


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """`{"sampling.num_frames": "16"}` of `{"sampling": {"num_frames": 16}}`."""
    found: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = "-" if value in ({}, "") else str(value)
    return found


def _size(num_bytes: int) -> str:
    """`12.3 MB`."""
    for unit, name in _SIZES:
        if num_bytes >= unit:
            return f"{num_bytes / unit:.1f} {name}"
    return f"{num_bytes} B"
