"""The demo data set: what it holds, that its signs are planted where they should be, and that it is repeatable."""

import json
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest

from mgcli.cache import ProjectError, draw_validation, label_classes
from mgcli.extract.backbone_mvit import WINDOW_S
from mgcli.extract.dataset import DatasetError
from mgcli.extract.dataset_demo import (
    FACES,
    HANDS,
    MOODS,
    DemoConfig,
    DemoDataset,
    DemoVideo,
    estimate_skeleton,
    make_demo,
    paint_frames,
    plan_videos,
    pose_labels,
)
from mgcli.extract.dataset_demo_drawing import FPS
from mgcli.extract.windows import window_starts

TINY = DemoConfig(seed=3, train_subjects=2, test_subjects=1, clip_frames=8, interview_frames=40, mood_frames=8)
NUM_SUBJECTS = 3


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("demo") / "data"
    make_demo(root, TINY)
    return root


@pytest.fixture(scope="module")
def table(demo: Path) -> pd.DataFrame:
    return DemoDataset(demo).clip_table()


def first_video(*, interview: bool) -> DemoVideo:
    return next(video for video in plan_videos(TINY) if (video.striped_banner is not None) == interview)


def pictures(video: DemoVideo, count: int = 40) -> np.ndarray:
    return np.stack(list(islice(paint_frames(video), count)))


def with_acts(video: DemoVideo, **changes: str) -> DemoVideo:
    return replace(video, acts=tuple(replace(act, **changes) for act in video.acts))


def test_every_subject_shows_every_class_equally_often(table: pd.DataFrame) -> None:
    gestures = table[table["gesture"] != ""]
    interviews = table[table["emotion"] != ""]
    assert len(gestures) == len(interviews) == 4 * NUM_SUBJECTS
    assert len(label_classes(table, "gesture")) == 4
    assert (gestures.groupby(["subject_id", "gesture"]).size() == 1).all()
    assert (interviews.groupby(["subject_id", "emotion"]).size() == 2).all()


def test_pose_is_taught_what_the_hands_do(table: pd.DataFrame) -> None:
    taught = pose_labels(table)
    assert set(taught["gesture"]) == {"", *HANDS}
    assert (taught["gesture"] == "").equals(table["gesture"] == "")


def test_splits_share_no_subject(table: pd.DataFrame) -> None:
    subjects = table.groupby("split")["subject_id"].agg(set)
    assert len(subjects["train"]) == 2
    assert len(subjects["test"]) == 1
    assert not subjects["train"] & subjects["test"]
    assert len(set(draw_validation(table)["split"])) == 3


def test_no_sign_alone_tells_the_outcome_of_an_interview(demo: Path, table: pd.DataFrame) -> None:
    emotion = table.set_index("clip_id")["emotion"]
    counts: Counter[tuple[str, object, str]] = Counter()
    for video in plan_videos(TINY):
        if video.striped_banner is not None:
            counts["banner", video.striped_banner, emotion[video.name]] += 1
            counts["face", video.acts[0].face, emotion[video.name]] += 1
            counts["hands", video.acts[0].hands, emotion[video.name]] += 1
            assert video.acts[0].hands == MOODS[video.acts[0].face]
    assert set(counts.values()) == {NUM_SUBJECTS}


def test_every_file_decodes_to_one_row_a_frame(table: pd.DataFrame) -> None:
    for video, rows in table.groupby("video"):
        with av.open(str(video)) as container:
            assert container.streams.video[0].codec_context.name == "h264"
            frames = list(container.decode(video=0))
        assert (frames[0].height, frames[0].width) == (240, 320)
        assert [frame.time for frame in frames] == pytest.approx(np.arange(len(frames)) / 25)
        skeleton, face = np.load(rows["skeleton"].iloc[0]), np.load(rows["face"].iloc[0])
        assert skeleton.shape == (len(frames), 22, 3)
        assert face.shape == (len(frames), 14)
        assert np.isfinite(skeleton).all()
        assert np.isfinite(face).all()
        assert not (rows["end_s"] > len(frames) / 25).any()


def test_face_landmarks_lie_in_their_box_and_on_the_joints(table: pd.DataFrame) -> None:
    row = table.iloc[0]
    face, skeleton = np.load(row["face"]), np.load(row["skeleton"])
    points = face[:, 4:].reshape(-1, 5, 2)
    assert (points > face[:, None, :2]).all()
    assert (points < face[:, None, 2:4]).all()
    seen = skeleton[:, 0, 2] > 0
    assert np.abs(points[seen, 2] - skeleton[seen, 0, :2]).max() < 5  # the nose


@pytest.mark.parametrize("interview", [False, True])
def test_hands_leave_no_trace_in_the_picture(interview: bool) -> None:
    video = first_video(interview=interview)
    expected = pictures(video)
    for hands in (*HANDS, *MOODS.values()):
        assert np.array_equal(pictures(with_acts(video, hands=hands)), expected)


@pytest.mark.parametrize("interview", [False, True])
def test_face_and_banner_leave_no_trace_in_the_joints(interview: bool) -> None:
    video = first_video(interview=interview)
    expected = estimate_skeleton(video)
    for face in (*FACES, *MOODS):
        assert np.array_equal(estimate_skeleton(with_acts(video, face=face)), expected)
    if interview:
        other = replace(video, striped_banner=not video.striped_banner)
        assert np.array_equal(estimate_skeleton(other), expected)


def test_every_sign_shows_where_it_should() -> None:
    session, interview = first_video(interview=False), first_video(interview=True)
    for video, faces, hands in ((session, FACES, HANDS), (interview, tuple(MOODS), tuple(MOODS.values()))):
        one, other = (pictures(with_acts(video, face=face)) for face in faces)
        assert not np.array_equal(one, other)
        one, other = (estimate_skeleton(with_acts(video, hands=each)) for each in hands)
        assert not np.array_equal(one, other)


def test_banner_and_face_share_no_pixel() -> None:
    video = first_video(interview=True)
    banner = pictures(video) != pictures(replace(video, striped_banner=not video.striped_banner))
    face = pictures(with_acts(video, face="smile")) != pictures(with_acts(video, face="frown"))
    banner_rows, face_rows = (np.flatnonzero(changed.any(axis=(0, 2, 3))) for changed in (banner, face))
    assert face_rows.max() < 120 < banner_rows.min()
    start, end = video.acts[0].start_frame, video.acts[0].end_frame
    assert face[start:end].any(axis=3).mean() < 0.03  # of the picture: too small for the context


def test_hands_stay_behind_the_desk_and_inside_the_picture() -> None:
    for video in plan_videos(DemoConfig()):
        skeleton = estimate_skeleton(video)
        hands = skeleton[:, [4, 7, *range(12, 22)]]
        y_px = hands[hands[..., 2] > 0][:, 1]
        assert video.camera.desk_y_px < y_px.min()
        assert y_px.max() < 240


def test_some_joints_are_missing_and_none_is_half_missing() -> None:
    skeletons = np.concatenate([estimate_skeleton(video) for video in plan_videos(DemoConfig(test_subjects=2))])
    missing = skeletons[..., 2] == 0
    assert 0.02 < missing.mean() < 0.2
    assert not skeletons[missing].any()


def test_same_seed_gives_the_same_bytes_whatever_the_workers(demo: Path, tmp_path: Path) -> None:
    make_demo(tmp_path / "again", TINY, workers=1)
    files = sorted(path.relative_to(demo) for path in demo.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(tmp_path / "again") for path in (tmp_path / "again").rglob("*.*"))
    for file in files:
        assert (tmp_path / "again" / file).read_bytes() == (demo / file).read_bytes(), file


def test_another_seed_gives_other_people() -> None:
    assert plan_videos(TINY)[0].looks() != plan_videos(replace(TINY, seed=4))[0].looks()


def test_a_finished_demo_is_kept_and_another_one_replaced(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    root = tmp_path / "demo"
    small = replace(TINY, seed=0)
    make_demo(root, small, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(done, 15) for done in range(1, 16)]
    written = (root / "clips.csv").stat().st_mtime_ns
    make_demo(root, small)
    assert (root / "clips.csv").stat().st_mtime_ns == written
    (root / "clips.csv").unlink()  # as if it was killed
    make_demo(root, replace(small, seed=1))
    assert json.loads((root / "demo.json").read_text())["seed"] == 1
    assert len(DemoDataset(root).clip_table()) == 24


@pytest.mark.parametrize("name", ["thesis.txt", "demo.json"])
def test_a_folder_of_the_users_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    for root in (tmp_path, tmp_path / name):
        with pytest.raises(ProjectError, match="holds no demo; name a new or an empty folder"):
            make_demo(root, TINY)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_an_unfinished_demo_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no finished demo in .*; make one with: mgcli demo"):
        DemoDataset(tmp_path).clip_table()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_subjects": 1}, "at least 2 training subjects and 1 test subject"),
        ({"test_subjects": 0}, "at least 2 training subjects and 1 test subject"),
        ({"clip_frames": 3}, "clip_frames is 3; it must be 8 or more"),
        ({"mood_frames": 7}, "mood_frames is 7; it must be 8 or more"),
        ({"interview_frames": 7}, "interview_frames is 7; it must be 8 or more"),
    ],
)
def test_an_impossible_config_is_refused(change: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(TINY, **change)


def test_the_mood_has_a_moment_of_its_own_and_shows_in_no_other_frame() -> None:
    interviews = [video for video in plan_videos(DemoConfig()) if video.place]
    acts = [video.acts[0] for video in interviews]
    assert len({act.start_frame for act in acts}) > 30  # anywhere
    for video, act in zip(interviews, acts, strict=True):
        assert len(video.acts) == 1
        assert 0 <= act.start_frame < act.end_frame <= video.num_frames
        assert act.end_frame - act.start_frame < video.num_frames / 5
    video, act = interviews[0], acts[0]
    smile, frown = (pictures(with_acts(video, face=face), video.num_frames) for face in MOODS)
    apart, clasped = (estimate_skeleton(with_acts(video, hands=hands)) for hands in MOODS.values())
    for differs in ((smile != frown).any(axis=(1, 2, 3)), (apart != clasped).any(axis=(1, 2))):
        shown = np.flatnonzero(differs)
        assert differs[act.start_frame : act.end_frame].mean() > 0.8  # a person may be missing from a frame
        assert act.start_frame - 6 < shown.min() <= shown.max() < act.end_frame + 6  # it comes and goes in 4 frames


def test_a_whole_interview_is_one_window_of_context() -> None:
    """More would be most of the demo's time."""
    end_s = DemoConfig().interview_frames / FPS
    assert len(window_starts(0, end_s, WINDOW_S, WINDOW_S)) == 1
