"""Files that are replaced while a run goes on: nothing is kept as read from a file that it was not read from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny_media import make_skeleton, make_video

from mgcli.cache import FeatureCache, check_clip_table, open_cache
from mgcli.extract import ExtractReport
from mgcli.extract.alone import extract_alone
from mgcli.extract.decoder import Decoders, InlineDecoders, Needs, Pictures
from mgcli.extract.face import REFERENCE_POINTS
from mgcli.extract.modality import modality_configs
from mgcli.extract.plan import Extraction
from mgcli.extract.video import VideoIndex

NUM_FRAMES = 50
BACKBONES = {"video": "tiny_backbones:TinyVideo", "pose": "joints", "face": "swinface"}


@pytest.fixture
def store(tmp_path: Path) -> FeatureCache:
    return open_cache(tmp_path / "features", create=True)


class Meddling(InlineDecoders):
    """Changes a file when its video is about to be opened, or once the video's first frame is decoded."""

    def __init__(self, moment: str, change: Callable[[], object]) -> None:
        super().__init__()
        self.moment, self.change = moment, change

    @contextmanager
    def borrow(self) -> Iterator[Meddling]:
        if self.moment == "opening":
            self.change()
        yield self

    def pictures(self, index: VideoIndex, needs: Needs) -> Iterator[tuple[int, Pictures]]:
        for number, frame in enumerate(super().pictures(index, needs)):
            if self.moment == "decoding" and number == 6:
                self.change()
            yield frame


def extract(store: FeatureCache, table: pd.DataFrame, modality: str, decoders: Decoders | None = None) -> ExtractReport:
    configs = modality_configs(
        [modality], backbones={modality: BACKBONES[modality]}, weights="random:0", precision="float32"
    )
    extraction = Extraction(configs=configs, workers=0)
    return extract_alone(store, table, extraction, device="cpu", show_progress=False, decoders=decoders)


def two_clips(**columns: object) -> pd.DataFrame:
    """The first is through before the second one ends."""
    rows = {"clip_id": ["first", "second"], "start_s": [0.0, 1.0], "end_s": [0.8, 1.8]}
    return check_clip_table(pd.DataFrame(rows | {name: [str(each)] * 2 for name, each in columns.items()}))


def check_kept_and_failed(
    store: FeatureCache, table: pd.DataFrame, modality: str, changed: Path, kept: list[str]
) -> None:
    """Only these were kept; the others say why, and the next run makes up for them."""
    feature_set = store.feature_set(modality)
    assert feature_set.clips()["clip_id"].tolist() == kept
    failed = feature_set.failures()
    assert failed["clip_id"].tolist() == [name for name in ("first", "second") if name not in kept]
    assert set(failed["reason"]) == {f"{changed} changed while the run went on; run the same command again"}
    assert extract(store, table, modality).failed == 0
    newest = store.read_clips()
    sources = newest[f"{feature_set.spec.reads}_source"].tolist()
    tokens, _ = store.feature_set(modality).load(newest["clip_id"].tolist(), sources=sources)
    assert np.isfinite(tokens).all()


@pytest.mark.parametrize(("moment", "kept"), [("opening", []), ("decoding", ["first"])])
def test_a_video_that_changes_costs_the_clips_that_are_not_through(
    moment: str, kept: list[str], store: FeatureCache, tmp_path: Path
) -> None:
    video = make_video(tmp_path / "v.mp4", NUM_FRAMES)
    table = two_clips(video=video)

    def replace() -> None:
        make_video(tmp_path / "new.mp4", NUM_FRAMES, first_number=99).replace(video)

    extract(store, table, "video", Meddling(moment, replace))
    check_kept_and_failed(store, table, "video", video, kept)


@pytest.mark.parametrize("has_rate", [True, False])
def test_a_skeleton_that_changes_before_it_is_read_costs_its_clips(
    has_rate: bool, store: FeatureCache, tmp_path: Path
) -> None:
    skeleton, video = make_skeleton(tmp_path / "a.npy", NUM_FRAMES), make_video(tmp_path / "v.mp4", NUM_FRAMES)
    table = two_clips(skeleton=skeleton, video=video)
    table = table.assign(skeleton_fps=25.0 if has_rate else np.nan)
    extract(store, table, "pose", Meddling("opening", lambda: make_skeleton(skeleton, NUM_FRAMES, seed=1)))
    check_kept_and_failed(store, table, "pose", skeleton, [])


def test_a_video_that_gives_a_skeleton_its_times_and_changes_costs_its_clips(
    store: FeatureCache, tmp_path: Path
) -> None:
    skeleton, video = make_skeleton(tmp_path / "a.npy", NUM_FRAMES), make_video(tmp_path / "v.mp4", NUM_FRAMES)
    table = two_clips(skeleton=skeleton, video=video)
    extract(store, table, "pose", Meddling("opening", lambda: make_video(video, NUM_FRAMES, first_number=99)))
    check_kept_and_failed(store, table, "pose", video, [])


def test_a_video_that_a_skeleton_does_not_need_may_change(store: FeatureCache, tmp_path: Path) -> None:
    skeleton, video = make_skeleton(tmp_path / "a.npy", NUM_FRAMES), make_video(tmp_path / "v.mp4", NUM_FRAMES)
    table = two_clips(skeleton=skeleton, video=video).assign(skeleton_fps=25.0)
    meddling = Meddling("opening", lambda: make_video(video, NUM_FRAMES, first_number=99))
    assert extract(store, table, "pose", meddling).failed == 0


def test_faces_that_change_before_they_are_read_cost_their_clips(store: FeatureCache, tmp_path: Path) -> None:
    points = REFERENCE_POINTS / 4 + (20, 8)
    faces = np.tile(np.concatenate([[22, 10, 46, 38], points.ravel()]), (NUM_FRAMES, 1)).astype(np.float32)
    np.save(tmp_path / "faces.npy", faces)
    table = two_clips(video=make_video(tmp_path / "v.mp4", NUM_FRAMES), face=tmp_path / "faces.npy")
    extract(store, table, "face", Meddling("opening", lambda: np.save(tmp_path / "faces.npy", faces + 1)))
    check_kept_and_failed(store, table, "face", tmp_path / "faces.npy", [])
