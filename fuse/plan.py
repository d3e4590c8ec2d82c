"""What an ablation would train, for a person to look at before it does."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mgcli.cache import FeatureCache
from mgcli.fuse.device import usable_cores
from mgcli.fuse.grid import Cell, groups
from mgcli.fuse.seeds import why_one_by_one
from mgcli.fuse.task import modality_of


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The cells of a grid in the groups that will train them."""

    groups: list[list[Cell]]
    one_by_one: list[str]  # why each group is trained one run after another; empty where it is trained together
    finished: list[str]  # names of the cells that have a run folder already
    workers: int

    def to_json(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        done = set(self.finished)
        return {
            "runs": sum(map(len, self.groups)),
            "trainings": sum(len(cell.seeds) for group in self.groups for cell in group),
            "finished": len(done),
            "workers": self.workers,
            "one_by_one": self.one_by_one,
            "groups": [
                [
                    {
                        "run": cell.name,
                        "head": cell.label,
                        "modalities": list(cell.modalities),
                        "features": cell.features,
                        "options": cell.options,
                        "seeds": list(cell.seeds),
                        "fold": cell.config.fold if cell.config.folds else None,
                        "finished": cell.name in done,
                    }
                    for cell in group
                ]
                for group in self.groups
            ],
        }

    def text(self) -> str:
        """For a terminal."""
        about, lines = self.to_json(), []
        for number, group in enumerate(about["groups"]):
            first = group[0]
            reads = ", ".join(f"{name} {fingerprint}" for name, fingerprint in first["features"].items())
            why, trainings = self.one_by_one[number], sum(len(cell["seeds"]) for cell in group)
            how = f"one by one: {why}" if why else "together"
            lines.append(f"group {number + 1}: {first['head']} on {reads}; {trainings} training(s), {how}")
            for cell in group:
                options = " ".join(f"{name}={value}" for name, value in cell["options"].items())
                fold = "" if cell["fold"] is None else f"fold {cell['fold']} "
                state = "finished" if cell["finished"] else "to train"
                lines.append(
                    f"  {state}  {cell['run']}  {fold}seeds {' '.join(map(str, cell['seeds']))}  {options}".rstrip()
                )
        lines.append(
            f"{about['runs']} runs of {about['trainings']} trainings in {len(self.groups)} group(s), by {self.workers} "
            f"process(es); {about['finished']} finished already"
        )
        return "\n".join(lines)


def make_plan(
    cache: FeatureCache, cells: Sequence[Cell], runs: Path, processes: int | None = None, replicas: str = "auto"
) -> Plan:
    """How `train_cells` would go about these cells."""
    workers = num_workers(len(cells), processes)
    in_groups = groups(cells, workers)
    return Plan(
        groups=in_groups,
        one_by_one=[why_cells_one_by_one(cache, group, replicas) for group in in_groups],
        finished=[cell.name for cell in cells if is_done(runs, cell)],
        workers=workers,
    )


def num_workers(num_cells: int, processes: int | None) -> int:
    """Processes for so many cells: as asked for, else one a core, and one with a GPU."""
    if processes is None:
        processes = 1 if torch.cuda.is_available() else usable_cores()
    return max(1, min(processes, num_cells))


def why_cells_one_by_one(cache: FeatureCache, group: Sequence[Cell], replicas: str) -> str:
    """As `why_one_by_one`, of cells of one architecture."""
    first = group[0]
    dims = {name: cache.feature_set(modality_of(name), each).spec.dim for name, each in first.features.items()}
    num_trainings = sum(len(cell.seeds) for cell in group)
    return why_one_by_one(first.head, dims, first.config, num_trainings, replicas)


def is_done(runs: Path, cell: Cell) -> bool:
    """Whether the cell has its run folder: run folders appear whole."""
    return (runs / cell.name / "metrics.json").is_file()


def blocked(runs: Path, cell: Cell) -> str:
    """What stands in the way of the cell's run folder; empty where nothing does, or where the run is done."""
    path = runs / cell.name
    if is_done(runs, cell) or not (path.exists() or path.is_symlink()):
        return ""
    return f"{path} is in the way and no whole run; delete it and run the same command again"


def grid_name(task: str, cells: Sequence[Cell]) -> str:
    """Of the folder of its tables: the same for the same cells."""
    names = "\n".join(sorted(cell.name for cell in cells))
    return f"ablation-{task}-{hashlib.sha256(names.encode('utf-8')).hexdigest()[:8]}"
