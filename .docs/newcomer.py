"""A newcomer's path, timed: a fresh virtual environment, `pip install`, own videos, a report, in six commands.

    python3 .docs/newcomer.py VIDEOS [--work FOLDER] [--mgcli COMMAND]

VIDEOS is a folder with media files; a few of the demo's drawn videos go with them, so that there is something to train
and to test on. Every command is printed, run as it stands, and timed. With `--mgcli COMMAND` the environment and the
install are left out, and that command is used in place of the installed one.
"""

from __future__ import annotations

import argparse
import csv
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
MEDIA = {".mp4", ".avi", ".mov", ".mkv", ".webm", ".gif"}
DRAW = (
    "from mgcli.extract import DemoConfig, make_demo; make_demo('demo', DemoConfig(train_subjects=3, test_subjects=1))"
)


def main() -> None:
    """Do it all, and print the times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", type=Path, help="folder with media files")
    parser.add_argument("--work", type=Path, help="folder to work in; default: a temporary one")
    parser.add_argument("--mgcli", help="use this command; install nothing")
    given = parser.parse_args()
    videos = sorted(each.resolve() for each in given.videos.iterdir() if each.suffix.lower() in MEDIA)
    if not videos:
        parser.error(f"no media files in {given.videos}: {', '.join(sorted(MEDIA))}")
    with tempfile.TemporaryDirectory(prefix="mgcli-newcomer-") as temporary:
        work = (given.work or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        times = []
        if given.mgcli is None:
            python = work / ".venv/bin/python"
            times.append(timed(f"{sys.executable} -m venv .venv && {python} -m pip install --quiet {REPOSITORY}", work))
            mgcli = str(work / ".venv/bin/mgcli")
        else:
            program, mgcli = Path(shlex.split(given.mgcli)[0]), given.mgcli
            python = program if program.name.startswith("python") else program.with_name("python")
        write_table(work, videos, python)
        times.append(timed(f"{mgcli} init table --clips clips.csv --weights random:0", work))
        times.append(timed(f"{mgcli} extract --modality video --tokens pooled", work))
        times.append(timed(f"{mgcli} fuse-train --task gesture", work))
        (run,) = (work / "runs").glob("gesture-*")
        times.append(timed(f"{mgcli} report {run.relative_to(work)}", work))
    print(f"{len(times)} commands, {sum(times):.0f} s in all: {', '.join(f'{each:.0f}' for each in times)} s")


def write_table(work: Path, videos: list[Path], python: Path) -> None:
    """The clip table that a user would write by hand: own videos for testing, and the demo's gesture clips."""
    subprocess.run([python, "-c", DRAW], cwd=work, check=True)
    with (work / "demo/clips.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["gesture"]]
    columns = ["clip_id", "video", "start_s", "end_s", "subject_id", "split", "gesture"]
    known = rows[0]["gesture"]
    own = [
        {"clip_id": each.stem, "video": os.path.relpath(each, work), "subject_id": each.stem, "split": "test"}
        | {"start_s": "", "end_s": "", "gesture": known}
        for each in videos
    ]
    with (work / "clips.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows([{**row, "video": f"demo/{row['video']}"} for row in rows] + own)


def timed(command: str, work: Path) -> float:
    """Run a command as it stands, and say how many seconds it took."""
    print(f"$ {command}", flush=True)
    started = time.monotonic()
    subprocess.run(command, shell=True, cwd=work, check=True)
    seconds = time.monotonic() - started
    print(f"  ({seconds:.0f} s)\n", flush=True)
    return seconds


if __name__ == "__main__":
    main()
