"""The command line: each room brings its commands; here are those that need more than one room."""

from __future__ import annotations

from mgcli.cache.startup import EXIT_STOPPED, NOTHING_LEFT, LeaveOnInterrupt, say_stopped

with LeaveOnInterrupt():
    import sys
    import time
    from collections.abc import Sequence
    from dataclasses import replace
    from pathlib import Path
    from typing import TYPE_CHECKING, Annotated, Any

    import typer
    from typer.core import TyperGroup

    from mgcli.cache.commands import app as cache_app
    from mgcli.cache.commands import bench_app as cache_bench_app
    from mgcli.cache.console import (
        EXIT_FAULT,
        EXIT_SOME_FAILED,
        CacheOption,
        ClipsOption,
        JsonOption,
        ProtocolOption,
        make_project_cache,
        open_project_cache,
        print_result,
        project_with,
        say,
        stops_with,
    )
    from mgcli.cache.freed_memory import keep_freed_memory
    from mgcli.cache.interrupt import hear_interrupts
    from mgcli.extract.commands import app as extract_app
    from mgcli.extract.commands import cache_app as extract_cache_app
    from mgcli.extract.commands_bench import bench_app as extract_bench_app
    from mgcli.extract.commands_catalogue import app as catalogue_app
    from mgcli.extract.commands_data import app as data_app
    from mgcli.extract.commands_import import app as import_app
    from mgcli.fuse.commands import app as fuse_app
    from mgcli.fuse.commands_bench import bench_app as fuse_bench_app
    from mgcli.fuse.commands_search import app as fuse_search_app

if TYPE_CHECKING:
    import pandas as pd

    from mgcli.cache import FeatureCache, Section
    from mgcli.extract import ViewedClip
    from mgcli.fuse import Run

ORDER = (  # of the commands in the help, as they are needed one after the other
    *("demo", "doctor", "init", "data", "extract", "backbone-train", "cache", "fuse-train", "ablate", "tune"),
    *("ensemble", "evaluate", "predict", "report", "view", "submit", "reproduce"),
    *("backbones", "weights", "heads", "datasets", "bench"),
)


class _Story(TyperGroup):
    """The commands in the order of ORDER, whichever room they come from."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(self.commands, key=ORDER.index)


app = typer.Typer(
    name="mgcli",
    cls=_Story,
    help="Frozen backbones once, fusion heads in seconds: micro-gestures and emotion from video.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
DEMO_CLIPS = 3  # of each task that the demo's report shows
_DEMO_FOLDERS: dict[str, Any] = {
    "root": Path("data"),
    "cache": Path("features"),
    "runs": Path("runs"),
    "weights": Path("weights"),
}


def main() -> None:
    """Entry point: a user's mistake prints its message and exits 1, Ctrl-C exits 130; a bug keeps its traceback."""
    try:
        hear_interrupts()
        keep_freed_memory()
        sys.path.append(str(Path.cwd()))  # where a user's own package.module:Class may lie
        app()
    except SystemExit as end:
        if end.code == EXIT_STOPPED:  # typer's, for Ctrl-C
            say_stopped(NOTHING_LEFT)
        raise
    except KeyboardInterrupt:  # before or after the command itself
        say_stopped(NOTHING_LEFT)
        raise SystemExit(EXIT_STOPPED) from None
    except Exception as error:
        from mgcli.cache import MgcliError, StoppedError  # only now: --help stays light

        if isinstance(error, StoppedError):
            say_stopped(str(error))
            raise SystemExit(EXIT_STOPPED) from None
        if not isinstance(error, MgcliError):
            raise
        print(f"mgcli: {error}", file=sys.stderr)
        raise SystemExit(EXIT_FAULT) from None


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"mgcli {version('mgcli')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Options of every command."""


@app.command()
@stops_with("what is finished is not done twice; run the same command again to go on")
def demo(
    folder: Annotated[Path, typer.Option(help="Where the demo's files go.")] = Path("mgcli-demo"),
    weights: Annotated[
        str | None, typer.Option(help="Of MViTv2-S; by default the published file where it is here, else random:0.")
    ] = None,
    precision: Annotated[str, typer.Option(help="float32, bfloat16 or auto.")] = "auto",
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each head.")] = 3,
    as_json: JsonOption = False,
) -> None:
    """The main job end to end, offline: a small data set, extraction, both tasks, tables, a report."""
    from mgcli.cache import Project, write_project
    from mgcli.extract import (
        DEMO_POSE_SETTINGS,
        extract_modalities,
        load_project_clips,
        make_demo,
        pose_labels,
        train_pose_backbone,
        weights_are_here,
    )
    from mgcli.fuse import compare_heads, compare_runs, make_config, results_table, write_report

    started = time.monotonic()
    project = Project(
        dataset="demo",
        root=folder / "data",
        protocol="demo",
        cache=folder / "features",
        runs=folder / "runs",
        weights=folder / "weights",
    )
    own_weights = project_with().weights  # where a user keeps the published files
    names = ("mvit_v2_s", "swinface")
    used = {name: "published" if weights_are_here(name, own_weights) else "random:0" for name in names}
    used |= {"mvit_v2_s": weights} if weights else {}
    shown = ", ".join(f"{name} {value}" for name, value in used.items())
    note = f"the demo's videos are synthetic, drawn by mgcli; weights: {shown}; 2s-AGCN was trained on them"
    say(note)
    make_demo(project.root)
    write_project(replace(project, **_DEMO_FOLDERS), folder, overwrite=True)
    (table, protocol), cache = load_project_clips(project), make_project_cache(project)
    pose = train_pose_backbone(
        pose_labels(table),
        settings=DEMO_POSE_SETTINGS,
        protocol=protocol,
        weights_dir=project.weights,
        precision=precision,
    )
    say(pose.summary())
    of_modality = {"video": used["mvit_v2_s"], "context": used["mvit_v2_s"], "face": used["swinface"]}
    of_modality["pose"] = str(pose.checkpoint)
    for modalities, task in ((["video", "pose"], "gesture"), (["context", "face"], "emotion")):
        report = extract_modalities(
            cache,
            table,
            modalities,
            weights={name: value for name in modalities if (value := of_modality[name]) != "published"},
            precision=precision,
            task=task,
            protocol=protocol,
            weights_dir=own_weights,
        )
        say(report.summary())
        if report.failed:
            raise typer.Exit(EXIT_SOME_FAILED)
    tasks, trained = {}, []
    config = make_config({"min_steps": 250})  # half the usual: the planted signs are plain
    for task in ("gesture", "emotion"):
        runs = compare_heads(cache, task, seeds=seeds, runs=project.runs, notes=["synthetic data"], config=config)
        trained += [runs[-1], *runs[:-1]]
        tasks[task] = {run.label: run.metrics["test"]["top1"]["mean"] for run in runs}
        typer.echo(f"{results_table(runs)}\n\n{compare_runs(runs[-1], runs[:-1]).text()}\n", err=as_json)
    viewer = viewer_sections(trained, cache, number=DEMO_CLIPS)
    page = write_report(trained, folder / "report.html", cache=cache, viewer=viewer)
    say(page.summary())
    seconds = round(time.monotonic() - started, 1)
    result = {"tasks": tasks, "pose_streams": pose.scores, "seconds": seconds, "weights": used, "data": "synthetic"}
    result["report"] = str(page.out)
    done = f"{note}\ndone in {seconds:.0f} s; go on with: cd {folder} && mgcli fuse-train --task emotion"
    print_result(result, done, as_json)


@app.command()
def doctor(as_json: JsonOption = False) -> None:
    """Look at all that mgcli needs here: ok, warning or fault, and what to do next; exit code 1 for a fault."""
    from mgcli.cache import checks_text, find_project, installation_checks, storage_checks
    from mgcli.extract import extract_checks

    project, of_file = find_project()
    checks = [*installation_checks(), *extract_checks(project), of_file, *storage_checks(project)]
    ok = not any(check.state == "fault" for check in checks)
    print_result({"ok": ok, "checks": [check.to_json() for check in checks]}, checks_text(checks), as_json)
    if not ok:
        raise typer.Exit(EXIT_FAULT)


@app.command()
def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help="Run folders; the first of each task is looked at closely, the others are compared with it.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="HTML file to write; an older page there is replaced.")] = Path(
        "report.html"
    ),
    num_clips: Annotated[
        int, typer.Option("--clips", min=0, max=200, help="Clips of each task with frames and attention; 0 for none.")
    ] = 4,
    clip: Annotated[
        list[str] | None, typer.Option(help="A clip to show so, by its id; repeat. Without it, the surest answers.")
    ] = None,
    token_map: Annotated[
        str, typer.Option("--map", help="Of the token space: pca, or umap (pip install 'mgcli[umap]').")
    ] = "pca",
    seed: Annotated[int, typer.Option(min=0, help="Of what UMAP draws; the same seed, the same map.")] = 0,
    cache: CacheOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write one HTML page of some runs: data, scores, figures and clips to look at; it opens without a network."""
    from mgcli.cache import expect_page_place
    from mgcli.fuse import MapConfig, Run, expect_map, write_report

    expect_page_place(out)
    expect_map(drawn := MapConfig(kind=token_map, seed=seed))
    opened, loaded = _cache_or_why_not(cache), [Run.load(run) for run in runs]
    viewer = viewer_sections(loaded, opened, number=num_clips, clip_ids=clip or [])
    written = write_report(loaded, out, cache=opened, viewer=viewer, token_map=drawn, say=say)
    print_result(written.to_json(), written.summary(), as_json)


@app.command()
def view(
    clip_id: Annotated[str, typer.Argument(help="The clip, as the clip table names it.")],
    run: Annotated[Path | None, typer.Option(help="A run's folder: show what its head attends to and answers.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the run's trainings; default its first.")] = None,
    out: Annotated[Path | None, typer.Option(help="HTML file to write; default CLIP_ID.html.")] = None,
    clips: ClipsOption = None,
    cache: CacheOption = None,
    protocol: ProtocolOption = None,
    as_json: JsonOption = False,
) -> None:
    """One clip as a page that opens anywhere: frames, skeleton, face, cached tokens, and what a head attends to."""
    from urllib.parse import quote

    from mgcli.cache import MgcliError, Page, expect_page_place, find_clip
    from mgcli.extract import load_project_clips, viewer_section
    from mgcli.fuse.commands import training_clips

    out = out or Path(f"{quote(clip_id, safe=' ')}.html")
    expect_page_place(out)
    project = project_with(cache=cache)
    opened, missing = None, ""
    try:
        opened = open_project_cache(project.cache)
        table = training_clips(opened, project, clips, protocol)
    except MgcliError as error:  # before the first extraction there is no cache, or no clip table in it
        if run is not None or cache is not None:
            raise
        missing = str(error)
        table, _ = load_project_clips(project_with(clips=clips, protocol=protocol))
    row = find_clip(table, clip_id)
    (viewed,) = view_clips(opened, table, [row["clip_id"]], run=run, seed=seed)
    page = Page(
        title=f"Clip {clip_id}",
        lead=f"Written by mgcli view{f' with {run.name}' if run else ''}.",
        sections=[viewer_section([viewed], title="What was cached, and what it looks like")],
        warnings=[missing] if missing else [],
    )
    page.write(out)
    print_result({"page": str(out)} | viewed.to_json(), f"{viewed.summary()}\nwrote {out}", as_json)


def view_clips(
    cache: FeatureCache | None, table: pd.DataFrame, clip_ids: list[str], *, run: Path | None, seed: int | None
) -> list[ViewedClip]:
    """Clips with what a run's head makes of them: what the two stages give, brought together."""
    from mgcli.cache import class_name, find_clip
    from mgcli.extract import Answer, look_at_clip

    answers = {}
    if run is not None and cache is not None:
        from mgcli.fuse import run_attention  # torch takes its time

        found = run_attention(run, cache, clip_ids, seed=seed, clips=table)
        for warning in found.warnings:
            say(f"warning: {warning}")
        answers = {
            clip_id: Answer(
                head=found.head,
                seed=found.seed,
                how=found.how,
                true=class_name(each.true, found.protocol) if each.true else "",
                probabilities={class_name(name, found.protocol): p for name, p in each.probabilities.items()},
                attention={found.feature_sets[modality]: shares for modality, shares in each.tokens.items()},
            )
            for clip_id, each in found.clips.items()
        }
    return [look_at_clip(cache, find_clip(table, clip_id), answers.get(clip_id)) for clip_id in clip_ids]


def viewer_sections(
    runs: Sequence[Run], cache: FeatureCache | str, *, number: int, clip_ids: Sequence[str] = ()
) -> list[Section]:
    """For the first run of each task: clips that tell much of it, or the given ones, with what its head attends to."""
    from mgcli.cache import MgcliError, find_clip
    from mgcli.extract import viewer_section
    from mgcli.fuse import telling_clips

    if isinstance(cache, str) or (number == 0 and not clip_ids):
        return []
    first = {run.config["task"]: run for run in reversed(runs)}
    sections: list[Section] = []
    found: set[str] = set()
    for task, run in reversed(first.items()):
        about = f"By {run.label}, seed {run.config['seeds'][0]}." if run.config.get("seeds") else ""
        try:
            table = cache.read_clips(run.protocol)
            of_task = table if len(first) == 1 else table[table[task] != ""]
            known = set(of_task["clip_id"])
            wanted = clip_ids or telling_clips(run, number)
        except MgcliError as error:
            say(f"no clips with frames for {run.name}: {error}")
            continue
        found |= known
        chosen = [clip_id for clip_id in dict.fromkeys(wanted) if clip_id in known]
        if not chosen:
            continue
        try:
            viewed = view_clips(cache, table, chosen, run=run.path, seed=None)
        except MgcliError as error:  # the page is worth having without
            about = f"Without attention: {error}"
            viewed = view_clips(cache, table, chosen, run=None, seed=None)
        title = "Clips with their frames" if len(first) == 1 else f"{task.capitalize()}: clips with their frames"
        sections.append(viewer_section(viewed, anchor=f"viewer-{task}", title=title, about=about))
    for clip_id in clip_ids:
        if clip_id not in found:
            find_clip(cache.read_clips(), clip_id)  # says which ids are near
    return sections


def _cache_or_why_not(cache: Path | None) -> FeatureCache | str:
    """The cache of the flag or the project; where the flag named none, a report can do without."""
    from mgcli.cache import CacheError

    try:
        return open_project_cache(project_with(cache=cache).cache)
    except CacheError as error:
        if cache is not None:
            raise
        return str(error)


app.add_typer(data_app)
app.add_typer(extract_app)
app.add_typer(catalogue_app)
app.add_typer(fuse_app)
app.add_typer(fuse_search_app)
cache_app.add_typer(import_app)
cache_app.add_typer(extract_cache_app)
app.add_typer(cache_app, name="cache")
bench_app = typer.Typer(
    help="How fast this machine is, against plain references in the same run.", no_args_is_help=True
)
bench_app.add_typer(cache_bench_app)
bench_app.add_typer(extract_bench_app)
bench_app.add_typer(fuse_bench_app)
app.add_typer(bench_app, name="bench")


if __name__ == "__main__":
    main()
