"""Tiny skeleton files of every kind that is read."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

_OPENPOSE_PARTS = ("pose_keypoints_2d", "face_keypoints_2d", "hand_left_keypoints_2d", "hand_right_keypoints_2d")
_SHEET_SPACE = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"


def points(*shape: int, seed: int = 0) -> np.ndarray:
    """(..., 3) numbers that survive being written with three decimals."""
    return np.random.default_rng(seed).integers(1, 400_000, (*shape, 3)).astype(np.float32) / 1000


def write_openpose_frame(folder: Path, frame: int, people: Sequence[np.ndarray]) -> None:
    """One of OpenPose's files; people are (25, 3) or (137, 3)."""
    written = []
    for person in people:
        parts = np.split(person, [25, 95, 116]) if len(person) == 137 else [person]
        written.append({name: part.ravel().tolist() for name, part in zip(_OPENPOSE_PARTS, parts, strict=False)})
    content = {"version": 1.3, "people": written}
    (folder / f"clip_{frame:012d}_keypoints.json").write_text(json.dumps(content))


def write_openpose(path: Path, joints: np.ndarray) -> None:
    """A folder with a file for each frame of (T, V, 3)."""
    path.mkdir()
    for frame, person in enumerate(joints):
        write_openpose_frame(path, frame, [person])


def write_sheet(path: Path, joints: np.ndarray) -> None:
    """An .xlsx file with the little that a reader needs; empty cells are left out, as spreadsheets do."""

    def letters(column: int) -> str:
        return (letters(column // 26 - 1) if column >= 26 else "") + chr(ord("A") + column % 26)

    cells = "".join(
        f'<row r="{r + 1}">'
        + "".join(f'<c r="{letters(c)}{r + 1}"><v>{value}</v></c>' for c, value in enumerate(row) if value)
        + "</row>"
        for r, row in enumerate(joints.reshape(len(joints), -1).tolist())
    )
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        sheet = f'<?xml version="1.0"?><worksheet xmlns="{_SHEET_SPACE}"><sheetData>{cells}</sheetData></worksheet>'
        archive.writestr("xl/worksheets/sheet1.xml", sheet)


def write_imigue_csv(path: Path, joints: np.ndarray) -> None:
    """With a header and an index."""
    rows = joints.reshape(len(joints), -1).tolist()
    lines = ["," + ",".join(map(str, range(len(rows[0]))))]
    lines += [f"{number}," + ",".join(map(str, row)) for number, row in enumerate(rows)]
    path.write_text("\n".join(lines))


def write_smg_csv(path: Path, joints: np.ndarray) -> None:
    """With neither; eight more numbers a joint."""
    numbers = np.concatenate([joints, np.ones((*joints.shape[:2], 8))], axis=2)
    np.savetxt(path, numbers.reshape(len(joints), -1), delimiter=",", fmt="%.3f")


def write_ntu(path: Path, frames: Sequence[Sequence[tuple[str, np.ndarray]]]) -> None:
    """Bodies of each frame: an id and (25, 3) joints."""
    lines = [str(len(frames))]
    for bodies in frames:
        lines.append(str(len(bodies)))
        for body, joints in bodies:
            lines += [f"{body} 0 1 1 1 1 0 0.1 0.2 2", "25"]
            lines += [" ".join([*map(str, joint), *["0"] * 8, "2"]) for joint in joints.tolist()]
    path.write_text("\n".join(lines) + "\n")


def pyskl_annotation(joints: np.ndarray) -> dict[str, object]:
    """(M, T, V, 3) as pyskl has it."""
    return {
        "frame_dir": "S001",
        "label": np.int64(3),
        "total_frames": joints.shape[1],
        "img_shape": (720, 1280),
        "keypoint": np.asfortranarray(joints[..., :2].astype(np.float16)),
        "keypoint_score": joints[..., 2].astype(">f4"),
    }


def _write_pyskl(path: Path, joints: np.ndarray) -> None:
    path.write_bytes(pickle.dumps([pyskl_annotation(joints[None])]))


def _write_ntu(path: Path, joints: np.ndarray) -> None:
    write_ntu(path, [[("72", person)] for person in joints])


# name -> (layout of its joints, how to write (T, V, 3))
KINDS: dict[str, tuple[str, Callable[[Path, np.ndarray], None]]] = {
    "openpose": ("openpose137", write_openpose),
    "sheet.xlsx": ("openpose137", write_sheet),
    "light_hand.csv": ("imigue35", write_imigue_csv),
    "smg.csv": ("ntu25", write_smg_csv),
    "ntu.skeleton": ("ntu25", _write_ntu),
    "pyskl.pkl": ("coco17", _write_pyskl),
    "plain.npy": ("imigue22", np.save),
}
