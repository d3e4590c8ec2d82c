"""The command line: each room brings its commands; here are those that need more than one room."""

from __future__ import annotations

import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from mgcli.cache.commands import app as cache_app
from mgcli.cache.commands import bench_app as cache_bench_app
from mgcli.cache.console import (
    EXIT_FAULT,
    EXIT_SOME_FAILED,
    EXIT_STOPPED,
    CacheOption,
    ClipsOption,
    FormatOption,
    JsonOption,
    ProtocolOption,
    make_project_cache,
    print_result,
    project_with,
    say,
    stops_with,
)
from mgcli.extract.commands import app as extract_app
from mgcli.extract.commands import cache_app as extract_cache_app
from mgcli.extract.commands_bench import bench_app as extract_bench_app
from mgcli.extract.commands_catalogue import app as catalogue_app
from mgcli.fuse.commands import app as fuse_app
from mgcli.fuse.commands_search import app as fuse_search_app

app = typer.Typer(
    name="mgcli",
    help="Frozen backbones once, fusion heads in seconds: micro-gestures and emotion from video.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
_DEMO_FOLDERS: dict[str, Any] = {
    "root": Path("data"),
    "cache": Path("features"),
    "runs": Path("runs"),
    "weights": Path("weights"),
}


def main() -> None:
    """Entry point: a user's mistake prints its message and exits 1, Ctrl-C exits 130; a bug keeps its traceback."""
    sys.path.append(str(Path.cwd()))  # where a user's own package.module:Class may lie
    try:
        app()
    except SystemExit as end:
        if end.code == EXIT_STOPPED:  # typer's, for Ctrl-C
            _say_stopped("nothing half-written is left; run the same command again")
        raise
    except Exception as error:
        from mgcli.cache import MgcliError, StoppedError  # only now: --help stays light

        if isinstance(error, StoppedError):
            _say_stopped(str(error))
            raise SystemExit(EXIT_STOPPED) from None
        if not isinstance(error, MgcliError):
            raise
        print(f"mgcli: {error}", file=sys.stderr)
        raise SystemExit(EXIT_FAULT) from None


def _say_stopped(what_is_safe: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C once more: the end, without a traceback
    print(f"mgcli: stopped; {what_is_safe}", file=sys.stderr)


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
    """The main job end to end, offline: make a small data set, extract, train both tasks, print the tables."""
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
    from mgcli.fuse import compare_heads, compare_runs, make_config, results_table

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
    tasks = {}
    config = make_config({"min_steps": 250})  # half the usual: the planted signs are plain
    for task in ("gesture", "emotion"):
        runs = compare_heads(cache, task, seeds=seeds, runs=project.runs, notes=["synthetic data"], config=config)
        tasks[task] = {run.label: run.metrics["test"]["top1"]["mean"] for run in runs}
        typer.echo(f"{results_table(runs)}\n\n{compare_runs(runs[-1], runs[:-1]).text()}\n", err=as_json)
    seconds = round(time.monotonic() - started, 1)
    result = {"tasks": tasks, "pose_streams": pose.scores, "seconds": seconds, "weights": used, "data": "synthetic"}
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


app.add_typer(extract_app)
app.add_typer(catalogue_app)
app.add_typer(fuse_app)
app.add_typer(fuse_search_app)
cache_app.add_typer(extract_cache_app)
app.add_typer(cache_app, name="cache")
bench_app = typer.Typer(
    help="How fast this machine is, against plain references in the same run.", no_args_is_help=True
)
bench_app.add_typer(cache_bench_app)
bench_app.add_typer(extract_bench_app)
app.add_typer(bench_app, name="bench")


@cache_app.command("import")
@stops_with("clips that came in are whole and stay; run the same command again to go on")
def cache_import(
    file: Annotated[
        Path,
        typer.Argument(help=".npz, .h5 or .safetensors keyed by clip id, a folder of .npy or .npz, or a shared file."),
    ],
    modality: Annotated[str | None, typer.Option(help="Modality under which the features are stored.")] = None,
    backbone: Annotated[str | None, typer.Option(help="What made them, for the tables.")] = None,
    key: Annotated[str | None, typer.Option(help="Array to take, where each clip has several.")] = None,
    pattern: Annotated[
        str | None, typer.Option(help="File names in a folder, such as '{clip_id}_i3d_rgb.npy'; default: the clip id.")
    ] = None,
    clips: ClipsOption = None,
    cache: CacheOption = None,
    cache_format: FormatOption = None,
    protocol: ProtocolOption = None,
    as_json: JsonOption = False,
) -> None:
    """Store features that another program made, or that another cache shared, so that stage two can start."""
    from mgcli.cache import import_features, import_share, is_share
    from mgcli.extract import load_project_clips

    project = project_with(clips=clips, cache=cache, format=cache_format, protocol=protocol)
    if is_share(file):
        if modality or backbone or key or pattern or clips or protocol:
            raise typer.BadParameter("a shared file brings its own modality, backbone and clip tables")
        shared = import_share(make_project_cache(project), file)
        print_result(shared.to_json(), shared.summary(), as_json)
        return
    if modality is None or backbone is None:
        raise typer.BadParameter(
            f"{file.name} was not made by `cache export --form share`: give --modality and --backbone"
        )
    table, protocol = load_project_clips(project)
    report = import_features(
        make_project_cache(project),
        file,
        modality,
        backbone,
        table,
        protocol=protocol,
        key=key,
        pattern=pattern,
    )
    print_result(report.to_json(), report.summary(), as_json)
    if report.failures:
        raise typer.Exit(EXIT_SOME_FAILED)


if __name__ == "__main__":
    main()
