"""What a trained head looks at: how its attention is shared out over the tokens of a clip.

The attention of a token is how much the vectors that the answer is made from (class tokens, summary queries, pooling
queries; in `mult` the tokens whose mean answers) take from it, averaged over layers and attention heads, and scaled so
that it sums to 1 over the valid tokens of a modality. Each head names these places itself: `FusionHead.token_reads`.

Why not rollout (Abnar and Zuidema 2020, arXiv 2005.00928): it gives half of every layer's weight to the residual and
mixes tokens that the answer never reads, which spreads the map. Attention says where a head looks, not why it answers;
`tests/test_fuse_attention.py` holds it against planted tokens, and against what the answer loses without a token.

# Shapes: B batch, Q queries, N tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mgcli.cache import FeatureCache, open_cache
from mgcli.fuse.data import Batch, ClipTensors, shown_places
from mgcli.fuse.head import FusionHead, TokenRead
from mgcli.fuse.predict import run_feature_sets, select_for_run, trained_heads
from mgcli.fuse.run import Run, RunError
from mgcli.fuse.usable_clips import have_tokens, read_table

HOW = (
    "attention of the vectors that the answer is made from (class tokens or queries), averaged over layers and "
    "attention heads; of each modality it sums to 1"
)


@dataclass(frozen=True, kw_only=True)
class ClipAttention:
    """What one head, trained with one seed, makes of one clip."""

    clip_id: str
    true: str  # label of the run's task; empty where the table has none
    probabilities: dict[str, float]  # class -> of this seed
    tokens: dict[str, np.ndarray]  # modality -> (tokens of the clip,) float32; empty where the head does not attend

    @property
    def predicted(self) -> str:
        return max(self.probabilities, key=self.probabilities.__getitem__)


@dataclass(frozen=True, kw_only=True)
class RunAttention:
    """What a run's head looks at."""

    run: str
    head: str
    task: str
    protocol: str | None
    seed: int
    feature_sets: dict[str, str]  # modality -> name of the feature set whose tokens these are
    attends: bool  # False: this head does not attend to tokens, or does not say where
    clips: dict[str, ClipAttention]  # clip id -> ...; clips without tokens of any modality of the run are missing
    warnings: tuple[str, ...] = ()

    @property
    def how(self) -> str:
        """What the numbers are, or why there are none, for people."""
        if self.attends:
            return HOW
        return f"head {self.head!r} does not attend to tokens, so there is no attention to show"


def run_attention(
    run: Run | str | Path,
    cache: FeatureCache | str | Path,
    clip_ids: Sequence[str],
    *,
    seed: int | None = None,
    clips: pd.DataFrame | str | Path | None = None,
) -> RunAttention:
    """Show a run's head some clips, and see what it attends to.

    Args:
        run: a run, or its folder.
        cache: a cache with the run's feature sets.
        clip_ids: which clips.
        seed: of the training; None: the run's first.
        clips: clip table, or its file; by default the newest of the cache.

    Raises:
        RunError: an ensemble, no such seed, a clip that the table lacks, a cache without the run's feature sets, or
            no clip with tokens in them.
    """
    run = run if isinstance(run, Run) else Run.load(run)
    cache = cache if isinstance(cache, FeatureCache) else open_cache(cache)
    if run.is_ensemble:
        raise RunError(
            f"{run.path} is an ensemble: it has no head whose attention could be shown; name one of its runs"
        )
    seeds, warnings = run.config["seeds"], list[str]()
    seed = seeds[0] if seed is None else seed
    if seed not in seeds:
        raise RunError(f"{run.path} has no seed {seed}; it has {', '.join(map(str, seeds))}")
    table = read_table(cache, clips)
    unknown = sorted(set(clip_ids) - set(table["clip_id"]))
    if unknown:
        raise RunError(f"the clip table has no clip {unknown[0]!r}")
    table = table[table["clip_id"].isin(clip_ids)]
    there = have_tokens(table, run_feature_sets(run, cache))
    if not there.any():
        names = " or ".join(run.modalities)
        raise RunError(
            f"{run.name} reads {names}, of which {table['clip_id'].iloc[0]!r} has no tokens in the cache: is it a clip "
            f"of task {run.config['task']}?"
        )
    selection = select_for_run(run, cache, table[there], None, warnings.append, labelled=False)
    head = dict(zip(seeds, trained_heads(run), strict=True))[seed].eval()
    found = {}
    for row, clip in enumerate(selection.table.to_dict("records")):
        batch = selection.tensors.batch(torch.tensor([row]))
        logits, attention = attend(head, batch)
        shares = {name: _of_all_tokens(selection.tensors, row, name, each[0]) for name, each in attention.items()}
        found[clip["clip_id"]] = ClipAttention(
            clip_id=clip["clip_id"],
            true=clip[run.config["task"]],
            probabilities=dict(zip(selection.classes, logits[0].double().softmax(dim=0).tolist(), strict=True)),
            tokens=shares,
        )
    return RunAttention(
        run=run.name,
        head=run.label,
        task=run.config["task"],
        protocol=run.protocol,
        seed=seed,
        feature_sets={name: each["feature_set"] for name, each in run.config["features"].items()},
        attends=any(each.tokens for each in found.values()),
        clips=found,
        warnings=tuple(warnings),
    )


def telling_clips(run: Run, number: int) -> list[str]:
    """Clips that tell much of a run: in turn those that it is surest of and wrong, and surest of and right.

    Args:
        run: with its predictions of test clips, or without those of validation clips.
        number: at most so many.

    Raises:
        RunError: the predictions cannot be read.
    """
    rows = run.predictions()
    rows = rows[rows["split"] == ("test" if (rows["split"] == "test").any() else "val")]
    rows = rows.assign(sure=rows[[f"p_{name}" for name in run.config["classes"]]].max(axis=1))
    rows = rows[rows["seed"] == rows["seed"].iloc[0]] if len(rows) else rows
    rows = rows[rows["true"] != ""].sort_values(["sure", "clip_id"], ascending=[False, True])
    right = rows["true"] == rows["predicted"]
    pairs = zip_longest(rows.loc[~right, "clip_id"], rows.loc[right, "clip_id"])
    return [clip_id for pair in pairs for clip_id in pair if clip_id is not None][:number]


@torch.inference_mode()
def attend(head: FusionHead, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """Score clips and watch where the head looks; the logits are those that it gives unwatched.

    Args:
        head: in evaluation mode.
        batch: some clips.

    Returns:
        (B, K) logits; and modality -> (B, N) attention, which sums to 1 over a clip's valid tokens, and is 0 on all
        others and where the clip lacks the modality. It is empty where the head does not say what it reads.
    """
    counts = {name: each.shape[1] for name, each in batch.tokens.items()}
    received = {name: torch.zeros_like(batch.mask[name], dtype=torch.float32) for name in head.modalities}
    with ExitStack() as watching:
        reads = head.token_reads(counts)
        for read in reads:
            handle = read.attention.register_forward_hook(_Watch(read, batch.mask, received))
            watching.callback(handle.remove)
        logits = head(batch.tokens, batch.mask, batch.time).logits
    if not reads:
        return logits, {}
    total = {name: each.sum(dim=1, keepdim=True) for name, each in received.items()}  # (B, 1)
    return logits, {name: each / total[name].where(total[name] > 0, 1) for name, each in received.items()}


@dataclass(frozen=True, eq=False)
class _Watch:
    """A hook that adds what one attention gives to each token."""

    read: TokenRead
    mask: Mapping[str, Tensor]  # modality -> (B, N)
    received: dict[str, Tensor]  # modality -> (B, N), added to

    def __call__(self, attention: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        weights = attention.weights(*inputs)  # (B, Q, every token)
        asks = None if self.read.asks is None else self.mask[self.read.asks]  # (B, N)
        if self.read.readers is not None:
            given = weights[:, self.read.readers].mean(dim=1)  # (B, every token)
        else:
            assert asks is not None
            given = (weights * asks[..., None]).sum(dim=1) / asks.sum(dim=1, keepdim=True).clamp_min(1)
        if asks is not None:
            given = given * asks.any(dim=1, keepdim=True)
        for name, place in self.read.tokens.items():
            self.received[name] += given[:, place] * self.mask[name]


def _of_all_tokens(tensors: ClipTensors, row: int, modality: str, attention: Tensor) -> np.ndarray:
    """(tokens of the clip,): the attention to the shown ones in their places, 0 for those that were thinned out."""
    count = tensors.modalities[modality].count[row, :1]  # (1,)
    place, shown = shown_places(count, int(count.max()), tensors.max_tokens)
    found = np.zeros(int(count), dtype=np.float32)
    found[place[shown].numpy()] = attention[shown[0]].numpy()
    return found
