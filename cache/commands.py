"""`mgcli cache ...`: look after the feature cache. (`cache import` reads a data set, so it stands in cli.py.)"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from mgcli.cache.completion import feature_set_names
from mgcli.cache.console import (
    EXIT_FAULT,
    EXIT_SOME_FAILED,
    CacheOption,
    JsonOption,
    open_project_cache,
    parse_place,
    print_result,
    say,
    stops_with,
)
from mgcli.cache.entry_count import EntryCount

app = typer.Typer(help="Look after the feature cache.", no_args_is_help=True)
bench_app = typer.Typer()


@bench_app.command("cache")
def bench_cache(
    folder: Annotated[Path | None, typer.Option(help="On the disk in question; default: the temporary folder.")] = None,
    megabytes: Annotated[int, typer.Option(min=8, help="Of tokens, for each size of clip and each format.")] = 256,
    seconds: Annotated[float, typer.Option(min=0.0, help="To spend on measuring; seven rounds at least.")] = 30.0,
    as_json: JsonOption = False,
) -> None:
    """Time reads and writes of the cache against a plain memory map, a plain file and the libraries' own readers."""
    from mgcli.cache.bench import bench_cache as measure

    report = measure(folder, megabytes=megabytes, seconds=seconds)
    print_result(report.to_json(), report.summary(), as_json)


@app.command("ls")
def list_sets(cache: CacheOption = None) -> None:
    """List the feature sets, one line each."""
    for features in open_project_cache(cache).feature_sets():
        typer.echo(f"{features.name}  {features.describe()}")


@app.command()
def info(
    cache: CacheOption = None,
    html: Annotated[
        Path | None, typer.Option("--html", help="Write a page too: specs side by side, failures by reason.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what the cache holds: clips, tokens, types, sizes."""
    opened = open_project_cache(cache)
    if html is not None:
        from mgcli.cache.info_page import cache_page

        cache_page(opened).write(html)
        say(f"wrote {html}; open it with any browser")
    content = opened.info()
    print_result(content, _info_text(content), as_json)


@app.command()
@stops_with("nothing was changed, and the rest is not checked; run the same command again")
def verify(
    cache: CacheOption = None,
    fast: Annotated[bool, typer.Option("--fast", help="All but the bytes of the tokens.")] = False,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes; default: one a core where it pays.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Check every part: readable, shapes, offsets, ids and all checksums."""
    from mgcli.cache.progress import shown_progress
    from mgcli.cache.verify import verify_cache

    report = verify_cache(open_project_cache(cache), fast=fast, jobs=jobs, progress=shown_progress("verify", "part"))
    print_result(report.to_json(), report.summary(), as_json)
    if not report.ok:
        raise typer.Exit(EXIT_FAULT)


@app.command()
def gc(
    cache: CacheOption = None,
    older_than_h: Annotated[float, typer.Option(min=0.0, help="Age in hours from which a writer is dead.")] = 24.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Remove what killed writers left behind; committed clips are never touched."""
    from mgcli.cache.maintain import collect_garbage

    report = collect_garbage(open_project_cache(cache), age_s=older_than_h * 3600, dry_run=dry_run)
    print_result(report.to_json(), ("would remove " if dry_run else "removed ") + report.summary(), as_json)


@app.command()
@stops_with("no clip is lost: a part goes once what replaces it is whole; run the same command again to go on")
def compact(
    name: Annotated[
        str | None,
        typer.Argument(
            help="Folder name or start of a fingerprint; default: every set.", autocompletion=feature_set_names
        ),
    ] = None,
    cache: CacheOption = None,
    part_mb: Annotated[int, typer.Option(min=1, help="Size of a new part in MB.")] = 256,
    as_json: JsonOption = False,
) -> None:
    """Make few large parts of many small ones, in order of clips, and drop duplicates."""
    from mgcli.cache.maintain import compact as compact_set
    from mgcli.cache.progress import shown_progress

    opened = open_project_cache(cache)
    sets = opened.feature_sets() if name is None else [opened.named_set(name)]
    reports = [compact_set(each, part_bytes=part_mb << 20, progress=shown_progress("compact", "part")) for each in sets]
    if as_json:
        typer.echo(json.dumps([report.to_json() for report in reports]))
    else:
        typer.echo("\n".join(report.summary() for report in reports) or "nothing to compact: the cache is empty")


@app.command()
@stops_with("clips that came over are whole and stay; run the same command again to go on")
def merge(
    others: Annotated[
        list[Path], typer.Argument(parser=parse_place, metavar="OTHER", help="Caches that other machines made.")
    ],
    cache: CacheOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring the clips of other caches into this one; what is here already stays as it is."""
    from mgcli.cache.merge import merge_cache
    from mgcli.cache.progress import shown_progress
    from mgcli.cache.store import open_cache

    target = open_project_cache(cache)
    reports = []
    for other in [open_cache(each) for each in others]:  # all of them before the first clip is copied
        reports.append(merge_cache(target, other, progress=shown_progress("merge", "part")))
        if not as_json:
            typer.echo(reports[-1].summary())  # at once: another may fail
    if as_json:
        typer.echo(json.dumps([report.to_json() for report in reports]))
    if any(report.conflicts for report in reports):
        raise typer.Exit(EXIT_SOME_FAILED)


@app.command("rm")
def remove(
    name: Annotated[
        str,
        typer.Argument(
            help="Folder name or start of the fingerprint of a feature set.", autocompletion=feature_set_names
        ),
    ],
    cache: CacheOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete one feature set."""
    from mgcli.cache.maintain import remove_feature_set

    opened = open_project_cache(cache)
    if not yes:
        typer.confirm(f"delete feature set {name} of {opened.path}?", abort=True, err=True)
    typer.echo(f"deleted {remove_feature_set(opened, name)}")


@app.command("export")
def export(
    name: Annotated[
        str,
        typer.Argument(
            help="Folder name or start of the fingerprint of a feature set.", autocompletion=feature_set_names
        ),
    ],
    out: Annotated[Path, typer.Argument(help="File to write; a folder for npy and npz-per-clip.")],
    form: Annotated[str, typer.Option(help="npz, npz-per-clip, npy, hdf5, safetensors or share.")],
    clips: Annotated[Path | None, typer.Option(help="Only the clips of this clip table (CSV).")] = None,
    view: Annotated[int, typer.Option(min=0, help="0 the plain view; 1 and up augmented ones.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
    cache: CacheOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write one feature set in a form that other programs read, or in one file for another cache."""
    from mgcli.cache.clips import read_clip_table
    from mgcli.cache.exporting import export_features

    table = None if clips is None else read_clip_table(clips)
    opened = open_project_cache(cache)
    report = export_features(opened, name, out, form, table=table, view=view, overwrite=overwrite)
    print_result(report.to_json(), report.summary(), as_json)


@app.command()
@stops_with("clips that are finished stay; run the same command again to go on")
def derive(
    name: Annotated[
        str,
        typer.Argument(
            help="Folder name or start of the fingerprint of a feature set.", autocompletion=feature_set_names
        ),
    ],
    tokens: Annotated[str, typer.Option(help="Layout to make: time, joint or pooled.")],
    grid: Annotated[
        str | None, typer.Option(help="CLASS,TIMES,PLACES of a window, where the feature set does not say.")
    ] = None,
    cache: CacheOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a smaller token layout from a feature set of layout full, without the videos."""
    from mgcli.cache.derive import derive_layout, parse_grid

    given = None if grid is None else parse_grid(grid)
    report = derive_layout(open_project_cache(cache), name, tokens, grid=given)
    print_result(report.to_json(), report.summary(), as_json)


def _info_text(content: dict[str, Any]) -> str:
    """`cache info` for people."""
    lines = [f"{content['path']} (format version {content['format_version']})"]
    for each in content["feature_sets"]:
        count = EntryCount(each["clips"], each["entries"], each["view_entries"])
        views = f" (1 to {each['views']})" if each["views"] else ""
        lines.append(
            f"  {each['modality']:<8} {each['backbone']} {each['fingerprint']}: {count}{views}, "
            f"{each['tokens']} tokens of {each['dim']} {each['dtype']} ({each['layout']}), "
            f"{each['bytes'] / 1e6:.1f} MB in {each['parts']} {each['format']} part(s), weights {each['weights']}"
        )
    return "\n".join(lines if content["feature_sets"] else [*lines, "  empty"])
