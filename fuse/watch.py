"""Which epoch of a training is kept, when it stops, and what tells that it went wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from mgcli.fuse.loss import majority_share
from mgcli.fuse.settings import TrainConfig, TrainError

LEAST_GAIN = 0.003  # of the validation score, for patience to begin anew

KeptState = Callable[[], dict[str, Tensor]]  # a copy of a head; called, its state dict


class LossNotFiniteError(TrainError):
    """The loss became infinite or no number; what was good before is kept here."""

    def __init__(
        self,
        step: int,
        config: TrainConfig,
        state: dict[str, Tensor],
        history: list[dict[str, float]],
        spoilt: Sequence[str] = (),
    ) -> None:
        """`spoilt` names the modalities that have tokens of the training clips which are no numbers."""
        why = (
            f"the {' and '.join(spoilt)} tokens of the training clips hold numbers that are not finite; "
            "find them with: mgcli cache verify"
            if spoilt
            else f"try a lower learning rate than {config.learning_rate:g}, or a smaller grad_clip than "
            f"{config.grad_clip:g}"
        )
        super().__init__(f"the loss is not a finite number from step {step} on; {why}")
        self.state = state  # the best on validation clips until then; empty before the end of the first epoch
        self.history = history


class Watch:
    """Keeps the best state on the validation clips, and says when to stop.

    The score is the mean probability of the true class: as plain as accuracy, but not as coarse on the few
    clips of a small validation split, and not ruled by a few confident mistakes as cross-entropy is. A
    head that has not learned its training clips yet is never stopped: a joint decision that no modality
    shows by itself begins with a plateau.
    """

    def __init__(self, majority: float, patience: int) -> None:
        self._learned_top1 = (1 + majority) / 2
        self._patience = patience
        self._best_score = self._gained_score = -1.0
        self._gained_epoch = self._learned_epoch = 0.0
        self._best: KeptState = dict

    @classmethod
    def of(cls, labels: Tensor, config: TrainConfig, epochs: int) -> Watch:
        """`labels` (n,) are those of all training clips."""
        return cls(majority_share(labels), patience=max(1, round(config.patience * epochs)))

    @property
    def best_state(self) -> dict[str, Tensor]:
        """Empty before the end of the first epoch."""
        return self._best()

    def should_stop(self, row: dict[str, float], keep_state: Callable[[], KeptState]) -> bool:
        """Look at an epoch's row of the history, and keep the state that gave it where that is the best so far."""
        if row["val_score"] > self._gained_score + LEAST_GAIN:  # small gains add up
            self._gained_score, self._gained_epoch = row["val_score"], row["epoch"]
        if row["val_score"] > self._best_score:
            self._best_score = row["val_score"]
            self._best = keep_state()
        if row["train_top1"] < self._learned_top1:
            self._learned_epoch = row["epoch"]
        return row["epoch"] - max(self._gained_epoch, self._learned_epoch) >= self._patience


def validation_scores(probabilities: np.ndarray, labels: Tensor) -> dict[str, float]:
    """Of (n, K) probabilities and (n,) labels, as a row of the history has them."""
    own = probabilities[np.arange(len(labels)), labels.cpu().numpy()]
    return {
        "val_loss": float(-np.log(own.clip(1e-12)).mean()),
        "val_top1": float((probabilities.argmax(axis=1) == labels.cpu().numpy()).mean()),
        "val_score": float(own.mean()),
    }


def first_bad_step(losses: Tensor, row: dict[str, float], first_step: int) -> int | None:
    """The step from which on a loss is not finite; all (steps,) of an epoch at once: a GPU would wait for each."""
    finite = losses.isfinite()
    if not finite.all():
        return first_step + int((~finite).nonzero()[0, 0])
    return None if math.isfinite(row["val_score"]) else int(row["step"])
