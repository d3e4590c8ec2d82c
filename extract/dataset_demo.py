"""The demo data set: a small synthetic one of real H.264 files, skeleton files and labels, drawn by us.

Every subject has one session of gesture clips, seen close by, and some short interviews, seen from further
away. People sit behind a desk: the picture hides their hands, which the skeleton knows. The labels are planted
so that each task needs both of its modalities, and every sign is balanced within every subject.

| planted sign             | values                           | seen in                     | task             |
|--------------------------|----------------------------------|-----------------------------|------------------|
| what the hands do        | rubbing hands, crossing fingers  | skeleton: hands             | gesture, one bit |
| what the face does       | bulging face, pressing lips      | picture: face, seen large   | gesture, one bit |
| banner on the desk front | striped, plain                   | picture: all but the face   | emotion, bit A   |
| mood, told by the face   | smile, frown; for a moment       | face: too small for context | emotion, bit B   |
| mood, told by the hands  | apart, clasped; for a moment     | skeleton: hands             | emotion, bit B   |

A gesture class is the pair of its two bits: either modality alone gets half of the clips right. An interview is
won where the mood is good and the banner striped, or neither: face with context, or pose with context, tells
all; any one of them alone is at chance. Face and hands tell the mood once, for less than a fifth of the interview
and anywhere in it, so a head must find that moment, and its attention can be held against it. All other signs are
on from a clip's first frame to its last. Gestures bear names of iMiGUE (facts: imigue, section 5).
A face bulges red, presses its lips pale, smiles rosy and frowns blue, so that networks with random weights tell
them apart. All of it is synthetic: it shows that the machinery works, and nothing about people.

The folder: `clips.csv`, `videos/*.mp4`, `skeletons/*.npy` ((T, 22, 3): x and y in pixels, confidence; zeros
where a joint is missing), `faces/*.npy` ((T, 14): box and five landmarks), one row a video frame, and
`demo.json`, which marks the folder as ours.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path

import av
import numpy as np
import pandas as pd

from mgcli.cache import ProjectError, committed_file, read_clip_table
from mgcli.extract.dataset import DatasetError, DatasetProtocol
from mgcli.extract.dataset_demo_drawing import (
    FPS,
    HEIGHT_PX,
    NUM_JOINTS,
    WIDTH_PX,
    Camera,
    Motion,
    Painter,
    Subject,
    VisibleSigns,
    draw_motion,
    draw_subject,
    place_face,
    place_joints,
)

HANDS = ("rubbing hands", "crossing fingers")  # iMiGUE 22, 23
FACES = ("bulging face", "pressing lips")  # iMiGUE 1, 28
MOODS = {"smile": "apart", "frown": "clasped"}  # face -> hands

# Enough for `mgcli backbone-train` to learn what the hands do, in half a minute on two cores.
DEMO_POSE_SETTINGS = {"num_frames": 16, "epochs": 12, "min_steps": 0}

_CLOSE = Camera(shoulder_px=150, neck_y_px=158, desk_y_px=192)
_WIDE = Camera(shoulder_px=86, neck_y_px=118, desk_y_px=164)
_HANDS_Y = {_CLOSE: 0.43, _WIDE: 0.9}  # from the neck, in shoulder widths: behind the desk, inside the picture
_HAND_POSES = {  # wrist x, fingertip x and y, stagger of the two hands' fingers; in shoulder widths
    "rubbing hands": (0.17, 0.03, -0.05, 0.0),
    "crossing fingers": (0.27, -0.06, -0.02, 0.011),
    "apart": (0.45, 0.4, -0.03, 0.0),
    "clasped": (0.16, -0.04, 0.02, 0.011),
}
_RAMP = 4  # frames in which a sign comes and goes, outside its clip
_HOLD = 2  # frames that show one picture, as in drawn films
_GAP = 2 * _RAMP + 2  # frames between two clips of a session
_TABLE, _MADE_BY = "clips.csv", "mgcli demo"
_FOLDERS = ("videos", "skeletons", "faces")


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """How much to make."""

    seed: int = 0
    train_subjects: int = 12
    test_subjects: int = 6
    clip_frames: int = 56  # 2.24 s: one window of 16 frames at 7.5 frames/s takes 2.13 s
    interview_frames: int = 78  # 3.12 s: still one window of context, and 6 faces at 2 a second
    mood_frames: int = 14  # of an interview: one of its faces shows the mood, or two do

    def __post_init__(self) -> None:
        if self.train_subjects < 2 or self.test_subjects < 1:
            raise ValueError("the demo needs at least 2 training subjects and 1 test subject")
        if self.clip_frames < 8:
            raise ValueError(f"clip_frames is {self.clip_frames}; it must be 8 or more")
        if self.mood_frames < 8:
            raise ValueError(f"mood_frames is {self.mood_frames}; it must be 8 or more")
        if self.interview_frames < self.mood_frames:
            raise ValueError(f"interview_frames is {self.interview_frames}; it must be {self.mood_frames} or more")


@dataclass(frozen=True, kw_only=True)
class Act:
    """What hands and face do in the frames [start_frame, end_frame)."""

    start_frame: int
    end_frame: int
    hands: str
    face: str


@dataclass(frozen=True, kw_only=True)
class DemoVideo:
    """All that decides one video, its skeleton and its faces."""

    name: str
    seed: int  # of the data set
    subject: int
    place: int  # of the video among the subject's: 0 the session, 1.. the interviews
    num_frames: int
    acts: tuple[Act, ...]
    striped_banner: bool | None = None  # None: a session, which has no banner

    @property
    def camera(self) -> Camera:
        return _CLOSE if self.striped_banner is None else _WIDE

    def looks(self) -> Subject:
        return draw_subject(self.random("looks", same_subject=True))

    def motion(self) -> Motion:
        return draw_motion(self.random("motion"), self.looks(), self.camera, self.num_frames)

    def random(self, purpose: str, *, same_subject: bool = False) -> np.random.Generator:
        """A stream of its own for each purpose, so that no sign can shift what another one draws."""
        place = 0 if same_subject else self.place + 1
        return np.random.default_rng([self.seed, self.subject, place, *purpose.encode()])


class DemoDataset(DatasetProtocol):
    """The synthetic data set that `mgcli demo` makes."""

    name = "demo"

    def __init__(self, root: Path) -> None:
        """`root` is the folder."""
        self.root = root

    def clip_table(self) -> pd.DataFrame:
        """The clips, with absolute paths."""
        if not (self.root / _TABLE).is_file():
            raise DatasetError(f"no finished demo in {self.root}; make one with: mgcli demo")
        return read_clip_table(self.root / _TABLE)


def make_demo(
    root: str | Path,
    config: DemoConfig | None = None,
    *,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write the demo data set and return the path of its clip table.

    A folder that already holds the same demo is left as it is; one that holds another demo is replaced.

    Args:
        root: folder to make; it may exist if it is empty or holds a demo.
        config: how much to make.
        workers: threads that draw, default all cores; the files do not depend on it.
        progress: called with (videos done, videos in all) after each video.

    Raises:
        ProjectError: the folder holds something else.
    """
    root, config = Path(root), config or DemoConfig()
    marker, table_path = root / "demo.json", root / _TABLE
    settings = json.dumps({"made_by": _MADE_BY, "version": 1, **asdict(config)}, indent=2) + "\n"
    present = marker.read_text(encoding="utf-8", errors="replace") if marker.is_file() else ""
    if root.exists() and _MADE_BY not in present and not (root.is_dir() and not any(root.iterdir())):
        raise ProjectError(f"{root} exists and holds no demo; name a new or an empty folder")
    if table_path.is_file() and present == settings:
        return table_path
    root.mkdir(parents=True, exist_ok=True)
    table_path.unlink(missing_ok=True)
    marker.write_text(settings, encoding="utf-8")
    for folder in _FOLDERS:
        shutil.rmtree(root / folder, ignore_errors=True)
        (root / folder).mkdir()

    videos = plan_videos(config)
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        for done, _ in enumerate(pool.map(lambda video: _write_video(root, video), videos), start=1):
            if progress:
                progress(done, len(videos))
    table = pd.DataFrame([row for video in videos for row in _rows(video, config)])
    with committed_file(table_path) as unfinished:  # it comes last: with it the data set is complete
        table.to_csv(unfinished, index=False)
    return table_path


def pose_labels(table: pd.DataFrame) -> pd.DataFrame:
    """The demo's clip table with gestures named by what the hands do: the part of the labels that joints show."""
    return table.assign(gesture=table["gesture"].str.partition(", ")[0])


def plan_videos(config: DemoConfig) -> list[DemoVideo]:
    """One session and four interviews a subject; each holds every pair of signs once, in random order."""
    videos = []
    for subject in range(config.train_subjects + config.test_subjects):
        rng = np.random.default_rng([config.seed, subject])
        name, video_of = f"s{subject:02d}", partial(DemoVideo, seed=config.seed, subject=subject)
        acts, end = [], _GAP
        for hands, face in rng.permutation(list(product(HANDS, FACES))).tolist():
            acts.append(Act(start_frame=end, end_frame=end + config.clip_frames, hands=hands, face=face))
            end += config.clip_frames + _GAP
        videos.append(video_of(name=f"{name}-session", place=0, num_frames=end, acts=tuple(acts)))
        interviews = list(product(MOODS, (True, False)))
        for place, choice in enumerate(rng.permutation(len(interviews)), start=1):
            mood, striped_banner = interviews[choice]
            video = video_of(name=f"{name}-interview{place}", place=place, num_frames=config.interview_frames, acts=())
            start = int(video.random("moment").integers(config.interview_frames - config.mood_frames + 1))
            act = Act(start_frame=start, end_frame=start + config.mood_frames, hands=MOODS[mood], face=mood)
            videos.append(replace(video, acts=(act,), striped_banner=striped_banner))
    return videos


def paint_frames(video: DemoVideo) -> Iterator[np.ndarray]:
    """The pictures of a video, (H, W, 3) uint8 RGB each; the hands have no part in them."""
    painter = Painter(video.looks(), video.camera, video.motion(), _visible_signs(video), video.random("noise"))
    for frame in range(0, video.num_frames, _HOLD):
        picture = painter.paint(frame)
        yield from [picture] * min(_HOLD, video.num_frames - frame)


def estimate_skeleton(video: DemoVideo) -> np.ndarray:
    """Joints as a pose estimator would give them, (T, V, 3) float32: x and y in pixels, confidence.

    A joint that was not found is (0, 0, 0): single ones, a hand for a while, a whole person now and then.
    The face and the banner have no part in them.
    """
    motion = video.motion()
    joints = place_joints(motion, _hands(video), video.looks())  # (T, V, 2)
    rng = video.random("estimator")
    num_frames, num_joints = video.num_frames, NUM_JOINTS
    joints += rng.normal(0, 0.005 * motion.unit_px, joints.shape)
    confidence = rng.normal(0.85, 0.05, (num_frames, num_joints))
    confidence[:, 12:] -= 0.4  # as for real hands (facts: imigue, section 4)
    missing = rng.random((num_frames, num_joints)) < 0.03
    missing |= rng.random((num_frames, 1)) < 0.01
    for hand in (slice(12, 17), slice(17, 22)):
        lost = int(rng.integers(num_frames))
        missing[lost : lost + int(rng.integers(12)), hand] = True
    skeleton = np.concatenate([joints, np.clip(confidence, 0.05, 1)[..., None]], axis=2)
    skeleton[missing] = 0
    return skeleton.astype(np.float32)


def _write_video(root: Path, video: DemoVideo) -> None:
    with av.open(str(root / "videos" / f"{video.name}.mp4"), "w", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "superfast", "crf": "24", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = WIDTH_PX, HEIGHT_PX, "yuv420p"
        for picture in paint_frames(video):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    np.save(root / "skeletons" / f"{video.name}.npy", estimate_skeleton(video))
    faces = place_face(video.motion(), video.looks(), _visible_signs(video).smile)
    np.save(root / "faces" / f"{video.name}.npy", faces.astype(np.float32))


def _rows(video: DemoVideo, config: DemoConfig) -> Iterator[dict[str, object]]:
    """Rows of the clip table: each gesture of a session, or the whole interview."""
    for number, act in enumerate(video.acts, start=1):
        is_session = video.striped_banner is None
        won = (act.face == "smile") == video.striped_banner
        yield {
            "clip_id": f"{video.name}-{number}" if is_session else video.name,
            "video": f"videos/{video.name}.mp4",
            "start_s": act.start_frame / FPS if is_session else None,
            "end_s": act.end_frame / FPS if is_session else None,
            "subject_id": video.name.split("-")[0],
            "split": "train" if video.subject < config.train_subjects else "test",
            "gesture": f"{act.hands}, {act.face}" if is_session else "",
            "emotion": "" if is_session else ("win" if won else "lose"),
            "skeleton": f"skeletons/{video.name}.npy",
            "face": f"faces/{video.name}.npy",
        }


def _strength(video: DemoVideo, act: Act) -> np.ndarray:
    """How much of an act is on in each frame, (T,) in [0, 1]: all of it from its first frame to its last."""
    first, last = act.start_frame, act.end_frame - 1
    return np.interp(np.arange(video.num_frames), [first - _RAMP, first, last, last + _RAMP], [0, 1, 1, 0])


def _visible_signs(video: DemoVideo) -> VisibleSigns:
    tracks = {name: np.zeros(video.num_frames) for name in (*FACES, *MOODS)}
    for act in video.acts:
        tracks[act.face] += _strength(video, act)
    return VisibleSigns(
        bulge=tracks["bulging face"],
        press=tracks["pressing lips"],
        smile=tracks["smile"] - tracks["frown"],
        striped_banner=video.striped_banner,
    )


def _hands(video: DemoVideo) -> np.ndarray:
    """Hidden hands from the neck in shoulder widths, (T, 12, 2): wrists, left and right fingertips."""
    rng = video.random("hands")
    time_s = np.arange(video.num_frames) / FPS
    hands = _hand_pose("apart", time_s, 0.0, 0.0)
    rest = hands.copy()
    for act in video.acts:
        pose = _hand_pose(act.hands, time_s, hertz=rng.uniform(1.8, 2.8), phase=rng.uniform(0, 2 * np.pi))
        hands += _strength(video, act)[:, None, None] * (pose - rest)
    return hands + np.array([0, _HANDS_Y[video.camera]])


def _hand_pose(name: str, time_s: np.ndarray, hertz: float, phase: float) -> np.ndarray:
    """One way to hold the hands, around a point in the middle, (T, 12, 2)."""
    wrist_x, tip_x, tip_y, stagger = _HAND_POSES[name]
    finger = np.arange(5) - 2.0  # thumb to little finger
    hands = np.zeros((len(time_s), 12, 2))
    for wrist, tips, side in ((0, slice(7, 12), -1.0), (1, slice(2, 7), 1.0)):
        hands[:, wrist] = (side * wrist_x, 0)
        hands[:, tips, 0] = side * tip_x
        hands[:, tips, 1] = tip_y + 0.03 * finger + side * stagger
    if name == "rubbing hands":  # palm against palm, up and down in turn
        slide = 0.05 * np.sin(2 * np.pi * hertz * time_s + phase)[:, None]
        hands[:, [0, *range(7, 12)], 1] += slide
        hands[:, [1, *range(2, 7)], 1] -= slide
    return hands
