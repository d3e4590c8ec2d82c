"""Stage two: tokens in, predictions out. Names are imported when first used: torch takes its time."""

from typing import TYPE_CHECKING

from mgcli.cache import lazy_names

if TYPE_CHECKING:
    from mgcli.fuse.compare import compare_heads, describe_heads
    from mgcli.fuse.head import HEADS, FusionHead, HeadConfig, HeadError, HeadOutput, create_head
    from mgcli.fuse.predict import Evaluation, evaluate_run, mean_predictions, predict_run
    from mgcli.fuse.run import Run, RunError, results_table
    from mgcli.fuse.selection import SelectionError
    from mgcli.fuse.settings import TrainConfig, TrainError, make_config
    from mgcli.fuse.submit import SUBMISSION_FORMS, Submission, SubmissionForm, SubmitError, submit_runs
    from mgcli.fuse.task import TASKS, TaskError
    from mgcli.fuse.train import train_head

__all__ = [
    "HEADS",
    "SUBMISSION_FORMS",
    "TASKS",
    "Evaluation",
    "FusionHead",
    "HeadConfig",
    "HeadError",
    "HeadOutput",
    "Run",
    "RunError",
    "SelectionError",
    "Submission",
    "SubmissionForm",
    "SubmitError",
    "TaskError",
    "TrainConfig",
    "TrainError",
    "compare_heads",
    "create_head",
    "describe_heads",
    "evaluate_run",
    "make_config",
    "mean_predictions",
    "predict_run",
    "results_table",
    "submit_runs",
    "train_head",
]

__getattr__ = lazy_names(
    __name__,
    {  # module -> public names in it
        "compare": "compare_heads describe_heads",
        "head": "HEADS FusionHead HeadConfig HeadError HeadOutput create_head",
        "predict": "Evaluation evaluate_run mean_predictions predict_run",
        "run": "Run RunError results_table",
        "selection": "SelectionError",
        "settings": "TrainConfig TrainError make_config",
        "submit": "SUBMISSION_FORMS Submission SubmissionForm SubmitError submit_runs",
        "task": "TASKS TaskError",
        "train": "train_head",
    },
)
