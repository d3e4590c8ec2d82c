"""Answers of a run with what its validation clips taught about them: a temperature, and with two classes a threshold.

Both come from the run's folder; nothing is fitted on the clips that are predicted.

# Shapes: n clips, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from mgcli.fuse.calibration import fit_threshold
from mgcli.fuse.predict import mean_predictions, prediction_table, seeds_mean
from mgcli.fuse.run import Run, RunError

EQUAL_PRIOR = 0.5


def threshold_for(
    runs: Sequence[Run], weights: Sequence[float] | None = None, prior: float | None = None
) -> float | None:
    """From which probability on to answer the second of two classes, by the validation clips that all runs have.

    Args:
        runs: whose calibrated probabilities are averaged.
        weights: of each run; by default all the same.
        prior: share of the second class where the answers will count; None: one half, mean class accuracy.

    Returns:
        The threshold; None with more classes than two, or where the validation clips that all runs have are of one.

    Raises:
        RunError: a prior that is none, or that no threshold can serve; a run without temperatures.
    """
    if prior is not None and not 0 < prior < 1:
        raise RunError(f"prior is {prior:g}; it is a share of the clips, between 0 and 1")
    classes = runs[0].config["classes"]
    if len(classes) != 2:
        if prior is not None:
            raise RunError(f"a prior is for two classes, and {runs[0].name} knows {len(classes)}")
        return None
    tables = [_validation_answers(run) for run in runs]
    together = mean_predictions(tables, weights)
    true = tables[0].set_index("clip_id").loc[together["clip_id"], "true"].to_numpy()
    if len(set(true)) != 2:
        if prior is not None:
            names = ", ".join(run.name for run in runs)
            raise RunError(f"a threshold needs validation clips of both classes that all have: {names}")
        return None
    labels = (true == classes[1]).astype(int)
    return fit_threshold(labels, together[f"p_{classes[1]}"].to_numpy(), EQUAL_PRIOR if prior is None else prior)


def answered(predictions: pd.DataFrame, classes: Sequence[str], threshold: float | None) -> pd.DataFrame:
    """Prediction rows with the second class said from the threshold on; as they are where there is none."""
    if threshold is None:
        return predictions
    second = predictions[f"p_{classes[1]}"].to_numpy() >= threshold
    return predictions.assign(predicted=np.where(second, classes[1], classes[0]))


def _validation_answers(run: Run) -> pd.DataFrame:
    """What the run says of its validation clips, as `predict_run` gives it, calibrated."""
    table = run.predictions()
    table = table[table["split"] == "val"]
    classes = run.config["classes"]
    columns = [f"p_{name}" for name in classes]
    of_seed = [each for _, each in table.groupby("seed", sort=False)]
    probabilities = [each[columns].to_numpy(float) for each in of_seed]
    mean = seeds_mean(run, probabilities, calibrated=True)
    rows = of_seed[0].rename(columns={"true": run.config["task"]})
    return prediction_table(rows, run.config["task"], classes, mean, "mean")
