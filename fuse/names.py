"""What there is by name in stage two. No torch: a shell completes from here."""

from __future__ import annotations

HEADS: dict[str, str] = {  # name -> where it is; imported when asked for
    "cross_modal_token_fusion": "mgcli.fuse.head_cross_modal_token_fusion:CrossModalTokenFusion",
    "inter_fusion": "mgcli.fuse.head_inter_fusion:InterFusion",
    "bottleneck": "mgcli.fuse.head_bottleneck:Bottleneck",
    "mult": "mgcli.fuse.head_mult:MulT",
    "low_rank": "mgcli.fuse.head_low_rank:LowRank",
    "gated": "mgcli.fuse.head_gated:Gated",
    "pose_guided": "mgcli.fuse.head_pose_guided:PoseGuided",
    "single": "mgcli.fuse.head_baselines:Single",
    "concat": "mgcli.fuse.head_baselines:Concat",
    "score_average": "mgcli.fuse.head_baselines:ScoreAverage",
    "logistic": "mgcli.fuse.head_baselines:Logistic",
    "constant": "mgcli.fuse.head_baselines:Constant",
}
