"""The two tasks: which modalities they read, which head they train by default, how they are scored."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mgcli.cache import CacheError, FeatureCache, FeatureSet, MgcliError
from mgcli.fuse.metrics import GROUP_SCORES

SINGLE = "single"  # the head of one modality; a result of it is named single_MODALITY


class TaskError(MgcliError):
    """A task, or a choice of modalities, that does not work."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is predicted, and from what unless the caller says otherwise."""

    name: str  # also the label column of the clip table
    modalities: tuple[str, ...]
    head: str
    shown: tuple[str, ...]  # scores in a table for people, the main one first
    long_tailed: bool = False  # scored by head, middle and tail classes too
    stand_ins: dict[str, str] = field(default_factory=dict)  # modality -> what is read where the cache lacks it


TASKS: dict[str, Task] = {
    "gesture": Task(
        name="gesture",
        modalities=("video", "pose"),
        head="cross_modal_token_fusion",
        shown=("top1", "top5", "mean_class_accuracy", "macro_f1", *GROUP_SCORES.values()),
        long_tailed=True,
    ),
    "emotion": Task(
        name="emotion",
        modalities=("face", "context"),
        head="inter_fusion",
        shown=("top1", "auc", "mean_class_accuracy", "macro_f1"),
        stand_ins={"face": "pose"},  # both show how the person behaves
    ),
}


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What a run trains: the head, and the feature set of each modality."""

    head: str
    feature_sets: dict[str, FeatureSet]

    @property
    def modalities(self) -> list[str]:
        return list(self.feature_sets)

    @property
    def label(self) -> str:
        """Name of the result: the head's, or single_MODALITY."""
        return f"{SINGLE}_{self.modalities[0]}" if self.head == SINGLE else self.head


def get_task(name: str) -> Task:
    """The task of a name.

    Raises:
        TaskError: there is none; the message suggests the nearest.
    """
    if name in TASKS:
        return TASKS[name]
    near = difflib.get_close_matches(name, TASKS, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise TaskError(f"unknown task {name!r}; {hint}All: {', '.join(TASKS)}")


def choose(
    cache: FeatureCache,
    task: Task,
    head: str | None = None,
    modalities: Sequence[str] | None = None,
    features: dict[str, str] | None = None,
    warn: Callable[[str], None] = lambda message: None,
) -> Choice:
    """Settle the head and the feature sets of a run.

    Args:
        cache: where the tokens are.
        task: decides what is not given.
        head: a name of HEADS, or single_MODALITY; by default the task's head, `single` with one modality.
        modalities: a list, or text such as `video,pose`; by default the task's that the cache has, else all that it
            has. `pose:agcn_bone` is the feature set of that backbone (or fingerprint): so a run reads several of one
            modality side by side.
        features: modality -> fingerprint or backbone, where a modality has several feature sets.
        warn: told what was chosen in place of what the task would have.

    Raises:
        TaskError: head and modalities do not go together.
        CacheError: the cache lacks a modality, or has several feature sets of it; the message says what to run.
    """
    features = dict(features or {})
    if isinstance(modalities, str):
        modalities = [name.strip() for name in modalities.split(",")]
    if head is not None and head.startswith(f"{SINGLE}_"):
        named = head.removeprefix(f"{SINGLE}_")
        if modalities is not None and named not in modalities:
            raise TaskError(f"head {head!r} reads {named!r}; --modalities says {', '.join(modalities)}")
        head, modalities = SINGLE, [named]
    if modalities is None:
        modalities = _default_modalities(cache, task, head, warn)
    _check_names(modalities)
    unused = sorted(set(features) - set(modalities))
    if unused:
        near = difflib.get_close_matches(unused[0], modalities, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        read = ", ".join(modalities)
        raise TaskError(f"--features names {', '.join(unused)}, which the run does not read (it reads {read}){hint}")
    if head is None:
        head = task.head if len(modalities) > 1 else SINGLE
    if head == SINGLE and len(modalities) > 1:
        raise TaskError(
            f"head 'single' takes one modality, not {', '.join(modalities)}; say which: --head single_{modalities[0]}"
        )
    feature_sets = {name: _feature_set(cache, name, features) for name in modalities}
    _check_different(feature_sets)
    return Choice(head=head, feature_sets=feature_sets)


def modality_of(name: str) -> str:
    """The modality that a run's name stands for: `pose` of `pose` and of `pose:agcn_bone`."""
    return name.partition(":")[0]


def _feature_set(cache: FeatureCache, name: str, features: dict[str, str]) -> FeatureSet:
    return cache.feature_set(modality_of(name), features.get(name) or name.partition(":")[2] or None)


def _check_different(feature_sets: dict[str, FeatureSet]) -> None:
    seen: dict[str, str] = {}
    for name, each in feature_sets.items():
        if each.name in seen:
            raise TaskError(f"{seen[each.name]} and {name} are the same feature set, {each.name}; name it once")
        seen[each.name] = name


def _default_modalities(cache: FeatureCache, task: Task, head: str | None, warn: Callable[[str], None]) -> list[str]:
    there = list(dict.fromkeys(each.spec.modality for each in cache.feature_sets()))
    if not there:
        raise CacheError(f"no tokens in {cache.path}. Run: mgcli extract --modality {task.modalities[0]}")
    wanted = [name if name in there else task.stand_ins.get(name, name) for name in task.modalities]
    chosen = [name for name in wanted if name in there]
    others = [name for name in there if name not in chosen]
    if not chosen or (len(chosen) == 1 and others and head not in (None, SINGLE)):
        chosen = [*chosen, *others]  # a head that joins modalities was asked for by name
    lacking = [name for name in task.modalities if name not in there]
    if lacking:
        warn(
            f"task {task.name!r} reads {', '.join(task.modalities)}; the cache has no {', '.join(lacking)}, "
            f"so this run reads {', '.join(chosen)}. To add: "
            f"mgcli extract {' '.join(f'--modality {name}' for name in lacking)}"
        )
    return chosen


def _check_names(modalities: Sequence[str]) -> None:
    if not modalities:
        raise TaskError("no modality named; give at least one with --modalities")
    if not all(modalities):
        raise TaskError(f"a modality of {','.join(modalities)!r} has no name; write --modalities video,pose")
    doubled = sorted({name for name in modalities if list(modalities).count(name) > 1})
    if doubled:
        raise TaskError(f"modality {', '.join(doubled)} is named twice")
    dotted = [name for name in modalities if "." in name]
    if dotted:
        raise TaskError(
            f"modality {dotted[0]!r} has a dot in its name; write {modality_of(dotted[0])}:FINGERPRINT, "
            "as `mgcli cache ls` shows it"
        )
