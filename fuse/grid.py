"""The ablation grid: what is crossed with what, and the cells that it makes; `grid_file.py` has its file."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pandas as pd
import torch

from mgcli.cache import FeatureCache, warn
from mgcli.fuse.folds import assign_folds
from mgcli.fuse.grid_file import EXAMPLES, GridError, refuse_folds
from mgcli.fuse.head import check_options, create_head
from mgcli.fuse.identity import run_key, table_hash, tokens_hash
from mgcli.fuse.prepare import DEFAULT_SEEDS, run_label, seed_list
from mgcli.fuse.selection import refuse_leakage
from mgcli.fuse.settings import TrainConfig, make_config
from mgcli.fuse.task import SINGLE, Choice, Task, choose, get_task, modality_of


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Everything that is crossed with everything."""

    heads: tuple[str | None, ...] = (None,)  # None: the task's
    modalities: tuple[tuple[str, ...] | None, ...] = (None,)  # None: the task's that the cache has
    options: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    seeds: tuple[int, ...] = tuple(range(DEFAULT_SEEDS))
    folds: int = 0

    def settings(self) -> list[dict[str, Any]]:
        """Every combination of the options."""
        return [dict(zip(self.options, values, strict=True)) for values in itertools.product(*self.options.values())]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run of the grid: what `train_head` trains with all seeds. Runs of one row differ in their fold alone."""

    name: str  # of its run folder: ends in the key, a hash of all that decides it
    row: int
    head: str
    label: str
    modalities: tuple[str, ...]
    features: dict[str, str]  # modality -> fingerprint
    options: dict[str, Any]  # all that was set, the rest is as usual
    config: TrainConfig
    seeds: tuple[int, ...]

    @property
    def architecture(self) -> str:
        """Cells that agree in this have parameters of the same shapes and see batches of the same size."""
        shapes = {name: value for name, value in asdict(self.config).items() if name not in _FREE}
        of_head = {name: value for name, value in asdict(self.config.head).items() if name not in _FREE}
        return repr((self.head, self.features, shapes | {"head": of_head}))


# What may differ between runs that are trained together: nothing that changes a shape, a batch or what is read.
_FREE = frozenset(
    {"epochs", "min_steps", "learning_rate", "warmup", "weight_decay", "grad_clip", "patience", "ema"}
    | {"label_smoothing", "aux_weight", "sampling", "class_balance", "effective_beta"}
    | {"modality_dropout", "token_dropout", "mixup", "dropout", "without"}
    | {"validation_fraction", "split_seed", "folds", "fold", "allow_unseen_classes", "allow_leakage"}
)


def make_grid(content: Mapping[str, Any]) -> Grid:
    """A grid of what `read_grid` gives, or of flags in the same form.

    Raises:
        GridError: a value of the wrong kind.
        TrainError: an option that does not exist, or a value that it does not take; the message suggests.
    """
    options = {name: tuple(_listed(value)) for name, value in content.get("options", {}).items()}
    folds, seeds = content.get("folds", 0), content.get("seeds", DEFAULT_SEEDS)
    if not isinstance(folds, int) or isinstance(folds, bool) or folds < 0 or folds == 1:
        raise GridError(f"folds is {folds!r}; it must be a whole number, 2 or more, or 0 for none")
    refuse_folds(options)
    empty = [name for name, values in options.items() if not values]
    if empty:
        raise GridError(f"option {', '.join(empty)} has no value")
    grid = Grid(
        heads=tuple(_head(each) for each in _listed(content.get("head", [None]))) or (None,),
        modalities=tuple(_selection(each) for each in _listed(content.get("modalities", [None]))) or (None,),
        options=options,
        seeds=tuple(seed_list(seeds)),
        folds=folds,
    )
    for settings in grid.settings():
        make_config(settings)
    return grid


def plan_cells(
    cache: FeatureCache,
    task: str,
    grid: Grid,
    table: pd.DataFrame,
    features: Mapping[str, str] | None = None,
    base: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = warn,
) -> list[Cell]:
    """Every run of the grid, none twice, in the grid's order.

    Args:
        cache: where the tokens are.
        task: gesture or emotion.
        grid: what to cross.
        table: the clip table.
        features: modality -> fingerprint or backbone, where a modality has several feature sets.
        base: settings of every run, under those of the grid.
        say: told what was chosen in place of what the task would have.

    Raises:
        MgcliError: the grid asks for a modality that the cache lacks (the message says what to extract), for a head
            or an option that does not exist, or for more folds than there are training subjects; an option is a fold,
            or `features` has a modality that no run reads.
    """
    refuse_folds([*(base or {}), *grid.options])
    of_task = get_task(task)
    if grid.folds:
        assign_folds(table[(table[task] != "") & table["split"].isin(["train", "val"])], task, grid.folds)
    clips = table_hash(table, task)
    hashes: dict[tuple[str, int], str] = {}  # feature set and how many views of it -> of its tokens
    cells: dict[str, Cell] = {}
    row = -1
    for head, modalities, settings in itertools.product(grid.heads, grid.modalities, grid.settings()):
        chosen = _choose(cache, of_task, head, modalities, features or {}, say)
        options = {**(base or {}), **settings}
        config = make_config(options)
        _check_builds(chosen, config)
        for each in chosen.feature_sets.values():
            if (each.name, config.views) not in hashes:
                hashes[each.name, config.views] = tokens_hash(each, table, config.views)
        tokens = {
            n: (each.spec.fingerprint, hashes[each.name, config.views]) for n, each in chosen.feature_sets.items()
        }
        row += 1
        for fold in range(max(1, grid.folds)):
            of_fold = replace(config, folds=grid.folds, fold=fold)
            key = run_key(task, chosen.head, tokens, clips, of_fold, grid.seeds)
            name = f"{run_label(task, chosen.label)}-{key}"
            cells.setdefault(
                name,
                Cell(
                    name=name,
                    row=row,
                    head=chosen.head,
                    label=chosen.label,
                    modalities=tuple(chosen.modalities),
                    features={name: each.spec.fingerprint for name, each in chosen.feature_sets.items()},
                    options=options,
                    config=of_fold,
                    seeds=grid.seeds,
                ),
            )
    _refuse_unread(features or {}, cells.values())
    return list(cells.values())


def check_cells(
    cache: FeatureCache, task: str, cells: Sequence[Cell], table: pd.DataFrame, say: Callable[[str], None] = warn
) -> None:
    """Find out before the first training what each of them would refuse, and say which options are set in vain.

    Args:
        cache: where the tokens are.
        task: gesture or emotion.
        cells: as planned.
        table: the whole clip table, test clips among it.
        say: told once which options a head does not read.

    Raises:
        LeakageError: splits share what they must not, or a backbone was trained on test clips.
    """
    in_vain: list[str] = []
    checked: set[str] = set()
    for cell in cells:
        check_options(cell.head, cell.config.head, in_vain.append)
        about = repr((cell.features, cell.config.folds))
        if cell.config.allow_leakage or about in checked:
            continue
        checked.add(about)
        sets = {name: cache.feature_set(modality_of(name), each) for name, each in cell.features.items()}
        refuse_leakage(table, task, sets, folds=cell.config.folds)
    for text in dict.fromkeys(in_vain):
        say(text)


def groups(cells: Sequence[Cell], workers: int = 1) -> list[list[Cell]]:
    """The cells in groups, each of one architecture and claimed and trained at once.

    Several workers cut the cells of an architecture among themselves.
    """
    alike: dict[str, list[Cell]] = {}
    for cell in cells:
        alike.setdefault(cell.architecture, []).append(cell)
    result = []
    for of_one in alike.values():
        size = -(-len(of_one) // workers)
        result += [of_one[start : start + size] for start in range(0, len(of_one), size)]
    return result


def _choose(
    cache: FeatureCache,
    task: Task,
    head: str | None,
    modalities: tuple[str, ...] | None,
    features: Mapping[str, str],
    say: Callable[[str], None],
) -> Choice:
    """As `choose`; a feature set of a modality that this cell does not read is meant for other cells."""
    alone = head.removeprefix(f"{SINGLE}_") if head and head.startswith(f"{SINGLE}_") else None
    read = (alone,) if alone else modalities
    own = {name: value for name, value in features.items() if read is None or name in read}
    return choose(cache, task, head, modalities, own, say)


def _refuse_unread(features: Mapping[str, str], cells: Iterable[Cell]) -> None:
    """A feature set of a modality that no cell reads is meant for one that is named otherwise."""
    read = list(dict.fromkeys(name for cell in cells for name in cell.features))
    for name in features:
        if name not in read:
            near = difflib.get_close_matches(name, read, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise GridError(f"--features names {name!r}, which no run reads (they read {', '.join(read)}){hint}")


def _check_builds(chosen: Choice, config: TrainConfig) -> None:
    """Find out before the first training whether a head takes so many modalities."""
    with torch.random.fork_rng(devices=()):
        create_head(chosen.head, {n: each.spec.dim for n, each in chosen.feature_sets.items()}, 2, config.head)


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _head(value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise GridError(f"head is {value!r}; it must be a name, such as {EXAMPLES['head']!r}, or a list of names")
    return value


def _selection(value: Any) -> tuple[str, ...] | None:
    """`video,pose` or ["video", "pose"]."""
    if value is None:
        return None
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) and name.strip() for name in names):
        raise GridError(f"modalities are named as 'video,pose', not {value!r}")
    return tuple(name.strip() for name in names)
