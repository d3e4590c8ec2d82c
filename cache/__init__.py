"""The feature cache: clip tables, feature sets and their parts. No torch: opening a cache is instant."""

from typing import TYPE_CHECKING

from mgcli.cache.lazy import lazy_names

if TYPE_CHECKING:
    from mgcli.cache.class_groups import CLASS_GROUP_NAMES, class_group, classes_by_group
    from mgcli.cache.clips import (
        EMOTION_CLASSES,
        SPLITS,
        TASKS,
        check_clip_table,
        clip_table_csv,
        describe_clips,
        find_clip,
        label_classes,
        read_clip_table,
    )
    from mgcli.cache.cluster import ENGINES, joined_cluster, worker_death
    from mgcli.cache.derive import GRID_KEY, LAYOUTS_KEY, DeriveReport, derive_layout
    from mgcli.cache.doctor import Check, checks_text, installation_checks
    from mgcli.cache.doctor_project import find_project, storage_checks
    from mgcli.cache.durable import committed_file, sync, sync_all, writing
    from mgcli.cache.entry_count import EntryCount, counted
    from mgcli.cache.errors import (
        CacheError,
        ClipTableError,
        ClusterError,
        LeakageError,
        MgcliError,
        NonFiniteTokensError,
        ProjectError,
    )
    from mgcli.cache.exchange_share import is_share
    from mgcli.cache.explain import Explanation, explain_clip
    from mgcli.cache.exporting import ExportReport, export_features
    from mgcli.cache.failures import Failure
    from mgcli.cache.feature_set import FeatureSet
    from mgcli.cache.importing import ImportReport, import_features
    from mgcli.cache.importing_share import ShareReport, import_share
    from mgcli.cache.interrupt import StoppedError, WorkerPool, shielded_children
    from mgcli.cache.leakage import LeakageReport, Overlap, find_leakage, media_names, subjects_are_known
    from mgcli.cache.maintain import CompactReport, GarbageReport, collect_garbage, compact, remove_feature_set
    from mgcli.cache.merge import MergeReport, merge_cache
    from mgcli.cache.named import named_class
    from mgcli.cache.page import (
        Page,
        PageError,
        Section,
        expect_page_place,
        html_data,
        html_details,
        html_figure,
        html_table,
        html_warnings,
        page_text,
    )
    from mgcli.cache.plain_pickle import read_plain_pickle
    from mgcli.cache.progress import Progress, warn
    from mgcli.cache.project import Project, load_project, write_project
    from mgcli.cache.protocols import CLASS_GROUPS, CLASS_NAMES, OWN_VALIDATION, PROTOCOLS, Protocol, class_name
    from mgcli.cache.selection import ClipSelection
    from mgcli.cache.spec import FeatureSpec
    from mgcli.cache.store import FeatureCache, open_cache
    from mgcli.cache.text_table import align_columns
    from mgcli.cache.token_grid import TokenGrid
    from mgcli.cache.token_trace import CLASS_TOKEN, AbsentTokens, TokenTrace, trace_clip
    from mgcli.cache.validation_split import draw_validation
    from mgcli.cache.verify import VerifyReport, verify_cache
    from mgcli.cache.views import VIEWS_KEY
    from mgcli.cache.writer import FeatureWriter

__all__ = [
    "CLASS_GROUPS",
    "CLASS_GROUP_NAMES",
    "CLASS_NAMES",
    "CLASS_TOKEN",
    "EMOTION_CLASSES",
    "ENGINES",
    "GRID_KEY",
    "LAYOUTS_KEY",
    "OWN_VALIDATION",
    "PROTOCOLS",
    "SPLITS",
    "TASKS",
    "VIEWS_KEY",
    "AbsentTokens",
    "CacheError",
    "Check",
    "ClipSelection",
    "ClipTableError",
    "ClusterError",
    "CompactReport",
    "DeriveReport",
    "EntryCount",
    "Explanation",
    "ExportReport",
    "Failure",
    "FeatureCache",
    "FeatureSet",
    "FeatureSpec",
    "FeatureWriter",
    "GarbageReport",
    "ImportReport",
    "LeakageError",
    "LeakageReport",
    "MergeReport",
    "MgcliError",
    "NonFiniteTokensError",
    "Overlap",
    "Page",
    "PageError",
    "Progress",
    "Project",
    "ProjectError",
    "Protocol",
    "Section",
    "ShareReport",
    "StoppedError",
    "TokenGrid",
    "TokenTrace",
    "VerifyReport",
    "WorkerPool",
    "align_columns",
    "check_clip_table",
    "checks_text",
    "class_group",
    "class_name",
    "classes_by_group",
    "clip_table_csv",
    "collect_garbage",
    "committed_file",
    "compact",
    "counted",
    "derive_layout",
    "describe_clips",
    "draw_validation",
    "expect_page_place",
    "explain_clip",
    "export_features",
    "find_clip",
    "find_leakage",
    "find_project",
    "html_data",
    "html_details",
    "html_figure",
    "html_table",
    "html_warnings",
    "import_features",
    "import_share",
    "installation_checks",
    "is_share",
    "joined_cluster",
    "label_classes",
    "lazy_names",
    "load_project",
    "media_names",
    "merge_cache",
    "named_class",
    "open_cache",
    "page_text",
    "read_clip_table",
    "read_plain_pickle",
    "remove_feature_set",
    "shielded_children",
    "storage_checks",
    "subjects_are_known",
    "sync",
    "sync_all",
    "trace_clip",
    "verify_cache",
    "warn",
    "worker_death",
    "write_project",
    "writing",
]

__getattr__ = lazy_names(
    __name__,
    {  # module -> public names in it
        "class_groups": "CLASS_GROUP_NAMES class_group classes_by_group",
        "clips": "EMOTION_CLASSES SPLITS TASKS check_clip_table clip_table_csv describe_clips find_clip label_classes "
        "read_clip_table",
        "cluster": "ENGINES joined_cluster worker_death",
        "derive": "GRID_KEY LAYOUTS_KEY DeriveReport derive_layout",
        "doctor": "Check checks_text installation_checks",
        "doctor_project": "find_project storage_checks",
        "durable": "committed_file sync sync_all writing",
        "entry_count": "EntryCount counted",
        "errors": "CacheError ClipTableError ClusterError LeakageError MgcliError NonFiniteTokensError ProjectError",
        "failures": "Failure",
        "feature_set": "FeatureSet",
        "interrupt": "StoppedError WorkerPool shielded_children",
        "leakage": "LeakageReport Overlap find_leakage media_names subjects_are_known",
        "maintain": "CompactReport GarbageReport collect_garbage compact remove_feature_set",
        "merge": "MergeReport merge_cache",
        "explain": "Explanation explain_clip",
        "exporting": "ExportReport export_features",
        "importing": "ImportReport import_features",
        "importing_share": "ShareReport import_share",
        "exchange_share": "is_share",
        "named": "named_class",
        "page": "Page PageError Section expect_page_place html_data html_details html_figure html_table html_warnings "
        "page_text",
        "plain_pickle": "read_plain_pickle",
        "progress": "Progress warn",
        "project": "Project load_project write_project",
        "protocols": "CLASS_GROUPS CLASS_NAMES OWN_VALIDATION PROTOCOLS Protocol class_name",
        "selection": "ClipSelection",
        "spec": "FeatureSpec",
        "store": "FeatureCache open_cache",
        "views": "VIEWS_KEY",
        "validation_split": "draw_validation",
        "verify": "VerifyReport verify_cache",
        "text_table": "align_columns",
        "token_grid": "TokenGrid",
        "token_trace": "CLASS_TOKEN AbsentTokens TokenTrace trace_clip",
        "writer": "FeatureWriter",
    },
)
