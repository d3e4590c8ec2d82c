"""Stage one: media in, tokens out. Importing this package loads no torch; its names load what they need."""

from typing import TYPE_CHECKING

from mgcli.cache import lazy_names

if TYPE_CHECKING:
    from mgcli.extract.backbone import (
        Backbone,
        BackboneError,
        Prepared,
        backbone_class,
        create_backbone,
    )
    from mgcli.extract.bench import BenchReport, bench_backbone
    from mgcli.extract.bench_pipeline import PipelineBench, PipelineBenchConfig, bench_extraction
    from mgcli.extract.bench_skeletons import SkeletonBenchReport, bench_skeleton_reading
    from mgcli.extract.catalogue import describe_backbones, describe_datasets, describe_weights, weights_are_here
    from mgcli.extract.check import CheckReport, check_dataset
    from mgcli.extract.dataset import (
        DATASETS,
        DatasetError,
        DatasetProtocol,
        choose_protocol,
        load_dataset,
        load_project_clips,
        table_notes,
    )
    from mgcli.extract.dataset_demo import DEMO_POSE_SETTINGS, DemoConfig, make_demo, pose_labels
    from mgcli.extract.doctor import extract_checks
    from mgcli.extract.engine import EngineError
    from mgcli.extract.explain import explain_extraction
    from mgcli.extract.face import Face, FaceDetector, FaceError, align_face, read_faces
    from mgcli.extract.names import BACKBONES, MODALITIES, Modality
    from mgcli.extract.pipeline import extract_modalities
    from mgcli.extract.report import ExtractReport, ModalityReport
    from mgcli.extract.run_clock import RunProfile
    from mgcli.extract.shard import Shard
    from mgcli.extract.shrink import Shrink
    from mgcli.extract.skeleton import Skeleton, read_skeleton
    from mgcli.extract.skeleton_hands import hand_order
    from mgcli.extract.skeleton_layouts import LAYOUTS, JointLayout, LayoutError, SkeletonError, joint_layout
    from mgcli.extract.source import add_sources
    from mgcli.extract.train_pose import PoseTrainReport, train_pose_backbone
    from mgcli.extract.train_pose_clips import BackboneTrainError
    from mgcli.extract.video import DecodePlan, VideoError, VideoIndex, index_video, plan_decode
    from mgcli.extract.video_decode import DecodeCount, decode_frames
    from mgcli.extract.view_joined import Answer, ViewedClip, look_at_clip
    from mgcli.extract.view_media import ClipMedia, view_clip
    from mgcli.extract.viewer import viewer_section
    from mgcli.extract.views import ClipView, ViewConfig, ViewError, mirror_joints
    from mgcli.extract.weights import PublishedWeights, download_weights, weights_folders
    from mgcli.extract.weights_checkpoint import WeightsError, read_provenance
    from mgcli.extract.weights_import import ImportedWeights, import_weights

__all__ = [
    "BACKBONES",
    "DATASETS",
    "DEMO_POSE_SETTINGS",
    "LAYOUTS",
    "MODALITIES",
    "Answer",
    "Backbone",
    "BackboneError",
    "BackboneTrainError",
    "BenchReport",
    "CheckReport",
    "ClipMedia",
    "ClipView",
    "DatasetError",
    "DatasetProtocol",
    "DecodeCount",
    "DecodePlan",
    "DemoConfig",
    "EngineError",
    "ExtractReport",
    "Face",
    "FaceDetector",
    "FaceError",
    "ImportedWeights",
    "JointLayout",
    "LayoutError",
    "Modality",
    "ModalityReport",
    "PipelineBench",
    "PipelineBenchConfig",
    "PoseTrainReport",
    "Prepared",
    "PublishedWeights",
    "RunProfile",
    "Shard",
    "Shrink",
    "Skeleton",
    "SkeletonBenchReport",
    "SkeletonError",
    "VideoError",
    "VideoIndex",
    "ViewConfig",
    "ViewError",
    "ViewedClip",
    "WeightsError",
    "add_sources",
    "align_face",
    "backbone_class",
    "bench_backbone",
    "bench_extraction",
    "bench_skeleton_reading",
    "check_dataset",
    "choose_protocol",
    "create_backbone",
    "decode_frames",
    "describe_backbones",
    "describe_datasets",
    "describe_weights",
    "download_weights",
    "explain_extraction",
    "extract_checks",
    "extract_modalities",
    "hand_order",
    "import_weights",
    "index_video",
    "joint_layout",
    "load_dataset",
    "load_project_clips",
    "look_at_clip",
    "make_demo",
    "mirror_joints",
    "plan_decode",
    "pose_labels",
    "read_faces",
    "read_provenance",
    "read_skeleton",
    "table_notes",
    "train_pose_backbone",
    "view_clip",
    "viewer_section",
    "weights_are_here",
    "weights_folders",
]

__getattr__ = lazy_names(
    __name__,
    {  # module -> public names in it
        "backbone": "Backbone BackboneError Prepared backbone_class create_backbone",
        "bench": "BenchReport bench_backbone",
        "bench_skeletons": "SkeletonBenchReport bench_skeleton_reading",
        "bench_pipeline": "PipelineBench PipelineBenchConfig bench_extraction",
        "catalogue": "describe_backbones describe_datasets describe_weights weights_are_here",
        "check": "CheckReport check_dataset",
        "dataset": "DATASETS DatasetError DatasetProtocol choose_protocol load_dataset load_project_clips table_notes",
        "dataset_demo": "DEMO_POSE_SETTINGS DemoConfig make_demo pose_labels",
        "doctor": "extract_checks",
        "engine": "EngineError",
        "face": "Face FaceDetector FaceError align_face read_faces",
        "explain": "explain_extraction",
        "names": "BACKBONES MODALITIES Modality",
        "pipeline": "extract_modalities",
        "report": "ExtractReport ModalityReport",
        "run_clock": "RunProfile",
        "shard": "Shard",
        "shrink": "Shrink",
        "skeleton": "Skeleton read_skeleton",
        "skeleton_hands": "hand_order",
        "skeleton_layouts": "LAYOUTS JointLayout LayoutError SkeletonError joint_layout",
        "source": "add_sources",
        "train_pose": "PoseTrainReport train_pose_backbone",
        "train_pose_clips": "BackboneTrainError",
        "video": "DecodePlan VideoError VideoIndex index_video plan_decode",
        "video_decode": "DecodeCount decode_frames",
        "view_media": "ClipMedia view_clip",
        "view_joined": "Answer ViewedClip look_at_clip",
        "viewer": "viewer_section",
        "views": "ClipView ViewConfig ViewError mirror_joints",
        "weights": "PublishedWeights download_weights weights_folders",
        "weights_checkpoint": "WeightsError read_provenance",
        "weights_import": "ImportedWeights import_weights",
    },
)
