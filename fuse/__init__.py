"""Stage two: tokens in, predictions out. Names are imported when first used: torch takes its time."""

from typing import TYPE_CHECKING

from mgcli.cache import lazy_names

if TYPE_CHECKING:
    from mgcli.fuse.attention import ClipAttention, RunAttention, run_attention, telling_clips
    from mgcli.fuse.bench import bench_fusion
    from mgcli.fuse.bench_report import FuseBench, FuseBenchConfig
    from mgcli.fuse.calibrated import answered, threshold_for
    from mgcli.fuse.compare import compare_heads, describe_heads
    from mgcli.fuse.ensemble import Ensemble, EnsembleError, make_ensemble
    from mgcli.fuse.folds import FoldError
    from mgcli.fuse.grid_file import GridError, settings_of
    from mgcli.fuse.head import FusionHead, HeadConfig, HeadError, HeadOutput, create_head
    from mgcli.fuse.names import HEADS
    from mgcli.fuse.paired import compare_runs
    from mgcli.fuse.predict import Evaluation, evaluate_run, mean_predictions, predict_run
    from mgcli.fuse.report import Report, write_report
    from mgcli.fuse.report_map import MapConfig, MapError, expect_map
    from mgcli.fuse.reproduce import Reproduction, reproduce_run
    from mgcli.fuse.run import Run, RunError, results_table
    from mgcli.fuse.score_table import ScoreError
    from mgcli.fuse.settings import TrainConfig, TrainError, make_config
    from mgcli.fuse.submit import SUBMISSION_FORMS, Submission, SubmissionForm, SubmitError, submit_runs
    from mgcli.fuse.task import TASKS, TaskError
    from mgcli.fuse.train import train_head
    from mgcli.fuse.usable_clips import SelectionError

__all__ = [
    "HEADS",
    "SUBMISSION_FORMS",
    "TASKS",
    "ClipAttention",
    "Ensemble",
    "EnsembleError",
    "Evaluation",
    "FoldError",
    "FuseBench",
    "FuseBenchConfig",
    "FusionHead",
    "GridError",
    "HeadConfig",
    "HeadError",
    "HeadOutput",
    "MapConfig",
    "MapError",
    "Report",
    "Reproduction",
    "Run",
    "RunAttention",
    "RunError",
    "ScoreError",
    "SelectionError",
    "Submission",
    "SubmissionForm",
    "SubmitError",
    "TaskError",
    "TrainConfig",
    "TrainError",
    "answered",
    "bench_fusion",
    "compare_heads",
    "compare_runs",
    "create_head",
    "describe_heads",
    "evaluate_run",
    "expect_map",
    "make_config",
    "make_ensemble",
    "mean_predictions",
    "predict_run",
    "reproduce_run",
    "results_table",
    "run_attention",
    "settings_of",
    "submit_runs",
    "telling_clips",
    "threshold_for",
    "train_head",
    "write_report",
]

__getattr__ = lazy_names(
    __name__,
    {  # module -> public names in it
        "attention": "ClipAttention RunAttention run_attention telling_clips",
        "bench": "bench_fusion",
        "bench_report": "FuseBench FuseBenchConfig",
        "calibrated": "answered threshold_for",
        "compare": "compare_heads describe_heads",
        "ensemble": "Ensemble EnsembleError make_ensemble",
        "folds": "FoldError",
        "grid_file": "GridError settings_of",
        "head": "FusionHead HeadConfig HeadError HeadOutput create_head",
        "names": "HEADS",
        "paired": "compare_runs",
        "predict": "Evaluation evaluate_run mean_predictions predict_run",
        "report": "Report write_report",
        "report_map": "MapConfig MapError expect_map",
        "reproduce": "Reproduction reproduce_run",
        "run": "Run RunError results_table",
        "score_table": "ScoreError",
        "settings": "TrainConfig TrainError make_config",
        "submit": "SUBMISSION_FORMS Submission SubmissionForm SubmitError submit_runs",
        "task": "TASKS TaskError",
        "train": "train_head",
        "usable_clips": "SelectionError",
    },
)
