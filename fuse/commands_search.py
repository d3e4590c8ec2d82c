"""The commands around many runs: ablate, tune, ensemble, reproduce."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mgcli.cache.completion import modality_lists, task_names
from mgcli.cache.console import (
    EXIT_FAULT,
    EXIT_SOME_FAILED,
    AllowLeakageOption,
    CacheOption,
    ClipsOption,
    JsonOption,
    ProtocolOption,
    check_engine,
    key_values,
    open_project_cache,
    print_result,
    project_with,
    say,
    stops_with,
)
from mgcli.fuse.commands import AllowUnseenOption, ReplicasOption, RunArgument, RunsOption, training_clips
from mgcli.fuse.commands_tables import check_tables_folder, printed_anyway
from mgcli.fuse.completion import head_names

if TYPE_CHECKING:
    import pandas as pd

    from mgcli.cache import FeatureCache, Project

app = typer.Typer()

TaskOption = Annotated[str, typer.Option(help="gesture or emotion.", autocompletion=task_names)]
FeaturesOption = Annotated[
    list[str] | None,
    typer.Option(help="MODALITY=FINGERPRINT (or backbone), where a modality has several feature sets."),
]
SettingsOption = Annotated[
    Path | None, typer.Option(help="TOML file with settings for every run, as `mgcli tune` writes it.")
]
ProcessesOption = Annotated[
    int | None, typer.Option(min=1, help="Runs trained at a time; default: one a core, one with a GPU.")
]

_STOPS = stops_with("runs that are finished stay; run the same command again to go on")


@app.command()
@_STOPS
def ablate(
    task: TaskOption,
    grid: Annotated[Path | None, typer.Option(help="TOML file: head, modalities, seeds, folds, [options].")] = None,
    head: Annotated[
        list[str] | None, typer.Option(help="A head of the grid; repeat for several.", autocompletion=head_names)
    ] = None,
    modalities: Annotated[
        list[str] | None,
        typer.Option(
            help="A choice of modalities, such as video,pose; repeat for several.", autocompletion=modality_lists
        ),
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="KEY=V1,V2,..., any setting of the training or head; repeat for several.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Trainings of each: with seed 0, 1, ...; default 5.")] = None,
    folds: Annotated[
        int | None,
        typer.Option(min=0, help="Subject-disjoint folds of the training subjects; 0: one validation split."),
    ] = None,
    settings: SettingsOption = None,
    features: FeaturesOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would be trained, and how.")] = False,
    processes: ProcessesOption = None,
    replicas: ReplicasOption = "auto",
    engine: Annotated[
        str | None, typer.Option(help="ray: share the runs among the machines of a Ray cluster that is running.")
    ] = None,
    allow_unseen_classes: AllowUnseenOption = False,
    allow_leakage: AllowLeakageOption = False,
    out: Annotated[Path | None, typer.Option(help="Folder of the tables; default: in the runs folder.")] = None,
    clips: ClipsOption = None,
    cache: CacheOption = None,
    runs: RunsOption = None,
    protocol: ProtocolOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a grid of modalities, heads, options, seeds and folds; resumes; tables as CSV, Markdown and LaTeX."""
    from mgcli.fuse.ablate import raise_if_stopped, report_failures, train_cells
    from mgcli.fuse.ablate_table import ablation_table
    from mgcli.fuse.engine_ray import plan_on_cluster
    from mgcli.fuse.grid import check_cells, make_grid, plan_cells
    from mgcli.fuse.grid_file import read_grid, settings_of
    from mgcli.fuse.plan import grid_name, make_plan

    check_engine(engine)
    project, opened, table = _opened(cache, runs, clips, protocol)
    content = read_grid(grid) if grid else {}
    flags = {"head": head, "modalities": modalities, "seeds": seeds, "folds": folds}
    content |= {key: value for key, value in flags.items() if value is not None}
    content["options"] = content.get("options", {}) | _value_lists(option)
    given = settings_of(settings) if settings else {}
    content = {key: given[key] for key in ("head", "modalities") if key in given} | content
    base = given.get("options", {}) | _forced(allow_unseen_classes, allow_leakage)
    notes = _notes(project)

    def note(text: str) -> None:
        if text not in notes:
            notes.append(text)
            say(f"warning: {text}")

    named = {key: str(value) for key, value in key_values(features, "--features").items()}
    cells = plan_cells(opened, task, make_grid(content), table, named, base, note)
    check_cells(opened, task, cells, table)
    if dry_run:
        plan = (plan_on_cluster if engine else make_plan)(opened, cells, project.runs, processes, replicas)
        print_result(plan.to_json(), plan.text(), as_json)
        return
    folder = out or project.runs / grid_name(task, cells)
    if out is not None:
        check_tables_folder(out)
    outcome = train_cells(
        opened,
        task,
        cells,
        table,
        project.runs,
        notes=notes,
        processes=processes,
        replicas=replicas,
        engine=engine,
    )
    made = ablation_table(task, cells, outcome.done, project.runs) if outcome.done else None
    outcome.lose(made.damaged if made else {})
    report_failures(outcome)
    failed = {"failed": outcome.failed, "left": [cell.name for cell in outcome.left]}
    if made and made.rows:
        with printed_anyway(made.to_json() | failed, made.text(), as_json, folder):
            made.write(folder)
        print_result(made.to_json() | failed | {"tables": str(folder)}, f"{made.text()}\ntables: {folder}", as_json)
    elif as_json:
        print_result({"rows": []} | failed, "", as_json)
    raise_if_stopped(outcome)
    if outcome.failed:
        raise typer.Exit(EXIT_SOME_FAILED)


@app.command()
@_STOPS
def tune(
    task: TaskOption,
    head: Annotated[
        str | None, typer.Option(help="See `mgcli heads`; default the task's.", autocompletion=head_names)
    ] = None,
    modalities: Annotated[
        str | None, typer.Option(help="Such as video,pose; default the task's.", autocompletion=modality_lists)
    ] = None,
    search: Annotated[str, typer.Option(help="random, or optuna (pip install 'mgcli[tune]').")] = "random",
    trials: Annotated[int, typer.Option(min=1, help="Settings to try.")] = 30,
    search_seed: Annotated[int, typer.Option(min=0, help="Of the search: the same seed tries the same settings.")] = 0,
    space: Annotated[Path | None, typer.Option(help="TOML file: NAME = [choices], or {low, high, log}.")] = None,
    option: Annotated[list[str] | None, typer.Option(help="KEY=VALUE, a setting of every trial.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each trial: with seed 0, 1, ...")] = 1,
    folds: Annotated[
        int, typer.Option(min=0, help="Subject-disjoint folds of the training subjects; 0: one validation split.")
    ] = 0,
    settings: SettingsOption = None,
    features: FeaturesOption = None,
    processes: ProcessesOption = None,
    replicas: ReplicasOption = "auto",
    allow_unseen_classes: AllowUnseenOption = False,
    allow_leakage: AllowLeakageOption = False,
    out: Annotated[Path | None, typer.Option(help="Folder of settings.toml and the table of trials.")] = None,
    clips: ClipsOption = None,
    cache: CacheOption = None,
    runs: RunsOption = None,
    protocol: ProtocolOption = None,
    as_json: JsonOption = False,
) -> None:
    """Search for settings on validation clips alone; test clips are not even loaded. Resumes."""
    from mgcli.fuse.ablate import raise_if_stopped, report_failures
    from mgcli.fuse.grid import make_grid
    from mgcli.fuse.grid_file import settings_of
    from mgcli.fuse.tune import SPACE, read_space, write_settings
    from mgcli.fuse.tune import tune as tune_settings

    project, opened, table = _opened(cache, runs, clips, protocol)
    given = settings_of(settings) if settings else {}
    head, modalities = head or given.get("head"), modalities or given.get("modalities")
    base = given.get("options", {}) | key_values(option, "--option") | _forced(allow_unseen_classes, allow_leakage)
    varied = read_space(space) if space else SPACE
    folder = out or project.runs / f"tuning-{task}-{search}-{search_seed}"
    grid = make_grid({"head": head, "modalities": modalities, "seeds": seeds, "folds": folds})
    if out is not None:
        check_tables_folder(out)
    tuned = tune_settings(
        opened,
        task,
        table,
        project.runs,
        grid=grid,
        space={name: each for name, each in varied.items() if name not in base},
        search=search,
        trials=trials,
        seed=search_seed,
        features={key: str(value) for key, value in key_values(features, "--features").items()},
        base=base,
        notes=_notes(project),
        processes=processes,
        replicas=replicas,
    )
    report_failures(tuned.outcome)
    if tuned.table is not None and tuned.best is not None:
        result = tuned.table.to_json() | {"best": tuned.best.options}
        with printed_anyway(result, tuned.table.text(), as_json, folder):
            tuned.table.write(folder)
            about = f"best of {trials} trials by {result['sorted_by']}"
            write_settings(folder / "settings.toml", tuned.best, about)
        result |= {"settings": str(folder / "settings.toml")}
        text = f"{tuned.table.text()}\ngo on with: mgcli fuse-train --task {task} --settings {folder / 'settings.toml'}"
        print_result(result, text, as_json)
    elif as_json:
        print_result({"rows": [], "failed": tuned.outcome.failed}, "", as_json)
    raise_if_stopped(tuned.outcome)
    if tuned.outcome.failed:
        raise typer.Exit(EXIT_SOME_FAILED)


@app.command()
def ensemble(
    sources: Annotated[
        list[Path],
        typer.Argument(metavar="SOURCE...", help="Run folders, .pkl of mmaction2 or pyskl, .csv by clip id."),
    ],
    task: Annotated[
        str | None, typer.Option(help="gesture or emotion; default that of the runs.", autocompletion=task_names)
    ] = None,
    weights: Annotated[str | None, typer.Option(help="One a source, such as 1,0.5; default all the same.")] = None,
    fit: Annotated[bool, typer.Option("--fit", help="Find the weights on validation clips.")] = False,
    val: Annotated[
        list[Path] | None, typer.Option(help="With --fit: validation scores of a score file; repeat, in their order.")
    ] = None,
    split: Annotated[str, typer.Option(help="train, val or test: whose scores are added.")] = "test",
    scale: Annotated[
        str, typer.Option(help="Of score files: probability, logit, or auto to tell by the numbers.")
    ] = "auto",
    clips: ClipsOption = None,
    cache: CacheOption = None,
    runs: RunsOption = None,
    protocol: ProtocolOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add the class scores of runs and score files, weighted; the result reads as a run."""
    from mgcli.fuse import make_ensemble

    project = project_with(cache=cache, runs=runs)
    table = None
    if clips is not None or protocol is not None or any(not path.is_dir() for path in sources):
        table = _table_or_none(project, clips, protocol)
    made = make_ensemble(
        sources,
        project.runs,
        task=task,
        weights=_numbers(weights),
        fit=fit,
        val_sources=val or [],
        clips=table,
        split=split,
        scale=scale,
    )
    print_result(made.to_json(), made.text(), as_json)


@app.command()
def reproduce(
    run: RunArgument,
    clips: ClipsOption = None,
    cache: CacheOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a run again from its folder, and say whether it came out the same; exit 1 where it did not."""
    from mgcli.cache import read_clip_table
    from mgcli.fuse import reproduce_run

    opened = open_project_cache(project_with(cache=cache).cache)
    report = reproduce_run(run, opened, clips=read_clip_table(clips) if clips else None)
    print_result(report.to_json(), report.text(), as_json)
    if not report.ok:
        raise typer.Exit(EXIT_FAULT)


def _table_or_none(project: Project, clips: Path | None, protocol: str | None) -> pd.DataFrame | None:
    """The clip table of a flag or of the cache; some score files do without, unless a protocol is asked for."""
    from mgcli.cache import CacheError, open_cache, read_clip_table

    if clips is not None:
        return read_clip_table(clips)
    try:
        return open_cache(project.cache).read_clips(protocol or project.protocol or None)
    except CacheError:
        if protocol is not None:
            raise
        return None


def _numbers(given: str | None) -> list[float] | None:
    if given is None:
        return None
    try:
        return [float(each) for each in given.split(",")]
    except ValueError:
        raise typer.BadParameter(f"--weights takes numbers such as 1,0.5, not {given!r}") from None


def _opened(
    cache: Path | None, runs: Path | None, clips: Path | None, protocol: str | None
) -> tuple[Project, FeatureCache, pd.DataFrame]:
    """The project, its cache, and the clip table of a flag or the newest of the project's protocol."""
    project = project_with(cache=cache, runs=runs)
    opened = open_project_cache(project.cache)
    return project, opened, training_clips(opened, project, clips, protocol)


def _forced(allow_unseen_classes: bool, allow_leakage: bool) -> dict[str, bool]:
    """The settings of these flags, where they are given."""
    flags = {"allow_unseen_classes": allow_unseen_classes, "allow_leakage": allow_leakage}
    return {name: True for name, given in flags.items() if given}


def _notes(project: Project) -> list[str]:
    return ["synthetic data"] if project.dataset == "demo" else []


def _value_lists(given: list[str] | None) -> Mapping[str, list[Any]]:
    """KEY=V1,V2 pairs; each value is JSON where it can be read so, plain text otherwise."""
    lists = {}
    for each in given or []:
        key, equals, values = each.partition("=")
        if not equals:
            raise typer.BadParameter(f"--option takes KEY=V1,V2,..., not {each!r}")
        lists[key] = [key_values([f"{key}={value}"], "--option")[key] for value in values.split(",")]
    return lists
