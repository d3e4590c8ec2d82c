"""How a head is trained: every setting, checked when made."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from mgcli.cache import MgcliError
from mgcli.fuse.head import HeadConfig

SMALLEST_BATCH = 8
STEPS_AN_EPOCH = 8  # a small set is cut into at least this many batches, if they keep SMALLEST_BATCH clips
NOT_DECIDING = ("residency", "graphs")  # settings that change how long a training takes, and nothing else
_KINDS: dict[type, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "true or false"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    str: ((str,), "a word"),
}
_WHOLE_NUMBERS = {  # name -> least and most; beyond the most nobody waits for the end
    "epochs": (1, 10**6),
    "min_steps": (0, 10**9),
    "batch_size": (1, 10**6),
    "max_tokens": (1, 10**6),
    "views": (0, 1000),
    "split_seed": (0, 2**63 - 1),
}
_LARGEST = 1e38  # float32 holds little more
CHOICES = {
    "sampling": ("shuffled", "balanced"),
    "class_balance": ("none", "loss", "effective", "logits"),
    "residency": ("auto", "device", "pinned", "mapped"),
    "graphs": ("auto", "off"),
}


class TrainError(MgcliError):
    """A training that cannot start or go on."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How a head is trained.

    What is off by default was tried on validation clips of two time-series sets that come with aeon, each as two
    modalities: ema, mixup and modality_dropout gave JapaneseVowels (54 clips) one clip more at most, and OSULeaf
    (40) none but mixup's two. That is within noise; so they stay off. Balancing and views depend on what the data
    lack and were not compared.

    token_dropout = 0.1 was compared on folds of the training clips of eight small sets, cross_modal_token_fusion with
    a STRETCH of 0.2 (`mgcli.fuse.layers`):
    it gained where clips are few (GunPoint, 50 clips: .920 to .980; ItalyPowerDemand, 67: .910 to .955; wine, 124:
    .919 to .944) and nothing beyond noise from 200 clips on (OSULeaf, JapaneseVowels, breast cancer, digits).
    """

    epochs: int = 20
    min_steps: int = 500  # a small set is gone through more often, up to this many steps
    batch_size: int = 64
    learning_rate: float = 1e-3  # at the end of the warm-up; falls to 0 along a cosine
    warmup: float = 0.1  # share of the steps
    weight_decay: float = 0.05
    grad_clip: float = 1.0  # largest norm of the whole gradient
    label_smoothing: float = 0.05
    aux_weight: float = 0.1  # of each modality's own loss beside the joint one
    sampling: Literal["shuffled", "balanced"] = "shuffled"  # balanced: every class is drawn equally often
    class_balance: Literal["none", "loss", "effective", "logits"] = "none"  # see Loss
    effective_beta: float = 0.999  # of class_balance=effective; nearer 1 is nearer class_balance=loss
    modality_dropout: float = 0.0  # chance that a training clip loses a modality, never all
    token_dropout: float = 0.0  # chance that a training token is hidden
    mixup: float = 0.0  # chance that a training clip is mixed with another
    views: int = 0  # augmented views 1..views of the cache that training draws from, beside the plain one
    ema: float = 0.0  # decay a step of an average of the weights, kept in their place; 0: no average
    patience: float = 0.3  # stop after this share of the steps without a better validation score
    max_tokens: int = 512  # of a clip and modality: more are thinned evenly
    validation_fraction: float = 0.2  # share of training subjects, where the clip table has no val split
    split_seed: int = 0  # of that drawn validation split, the same for all seeds of a run
    folds: int = 0  # cut the training subjects into so many and validate on one; 0: validation_fraction decides
    fold: int = 0  # which of them, from 0
    allow_unseen_classes: bool = False  # accept a class that has clips, but none to train on
    allow_leakage: bool = False  # accept splits and backbones that the leakage guard refuses, as a warning
    device: str = "auto"  # auto: cuda where there is one
    residency: Literal["auto", "device", "pinned", "mapped"] = "auto"  # where tokens lie, see `mgcli.fuse.residency`
    graphs: Literal["auto", "off"] = "auto"  # auto: on a GPU, steps of a steady head are recorded and repeated
    head: HeadConfig = field(default_factory=HeadConfig)

    def __post_init__(self) -> None:
        for name, (least, most) in _WHOLE_NUMBERS.items():
            if not least <= getattr(self, name) <= most:
                raise TrainError(f"{name} is {getattr(self, name)}; it must be {least} or more, and {most} at most")
        for name in ("learning_rate", "grad_clip", "patience"):
            if not 0 < getattr(self, name) <= _LARGEST:
                raise TrainError(f"{name} is {getattr(self, name)}; it must be above 0, and {_LARGEST:g} at most")
        for name in ("weight_decay", "aux_weight"):
            if not 0 <= getattr(self, name) <= _LARGEST:
                raise TrainError(f"{name} is {getattr(self, name)}; it must be 0 or more, and {_LARGEST:g} at most")
        for name in ("warmup", "label_smoothing", "modality_dropout", "token_dropout", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise TrainError(f"{name} is {getattr(self, name)}; it must be at least 0 and below 1")
        if not 0 < self.validation_fraction < 1:
            raise TrainError(f"validation_fraction is {self.validation_fraction}; it must be between 0 and 1")
        if self.folds == 1 or self.folds < 0 or not 0 <= self.fold < max(1, self.folds):
            raise TrainError(f"fold {self.fold} of {self.folds} folds; give 2 folds or more, and a fold from 0 below")
        if not 0 < self.effective_beta < 1:
            raise TrainError(f"effective_beta is {self.effective_beta}; it must be between 0 and 1")
        if not 0 <= self.mixup <= 1:
            raise TrainError(f"mixup is {self.mixup}; it must be between 0 and 1")
        if self.device.partition(":")[0] == "meta":
            raise TrainError(
                f"device is {self.device!r}, which holds no numbers; it must be cpu, cuda, cuda:1, ... or auto"
            )
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise TrainError(f"{name} is {getattr(self, name)!r}; it must be {', '.join(known)}")
        if self.sampling == "balanced" and self.class_balance != "none":
            raise TrainError(
                f"sampling=balanced and class_balance={self.class_balance} both make up for rare classes; choose one"
            )

    def plan(self, num_clips: int) -> tuple[int, int]:
        """Batch size and number of epochs for so many training clips."""
        batch_size = min(self.batch_size, max(SMALLEST_BATCH, num_clips // STEPS_AN_EPOCH))
        steps = math.ceil(num_clips / batch_size)
        return batch_size, max(self.epochs, math.ceil(self.min_steps / steps))


def make_config(settings: Mapping[str, Any]) -> TrainConfig:
    """The configuration with some fields set, those of the training and those of the head alike.

    Raises:
        TrainError: a field that does not exist, or a value of another kind; the message suggests the nearest.
    """
    for name, value in settings.items():
        check_kind(name, value)
    of_head = {each.name for each in fields(HeadConfig)}
    head = HeadConfig(**{name: value for name, value in settings.items() if name in of_head})
    return TrainConfig(head=head, **{name: value for name, value in settings.items() if name not in of_head})


def check_kind(name: str, value: Any) -> None:
    """A value of a setting must be of the kind of the usual one; a whole number will do for any number.

    Raises:
        TrainError: it is not, or there is no such setting; the message suggests the nearest.
    """
    every = {each.name: each.default for kind in (HeadConfig, TrainConfig) for each in fields(kind)}
    del every["head"]
    if name not in every:
        near = difflib.get_close_matches(name, every, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise TrainError(f"unknown setting {name!r}; {hint}All: {', '.join(sorted(every))}")
    usual = every[name]
    kinds, words = _KINDS[type(usual)]
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise TrainError(f"setting {name} is {value!r}; it must be {words}, as the usual {usual!r}")
