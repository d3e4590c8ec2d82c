"""Train 2s-AGCN on a data set's own skeletons: no published weights fit the joints of iMiGUE.

The joint stream and the bone stream are trained one after the other, and written to one checkpoint that says which
clips and subjects it was trained on. Test clips are scored once, at the end, with the weights chosen by validation.
"""

# Shapes: n clips, K classes.

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from mgcli.cache import (
    SPLITS,
    TASKS,
    ClipTableError,
    Failure,
    Progress,
    check_clip_table,
    draw_validation,
    find_leakage,
    warn,
    writing,
)
from mgcli.extract.backbone import PRECISIONS, create_backbone
from mgcli.extract.backbone_agcn import NETWORKS, TRAINED_HERE, TRAINED_STEM, BoneStream, JointStream
from mgcli.extract.backbone_agcn_network import AGCN
from mgcli.extract.device import choose_device, choose_precision, choose_workers, on_device
from mgcli.extract.skeleton_graph import adjacency, joints_to_bones
from mgcli.extract.source import add_sources
from mgcli.extract.train_pose_clips import Augmentation, BackboneTrainError, PoseClips, read_pose_clips
from mgcli.extract.train_pose_files import (
    TrainPlan,
    read_finished,
    read_unfinished,
    remove_unfinished,
    write_checkpoint,
    write_unfinished,
)
from mgcli.extract.train_pose_loop import (
    BackboneTrainConfig,
    Inputs,
    StreamState,
    accuracies,
    fit_stream,
    stream_scores,
)
from mgcli.extract.weights import trained_file

STREAMS = (JointStream.stream_name, BoneStream.stream_name)
ENSEMBLE = "two_stream"
SAVE_EVERY_S = 30.0  # a killed training loses at most about so much


@dataclass(frozen=True, kw_only=True)
class PoseTrainReport:
    """What a training gave."""

    checkpoint: Path
    scores: dict[str, dict[str, dict[str, float]]]  # split -> joint_stream, bone_stream, two_stream -> scores
    counts: dict[str, int]  # split -> clips
    task: str
    classes: list[str]
    failures: list[Failure]
    seconds: float
    there_already: bool = False  # nothing was trained: the checkpoint is from an earlier run

    def to_json(self) -> dict[str, Any]:
        """All of it as plain JSON values."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        failures = [asdict(each) for each in self.failures]
        return values | {"checkpoint": str(self.checkpoint), "failures": failures, "seconds": round(self.seconds, 1)}

    def summary(self) -> str:
        """A few lines of text."""
        counts = ", ".join(f"{count} {split}" for split, count in self.counts.items())
        lines = [f"2s-AGCN on {self.task}, {len(self.classes)} classes, clips: {counts}"]
        for split, by_stream in self.scores.items():
            for stream, scores in by_stream.items():
                shown = ", ".join(f"{name} {100 * value:.1f}" for name, value in scores.items())
                lines.append(f"  {split:<4} {stream:<12} {shown}")
        if self.failures:
            lines.append(f"  {len(self.failures)} clips failed and were left out; the first: {self.failures[0].reason}")
        made = "there already" if self.there_already else f"trained in {self.seconds:.1f} s"
        lines.append(f"{made}: {self.checkpoint}; next: mgcli extract --modality pose")
        return "\n".join(lines)


def train_pose_backbone(
    table: pd.DataFrame,
    *,
    task: str = "gesture",
    settings: Mapping[str, Any] | None = None,
    protocol: str = "table",
    weights_dir: Path = Path("weights"),
    precision: str = "auto",
    device: str | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    allow_leakage: bool = False,
    progress: bool = True,
) -> PoseTrainReport:
    """Train both streams and write one checkpoint, `agcn_two_stream-PROTOCOL.safetensors`.

    A training that was stopped goes on where it was; one that is finished is not done again.

    Args:
        table: clips with skeletons, labels of the task and a split; without validation clips, training subjects are
            held back, the same ones as for a head.
        task: gesture or emotion: the label column.
        settings: fields of `BackboneTrainConfig` and `Augmentation`, and options of `JointStream`.
        protocol: of the clip table; it becomes part of the file's name.
        weights_dir: folder of the checkpoint.
        precision: auto, float32, or bfloat16 for mixed precision.
        device: such as cuda:0; None takes a GPU where there is one.
        workers: skeleton files read at once; None suits the machine.
        overwrite: replace a checkpoint that was trained otherwise.
        allow_leakage: accept splits that the leakage guard refuses, as a warning.
        progress: show it on stderr.

    Raises:
        BackboneTrainError: a setting that does not exist or fit, too few clips, a loss that is not finite, or a
            checkpoint of another training in the way.
        ClipTableError: no such task, or no validation subjects can be drawn.
        LeakageError: two splits share what they must not.
    """
    started = time.monotonic()
    chosen_device = choose_device(device)
    config, options = make_train_config(settings or {})
    backbone = create_backbone(JointStream.name, weights=f"random:{config.seed}", **options)
    assert isinstance(backbone, JointStream)
    options = {name: (backbone.transform | backbone.sampling)[name] for name in TRAINED_HERE}
    plan = TrainPlan(
        table=_guarded(_labelled(table, task), protocol, config, allow_leakage),
        task=task,
        protocol=protocol,
        options=options,
        config=config,
        precision=choose_precision(precision, JointStream, chosen_device),
        device=chosen_device,
    )
    path = weights_dir / trained_file(TRAINED_STEM, protocol)
    if path.exists() and not overwrite:
        made = read_finished(path, plan)
        return PoseTrainReport(
            checkpoint=path,
            scores=made["scores"],
            counts=made["counts"],
            task=plan.task,
            classes=made["classes"],
            failures=[],
            seconds=time.monotonic() - started,
            there_already=True,
        )
    clips = read_pose_clips(plan.table, task, backbone, workers=choose_workers(workers), show_progress=progress)
    _check_clips(clips)
    clips = clips.to(chosen_device)
    with writing(path):
        weights_dir.mkdir(parents=True, exist_ok=True)
    with on_device(chosen_device):
        states = _train(plan, clips, backbone, path, progress)
        scores = _score(states, clips, backbone)
    report = PoseTrainReport(
        checkpoint=path,
        scores=scores,
        counts={split: len(clips.rows(split)) for split in SPLITS},
        task=task,
        classes=clips.classes,
        failures=clips.failures,
        seconds=time.monotonic() - started,
    )
    write_checkpoint(path, states, plan, clips, {"scores": report.scores, "counts": report.counts})
    remove_unfinished(path)
    return report


def make_train_config(settings: Mapping[str, Any]) -> tuple[BackboneTrainConfig, dict[str, Any]]:
    """The configuration with some fields set, and those settings that are options of the backbone.

    Raises:
        BackboneTrainError: a setting that does not exist, or a value of another kind; the message suggests the nearest.
    """
    of_augmentation = {each.name for each in fields(Augmentation)}
    of_training = {each.name for each in fields(BackboneTrainConfig)} - {"augmentation"}
    known = of_augmentation | of_training | set(TRAINED_HERE)
    for name in settings:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise BackboneTrainError(f"unknown setting {name!r}; {hint}All: {', '.join(sorted(known))}")
    try:
        augmentation = Augmentation(**{name: value for name, value in settings.items() if name in of_augmentation})
        training = {name: value for name, value in settings.items() if name in of_training}
        config = BackboneTrainConfig(augmentation=augmentation, **training)
    except TypeError as error:
        given = ", ".join(f"{name}={value!r}" for name, value in settings.items())
        raise BackboneTrainError(f"a setting has a value of the wrong kind ({error}): {given}") from None
    return config, {name: value for name, value in settings.items() if name in TRAINED_HERE}


def _labelled(table: pd.DataFrame, task: str) -> pd.DataFrame:
    """The clips to train, choose and test on, with sources."""
    if task not in TASKS:
        raise ClipTableError(f"unknown task {task!r}; known: {', '.join(TASKS)}")
    table = check_clip_table(table)
    used = table[(table[task] != "") & table["split"].isin(SPLITS)].reset_index(drop=True)
    without = used["skeleton"] == ""
    if without.all():
        raise BackboneTrainError(
            f"no clip with a {task} label and a split names a skeleton file; fill the columns skeleton and split"
        )
    if without.any():
        warn(f"{without.sum()} of {len(used)} clips have no skeleton file and are left out")
    used = used[~without].reset_index(drop=True)
    return add_sources(used)


def _guarded(table: pd.DataFrame, protocol: str, config: BackboneTrainConfig, allow_leakage: bool) -> pd.DataFrame:
    """The clips with validation subjects, drawn where there are none; splits that share what they must not are refused.

    A forced leak is told in every table of a head on these tokens: its run looks at what the checkpoint was trained on.
    """
    drawn = not (table["split"] == "val").any()
    table = draw_validation(table, seed=config.split_seed, fraction=config.validation_fraction)
    find_leakage(table, protocol, drawn_validation=drawn).enforce(allow=allow_leakage, warn=warn)
    return table


def _check_clips(clips: PoseClips) -> None:
    """Both kinds of clips that a training needs, and two classes to tell apart."""
    reason = f"; {len(clips.failures)} clips failed, the first: {clips.failures[0].reason}" if clips.failures else ""
    for split in ("train", "val"):
        if not len(clips.rows(split)):
            raise BackboneTrainError(f"no {split} clip has a skeleton that can be read{reason}")
    if len(clips.labels[clips.rows("train")].unique()) < 2:
        raise BackboneTrainError(f"all training clips are of one class; a network needs two or more{reason}")
    if clips.failures:
        first = clips.failures[0]
        warn(f"{len(clips.failures)} clips are left out, the first: {first.clip_id!r}: {first.reason}")


def _train(
    plan: TrainPlan, clips: PoseClips, backbone: JointStream, path: Path, show_progress: bool
) -> dict[str, StreamState]:
    """Stream -> its state after the last epoch; what an earlier run of the same training kept is taken up."""
    states = read_unfinished(path, plan)
    config = plan.config
    _, num_epochs = config.plan(len(clips.rows("train")))
    done, total = sum(state.epoch for state in states.values()), num_epochs * len(STREAMS)
    if done:
        warn(f"going on with an unfinished training of {path.name}: {done} of {total} epochs are done")
    saved_at = time.monotonic()
    with Progress("2s-AGCN", total, unit="epoch", shown=show_progress) as bar:
        bar.step(count=done)
        for number, (stream, inputs) in enumerate(_stream_inputs(backbone).items()):
            resume = states.get(stream)

            def on_epoch(state: StreamState, stream: str = stream) -> None:
                nonlocal saved_at
                states[stream] = state
                row = state.history[-1]
                bar.step(f"{stream}, train {row['train_top1']:.3f}, val {row['val_top1']:.3f}")
                if time.monotonic() - saved_at >= SAVE_EVERY_S or state.epoch == num_epochs:
                    write_unfinished(path, plan, states)
                    saved_at = time.monotonic()

            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(2 * config.seed + number)
                network = _fresh_network(backbone, clips)
            states[stream] = fit_stream(
                network.to(plan.device),
                clips,
                inputs,
                config,
                precision=PRECISIONS[plan.precision],
                is_3d=backbone.joints.is_3d,
                resume=resume,
                on_epoch=on_epoch,
            )
    return states


def _fresh_network(backbone: JointStream, clips: PoseClips) -> AGCN:
    """The network of one stream, its weights drawn from torch's global generator."""
    kind = NETWORKS[backbone.transform["network"]]
    return kind(adjacency(backbone.joints), num_people=backbone.num_people, num_classes=len(clips.classes))


def _stream_inputs(backbone: JointStream) -> dict[str, Inputs]:
    """Stream -> what it reads, made of joints."""
    makers: tuple[Inputs, Inputs] = (lambda joints: joints, lambda joints: joints_to_bones(joints, backbone.joints))
    return dict(zip(STREAMS, makers, strict=True))


def _score(
    states: dict[str, StreamState], clips: PoseClips, backbone: JointStream
) -> dict[str, dict[str, dict[str, float]]]:
    """Scores of each stream, and of the sum of both streams' logits (Sec. 3.5), on validation and test clips."""
    logits: dict[str, dict[str, Tensor]] = {"val": {}, "test": {}}
    for stream, inputs in _stream_inputs(backbone).items():
        network = _fresh_network(backbone, clips).to(clips.joints.device)
        network.load_state_dict(states[stream].best)
        for split, found in logits.items():
            found[stream] = stream_scores(network, clips, clips.rows(split).to(clips.joints.device), inputs)
    scores = {}
    for split, found in logits.items():
        labels = clips.labels.cpu()[clips.rows(split)]
        if len(labels):
            both = found | {ENSEMBLE: sum(found.values(), torch.zeros(()))}
            scores[split] = {stream: accuracies(each, labels) for stream, each in both.items()}
    return scores
