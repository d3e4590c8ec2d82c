"""A run trained again from its own folder, and whether it came out the same."""

from __future__ import annotations

import math
import platform
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from mgcli.cache import CacheError, FeatureCache, FeatureSet, MgcliError, read_clip_table, warn
from mgcli.fuse.device import num_threads
from mgcli.fuse.identity import machine, tokens_hash
from mgcli.fuse.predict import run_feature_sets
from mgcli.fuse.run import Run, RunError
from mgcli.fuse.selection import clip_list_hash
from mgcli.fuse.settings import TrainConfig, make_config
from mgcli.fuse.train import train_head
from mgcli.fuse.usable_clips import have_tokens

ROUNDING = 1e-3  # of a probability: on a GPU, a stack of another size adds its sums in another order
ROUNDING_SHARE = 1e-3  # of the predictions, which may fall the other way where two classes are as probable


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """What differed before, and what differs after."""

    run: Run
    surroundings: list[str]  # packages and machine that are not what they were
    states: dict[int, float]  # seed -> largest difference of any weight; 0 is the same bits, inf no such weights
    probability: float  # largest difference of any predicted probability
    turned: float  # share of the predictions that differ
    same_scores: bool
    replicas: int  # trainings that were done together then, its own included; now its own only

    @property
    def same_bits(self) -> bool:
        return not any(self.states.values())

    @property
    def ok(self) -> bool:
        return self.same_bits or (self.weights_fit and (self.same_scores or self.within_rounding))

    @property
    def weights_fit(self) -> bool:
        """Whether the run's stored weights are of this head, and numbers."""
        return all(math.isfinite(each) for each in self.states.values())

    @property
    def within_rounding(self) -> bool:
        """Whether a run that was trained together with others is the same but for rounding."""
        return self.replicas > 1 and self.probability <= ROUNDING and self.turned <= ROUNDING_SHARE

    def to_json(self) -> dict[str, Any]:
        """The same as plain JSON values."""
        return {
            "run": str(self.run.path),
            "same_bits": self.same_bits,
            "same_scores": self.same_scores,
            "within_rounding": self.within_rounding,
            "replicas": self.replicas,
            "largest_weight_difference": {
                str(seed): value if math.isfinite(value) else None for seed, value in self.states.items()
            },
            "largest_probability_difference": self.probability,
            "share_of_predictions_that_differ": self.turned,
            "surroundings": self.surroundings,
        }

    def text(self) -> str:
        """For a terminal."""
        if self.same_bits:
            verdict = f"{self.run.name}: the same, bit for bit, in {len(self.states)} seed(s)"
        else:
            differing = [seed for seed, value in self.states.items() if value]
            scores = "the scores are the same" if self.same_scores else "the scores differ"
            if self.within_rounding:
                scores += (
                    f", within rounding: {self.replicas} trainings were done together then, {len(self.states)} now"
                )
            seeds = f"of seed {', '.join(map(str, differing))}"
            by = f"the weights {seeds} differ by up to {max(self.states.values()):.3g}"
            if not self.weights_fit:
                by = f"the weights that it keeps {seeds} are damaged, or of another head"
            verdict = f"{self.run.name}: {scores}; {by}, predicted probabilities by up to {self.probability:.3g}"
        return "\n".join([verdict, *(f"not as it was: {text}" for text in self.surroundings)])


def reproduce_run(
    run: Run | str | Path, cache: FeatureCache, *, clips: pd.DataFrame | None = None, progress: bool = True
) -> Reproduction:
    """Train a run again, from its folder's settings on its own clips, and compare.

    Args:
        run: a run, or its folder.
        cache: a cache with the run's feature sets.
        clips: its clip table; by default the one of the cache that the run's hash fits.
        progress: show how far the training is.

    Raises:
        RunError: the cache holds other features or other clips than the run was trained on, or the run is one that
            was not trained; the message says which.
    """
    run = run if isinstance(run, Run) else Run.load(run)
    config = run.config
    if run.is_ensemble:
        raise RunError(f"{run.path} was put together from other runs, not trained; reproduce those")
    feature_sets = run_feature_sets(run, cache)
    table = _clips(run, cache, feature_sets, clips)
    _check_tokens(run, feature_sets, table)
    threads = config.get("machine", {}).get("threads") or torch.get_num_threads()
    with tempfile.TemporaryDirectory(prefix="mgcli-") as folder, num_threads(threads):
        again = train_head(
            cache,
            config["task"],
            head=config["head"],
            modalities=run.modalities,
            seeds=config["seeds"],
            config=_train_config(config["config"]),
            features={name: each["fingerprint"] for name, each in config["features"].items()},
            clips=table,
            runs=folder,
            replicas="on" if config.get("replicas", 1) > 1 else "off",  # a stack rounds otherwise than a head alone
            progress=progress,
            say=_nothing,
        )
        states = {seed: _difference(run.state_dict(seed), again.state_dict(seed)) for seed in config["seeds"]}
        columns = [f"p_{name}" for name in config["classes"]]
        before, after = (each.predictions()[columns].to_numpy(np.float64) for each in (run, again))
    comparable = before.shape == after.shape and len(before) > 0
    return Reproduction(
        run=run,
        surroundings=_surroundings(config),
        states=states,
        probability=float(np.abs(before - after).max()) if comparable else 1.0,
        turned=float((before.argmax(axis=1) != after.argmax(axis=1)).mean()) if comparable else 1.0,
        same_scores=again.metrics == run.metrics,
        replicas=config.get("replicas", 1),
    )


def _clips(
    run: Run, cache: FeatureCache, feature_sets: dict[str, FeatureSet], given: pd.DataFrame | None
) -> pd.DataFrame:
    """The clip table that the run's hash fits: the given one, or any that the cache keeps."""
    tables = [given] if given is not None else list(_kept_tables(cache, run.config.get("protocol")))
    for table in tables:
        if _hash_as_used(run, table, feature_sets) == run.config["clips"]["hash"]:
            table.attrs["protocol"] = run.protocol  # whose published overlaps were no reason to refuse it
            return table
    where = "the given clip table" if given is not None else f"any of {len(tables)} clip tables of {cache.path}"
    counts = ", ".join(f"{split} {each['clips']}" for split, each in run.config["clips"]["counts"].items())
    raise RunError(
        f"{run.name} was trained on other clips, splits or labels ({counts}; hash {run.config['clips']['hash']}) than "
        f"{where}; give its own with --clips"
    )


def _kept_tables(cache: FeatureCache, protocol: str | None) -> Iterator[pd.DataFrame]:
    """The newest of the run's protocol, then every other."""
    with suppress(CacheError):
        yield cache.read_clips(protocol)
    for path in cache.clip_tables():
        try:
            table = read_clip_table(path)
        except MgcliError as error:
            warn(f"passed over: {error}")
            continue
        table.attrs["protocol"] = path.name.rpartition("--")[0]
        yield table


def _hash_as_used(run: Run, table: pd.DataFrame, feature_sets: dict[str, FeatureSet]) -> str:
    """`clip_list_hash` of the clips that a training on this table would use, with the run's validation subjects."""
    task, clips = run.config["task"], run.config["clips"]
    table = table[(table[task] != "") & (table["split"] != "")]
    table = table[have_tokens(table, feature_sets)]
    if clips["drawn_val_subjects"]:
        own = table["split"] != "test"
        held_back = table["subject_id"].isin(clips["drawn_val_subjects"])
        table = table.assign(split=table["split"].where(~own, np.where(held_back, "val", "train")))
    return clip_list_hash(table, task)


def _check_tokens(run: Run, feature_sets: dict[str, FeatureSet], table: pd.DataFrame) -> None:
    """The tokens themselves must be those of then, not only made in the same way."""
    task = run.config["task"]
    used = table[(table[task] != "") & (table["split"] != "")]
    views = run.config["config"].get("views", 0)
    for modality, about in run.config["features"].items():
        if "tokens_hash" in about and tokens_hash(feature_sets[modality], used, views) != about["tokens_hash"]:
            raise RunError(
                f"the {modality} tokens of {feature_sets[modality].name} are not those that {run.name} was trained on: "
                "clips were added, removed or imported anew since"
            )


def _train_config(saved: dict[str, Any]) -> TrainConfig:
    return make_config({**{name: value for name, value in saved.items() if name != "head"}, **saved["head"]})


def _surroundings(config: dict[str, Any]) -> list[str]:
    """Packages and machine, where they are not what they were."""
    now = machine(torch.get_num_threads())
    found = []
    for name, then in config.get("machine", {}).items():
        if name != "threads" and now.get(name) != then:
            found.append(f"{name}: {then or 'none'} then, {now.get(name) or 'none'} now")
    for name, then in config["packages"].items():
        here = platform.python_version() if name == "python" else _version(name)
        if here != then:
            found.append(f"{name} {then} then, {here} now")
    return found


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _difference(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> float:
    """The largest of any weight; infinite where they have not the same weights, or one is no number."""
    if {name: value.shape for name, value in before.items()} != {name: value.shape for name, value in after.items()}:
        return math.inf
    largest = 0.0
    for name, value in before.items():
        if not torch.equal(value, after[name]):
            gap = float((value.double() - after[name].double()).abs().max())
            largest = max(largest, math.inf if math.isnan(gap) else gap)
    return largest


def _nothing(message: str) -> None:
    """The run's folder has its warnings."""
