"""Small specs, tokens and clip tables to test on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pandas as pd

from mgcli.cache import FeatureSpec, check_clip_table

FORMATS = ("hdf5", "zarr")


def make_spec(**changes: object) -> FeatureSpec:
    """A spec of 4-wide float32 tokens; any field can be changed."""
    fields: dict[str, object] = {
        "modality": "video",
        "backbone": "tiny",
        "reads": "video",
        "weights": "random:0",
        "weights_sha256": "",
        "tokens": "time",
        "dim": 4,
        "dtype": "float32",
        "precision": "float32",
    }
    return FeatureSpec(**(fields | changes))  # type: ignore[arg-type]


def make_tokens(clip_id: str, num_tokens: int = 3, dim: int = 4, seed: int = 0) -> np.ndarray:
    """(num_tokens, dim) float32, the same for the same clip id and seed."""
    rng = np.random.default_rng([seed, *clip_id.encode("utf-8")])
    return rng.standard_normal((num_tokens, dim)).astype(np.float32)


def make_table(num_clips: int = 12, num_subjects: int = 6) -> pd.DataFrame:
    """Clips c0, c1, ... with both labels; the last third of the subjects are test subjects."""
    rows = []
    for i in range(num_clips):
        subject = i % num_subjects
        split = "test" if subject >= num_subjects * 2 // 3 else "train"
        rows.append(
            {
                "clip_id": f"c{i}",
                "video": f"v{subject}.mp4",
                "start_s": 0.0,
                "end_s": 1.0,
                "subject_id": f"s{subject}",
                "split": split,
                "gesture": i // num_subjects % 2,
                "emotion": ("lose", "win")[i // num_subjects % 2],
            }
        )
    return check_clip_table(pd.DataFrame(rows))


@contextmanager
def as_plain_user() -> Iterator[None]:
    """Root may write anywhere: be nobody for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
