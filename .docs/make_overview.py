"""Draw `overview.png` from a finished demo: python .docs/make_overview.py mgcli-demo demo.json

Needs matplotlib. `demo.json` is what `mgcli demo --json` printed; every bar of the picture comes from it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import av
import matplotlib.pyplot as plt
import numpy as np

from mgcli.extract import load_dataset

EDGES = [(0, 1), (1, 2), (2, 3), (3, 4), (1, 5), (5, 6), (6, 7), (0, 8), (8, 10), (0, 9), (9, 11)]
EDGES += [(7, tip) for tip in range(12, 17)] + [(4, tip) for tip in range(17, 22)]  # imigue22, left hand first


def main(folder: Path, results: Path) -> None:
    table = load_dataset("demo", folder / "data")
    gesture = table[table["gesture"].str.contains("bulging")].iloc[0]
    interview = table[table["emotion"] == "win"].iloc[1]
    figure, axes = plt.subplots(1, 4, figsize=(13, 3.1), width_ratios=[1, 1, 1, 1], layout="constrained")
    for axis, clip, title in (
        (axes[0], gesture, "a gesture clip: video + pose"),
        (axes[1], interview, "an interview: face + context"),
    ):
        frame, joints, face = read_frame(clip)
        axis.imshow(frame)
        if clip["gesture"]:
            for a, b in EDGES:
                if joints[a, 2] > 0 and joints[b, 2] > 0:
                    axis.plot(joints[[a, b], 0], joints[[a, b], 1], color="#00e5ff", linewidth=1.2)
        else:
            left, top, right, bottom = face[:4]
            axis.add_patch(plt.Rectangle((left, top), right - left, bottom - top, fill=False, color="#00e5ff"))
            axis.scatter(*face[4:].reshape(5, 2).T, s=6, color="#00e5ff")
        axis.set_title(title, fontsize=10)
        axis.axis("off")
    scores = json.loads(results.read_text())
    for axis, (task, heads) in zip(axes[2:], scores["tasks"].items(), strict=True):
        names = list(heads)
        colours = ["#0072b2" if name == names[-1] else "#b0b8c0" for name in names]
        bars = axis.barh(names, [100 * heads[name] for name in names], color=colours)
        axis.bar_label(bars, fmt="%.0f", padding=2, fontsize=8)
        axis.set_title(f"{task}: top-1 on test subjects, %", fontsize=10)
        axis.set_xlim(0, 112)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    weights = ", ".join(f"{name} {value}" for name, value in scores["weights"].items())
    figure.supxlabel(f"mgcli demo: synthetic data; weights: {weights}", fontsize=8, color="#555")
    figure.savefig(Path(__file__).with_name("overview.png"), dpi=110)


def read_frame(clip: object) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The middle frame of a clip, the joints and the face in it."""
    with av.open(clip.video) as container:  # type: ignore[attr-defined]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    start, end = clip.start_s, clip.end_s  # type: ignore[attr-defined]
    middle = int((start + end) / 2 * 25) if np.isfinite(start) else len(frames) // 2
    return frames[middle], np.load(clip.skeleton)[middle], np.load(clip.face)[middle]  # type: ignore[attr-defined]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
