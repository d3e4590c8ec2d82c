"""Ctrl-C at any line of the commands that change a cache: what was committed is whole, and the command can go on."""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Callable
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from samples import make_spec, make_tokens

import mgcli.cache
from mgcli import cli
from mgcli.cache import FeatureCache, open_cache, verify_cache

OURS = str(Path(mgcli.cache.__file__).parent)
CLIPS = [f"c{i:02d}" for i in range(24)]
POINTS = 12  # of each command


@dataclass
class Interrupter:
    """A tracer that counts the lines of `mgcli.cache` that are run, and raises KeyboardInterrupt at one of them."""

    at: int = 0
    count: int = 0

    def __call__(self, frame: FrameType, event: str, arg: Any) -> Callable[..., Any] | None:
        return self.line if frame.f_code.co_filename.startswith(OURS) else None

    def line(self, frame: FrameType, event: str, arg: Any) -> Callable[..., Any]:
        self.count += event == "line"
        if self.count == self.at and event == "line":
            sys.settrace(None)
            raise KeyboardInterrupt
        return self.line


def run(words: tuple[str, ...], at: int = 0) -> tuple[int, int]:
    """The exit code of a command in the current folder, and how many lines of ours it ran."""
    tracer, handler = Interrupter(at), signal.getsignal(signal.SIGINT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["mgcli", *words])
        patch.setattr(sys, "path", [*sys.path])
        sys.settrace(tracer)
        try:
            cli.main()
        except SystemExit as end:
            return int(end.code or 0), tracer.count
        finally:
            sys.settrace(None)
            signal.signal(signal.SIGINT, handler)
    return 0, tracer.count


def fill(path: Path, names: list[str]) -> FeatureCache:
    """A cache with 7 tokens a clip, in several parts."""
    cache = open_cache(path, create=True)
    features = cache.create_feature_set(make_spec(tokens="full"))
    for start in range(0, len(names), 6):
        with features.writer() as writer:
            for name in names[start : start + 6]:
                writer.add(name, make_tokens(name, 7))
    return cache


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    fill(folder / "other", [f"d{i:02d}" for i in range(24)])
    name = fill(folder / "features", CLIPS).feature_sets()[0].name
    (folder / "npy").mkdir()
    for clip_id in CLIPS:
        np.save(folder / "npy" / f"{clip_id}.npy", make_tokens(clip_id, 3))
    (folder / "clips.csv").write_text("\n".join(["clip_id", *CLIPS, ""]))
    with chdir(folder):
        run(("cache", "export", name, "shared.h5", "--form", "share"))
    return folder


NAME = "video--tiny"
COMMANDS = {
    "verify": ("cache", "verify", "--jobs", "1"),
    "compact": ("cache", "compact"),
    "merge": ("cache", "merge", "other"),
    "import": ("cache", "import", "npy", "--modality", "video", "--backbone", "mine", "--clips", "clips.csv"),
    "import of a shared file": ("cache", "import", "shared.h5", "--cache", "fresh"),
    "export as npz": ("cache", "export", NAME, "out.npz", "--form", "npz"),
    "export as a folder": ("cache", "export", NAME, "out", "--form", "npy"),
    "export to share": ("cache", "export", NAME, "out.h5", "--form", "share"),
    "derive": ("cache", "derive", NAME, "--tokens", "pooled", "--grid", "1,2,3"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_an_interrupt_at_any_line_loses_nothing(
    command: str, prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (name,) = [path.name for path in (prepared / "features").glob(f"{NAME}--*")]
    words = tuple(name if word == NAME else word for word in COMMANDS[command])

    def in_a_copy(number: int, at: int) -> tuple[int, int]:
        with chdir(shutil.copytree(prepared, tmp_path / str(number))):
            return run(words, at)

    in_a_copy(0, 0)  # which imports what it needs
    code, num_lines = in_a_copy(1, 0)
    assert code == 0
    rng = np.random.default_rng(0)
    for number, at in enumerate(rng.integers(1, num_lines, POINTS).tolist(), start=2):
        capsys.readouterr()
        code, _ = in_a_copy(number, at)
        said = capsys.readouterr().err.strip().splitlines()
        assert (code, said[-1:]) == (130, [line for line in said[-1:] if line.startswith("mgcli: stopped; ")]), at
        folder = tmp_path / str(number)
        expect_whole(folder)
        with chdir(folder):
            assert run(words)[0] == 0, f"again after line {at}: {capsys.readouterr().err}"
        expect_whole(folder)
        shutil.rmtree(folder)


def expect_whole(folder: Path) -> None:
    """What was there before still is, and all that has come is whole."""
    for path in (folder / "features", folder / "fresh"):
        if path.exists():
            report = verify_cache(open_cache(path))
            assert report.ok, report.summary()
    (full,) = [each for each in open_cache(folder / "features").feature_sets() if each.spec.tokens == "full"]
    tokens, offsets = full.load(CLIPS)
    assert offsets.tolist() == list(range(0, 7 * len(CLIPS) + 1, 7))
    assert np.array_equal(tokens, np.concatenate([make_tokens(name, 7) for name in CLIPS]))
