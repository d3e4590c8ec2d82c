"""The benchmark of stage two: both ways train alike, and its figures fit together."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mgcli.fuse import FuseBenchConfig, TrainError, bench_fusion


def test_bench_times_both_loops_and_its_figures_fit_together(tmp_path: Path) -> None:
    config = FuseBenchConfig(
        clips=512, many_clips=512, epochs=6, seeds=2, rounds=1, workers=0, head="gated", device="cpu"
    )
    report = bench_fusion(config, folder=tmp_path)
    assert not list(tmp_path.iterdir())
    assert [each.how for each in (report.ours, *report.plain)] == ["ours", "plain", "plain, one thread"]
    assert report.together == 1
    assert report.ours.clips_per_s == pytest.approx(448 * 6 * 2 / report.run_s)
    assert report.over_plain == pytest.approx(report.ours.clips_per_s / report.plain[0].clips_per_s)
    assert report.over_best_plain <= report.over_plain
    # Nobody is fast by skipping work: all learn alike, and more than chance, 1 of 32, would give.
    for each in (report.ours, *report.plain):
        assert each.val_top1 > 0.5
        assert each.val_top1 == pytest.approx(report.ours.val_top1, abs=0.2)
    first = report.first_epoch
    assert (first.head, first.clips) == ("single_video", 512)
    assert first.total_s == pytest.approx(first.load_s + first.prepare_s + first.epoch_s)
    plain_json = json.loads(json.dumps(report.to_json()))
    assert plain_json["over_plain"] == report.over_plain
    assert "as fast as the plain loop" in report.summary()


def test_bench_of_a_stack_and_a_short_plain_loop(tmp_path: Path) -> None:
    config = FuseBenchConfig(
        clips=512, many_clips=512, epochs=3, plain_epochs=2, seeds=3, replicas="on", rounds=1, workers=0, head="concat"
    )
    report = bench_fusion(replace(config, device="cpu"), folder=tmp_path)
    assert report.together == 3
    assert "our run, 3 training(s) of 3 epochs, up to 3 together: " in report.summary()


@pytest.mark.parametrize("head", ["constant", "logistic"])
def test_a_head_without_a_training_loop_cannot_be_timed(head: str) -> None:
    with pytest.raises(TrainError, match=f"head '{head}' has no training loop to time; choose another with --head"):
        bench_fusion(FuseBenchConfig(head=head))


def test_a_folder_that_is_none_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name in ("nosuch", "file"):
        with pytest.raises(TrainError, match=rf"no folder .*{name} that can be written to; make it first"):
            bench_fusion(folder=tmp_path / name)


def test_a_device_that_holds_no_numbers_is_refused() -> None:
    with pytest.raises(TrainError, match="device is 'meta', which holds no numbers"):
        FuseBenchConfig(device="meta")


@pytest.mark.parametrize(
    "setting",
    [{"clips": 3}, {"epochs": 1}, {"seeds": 0}, {"rounds": 0}, {"workers": -1}, {"many_clips": 0}, {"plain_epochs": 1}],
)
def test_a_benchmark_that_makes_no_sense_is_refused(setting: dict[str, int]) -> None:
    with pytest.raises(TrainError, match="it must be"):
        FuseBenchConfig(**setting)  # type: ignore[arg-type]
