"""The feature cache: clip tables, feature sets and their parts. No torch: opening a cache is instant."""

from mgcli.cache.clips import (
    EMOTION_CLASSES,
    SPLITS,
    TASKS,
    check_clip_table,
    describe_clips,
    draw_validation,
    label_classes,
    read_clip_table,
)
from mgcli.cache.durable import committed_file, writing
from mgcli.cache.errors import CacheError, ClipTableError, MgcliError, NonFiniteTokensError, ProjectError
from mgcli.cache.exchange import ImportReport, import_features
from mgcli.cache.maintain import VerifyReport, remove_feature_set, verify_cache
from mgcli.cache.project import Project, load_project, write_project
from mgcli.cache.spec import FeatureSpec
from mgcli.cache.store import Failure, FeatureCache, FeatureSet, open_cache
from mgcli.cache.writer import FeatureWriter

__all__ = [
    "EMOTION_CLASSES",
    "SPLITS",
    "TASKS",
    "CacheError",
    "ClipTableError",
    "Failure",
    "FeatureCache",
    "FeatureSet",
    "FeatureSpec",
    "FeatureWriter",
    "ImportReport",
    "MgcliError",
    "NonFiniteTokensError",
    "Project",
    "ProjectError",
    "VerifyReport",
    "check_clip_table",
    "committed_file",
    "describe_clips",
    "draw_validation",
    "import_features",
    "label_classes",
    "load_project",
    "open_cache",
    "read_clip_table",
    "remove_feature_set",
    "verify_cache",
    "write_project",
    "writing",
]
