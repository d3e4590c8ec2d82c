"""Any image model of timm, frame by frame, as `timm:NAME`."""

# Shapes: B batch, T frames, H, W height and width, C channels, N tokens, D token width.

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import timm
import timm.data
import torch
from PIL import Image
from torch import Tensor

from mgcli.extract.backbone import Backbone, BackboneError, Prepared, scale_pictures
from mgcli.extract.weights_checkpoint import load_state, read_state_dict
from mgcli.extract.windows import uniform_times


class TimmFrames(Backbone):
    """Features of single frames, from a clip sampled uniformly or at a rate.

    Layouts, for T frames a window:
        time: (T, D), each frame pooled as the model's own classifier would have it.
        full: (T * h * w, C), every place of the model's last map, frame by frame, row by row; class and other
            extra tokens first where the model has them.
        pooled: (1, D), the mean over frames.
    """

    reads = "video"
    layouts = ("time", "full", "pooled")
    weights_hint = "such as the one of its model card on the Hugging Face hub"
    model_name: ClassVar[str]
    network: Any  # a timm model; what they have in common has no type

    def __init__(self, *, tokens: str = "time", num_frames: int = 16, frames_per_s: float | None = None) -> None:
        """Build the network.

        Args:
            tokens: layout.
            num_frames: sampled uniformly from the clip, if no rate is given.
            frames_per_s: look this often instead, evenly over the clip, at least once; each frame is a window.

        Raises:
            BackboneError: a number that makes no sense.
        """
        super().__init__()
        if num_frames < 1 or (frames_per_s is not None and not frames_per_s > 0):
            raise BackboneError(f"num_frames is {num_frames}, frames_per_s {frames_per_s}; both must be above 0")
        self.tokens = tokens
        self.num_frames = 1 if frames_per_s else num_frames
        self.frames_per_s = frames_per_s
        self.network = timm.create_model(self.model_name, num_classes=0).eval()
        config = timm.data.resolve_data_config(pretrained_cfg=self.network.pretrained_cfg)
        self._transform = timm.data.create_transform(**config, is_training=False, normalize=False)
        self._input_size = tuple(config["input_size"])
        self._tokens_per_frame = self._count_tokens() if tokens == "full" else 1
        self.embed_dim = self.network.num_features if tokens == "full" else self.network.head_hidden_size
        self.sampling = {"mode": "uniform", "num_frames": num_frames}
        if frames_per_s:
            self.sampling = {"mode": "uniform", "frames_per_s": float(frames_per_s)}
        self.transform = {key: list(value) if isinstance(value, tuple) else value for key, value in config.items()}

    @classmethod
    def member(cls, model_name: str) -> type[TimmFrames]:
        """The backbone class of one timm model.

        Raises:
            BackboneError: timm has no such model, or not with this tag.
        """
        if not timm.is_model(model_name):
            near = difflib.get_close_matches(model_name, timm.list_models(), n=3)
            hint = f"did you mean {' or '.join(near)}? " if near else ""
            raise BackboneError(f"timm has no model {model_name!r}; {hint}All: timm.list_models()")
        try:
            timm.get_pretrained_cfg(model_name)
        except RuntimeError as error:  # the part of a name after its dot
            tags = ", ".join(timm.list_pretrained(f"{model_name.partition('.')[0]}.*"))
            raise BackboneError(f"timm has no model {model_name!r}; with tags it has: {tags or 'none'}") from error
        members = {"name": f"timm:{model_name}", "model_name": model_name, "__doc__": cls.__doc__}
        return type("TimmFrames", (cls,), members)

    def load_checkpoint(self, path: Path) -> None:
        """Fill every parameter from a checkpoint of this model; its classifier is left out.

        Raises:
            WeightsError: it is damaged, or of another network.
        """
        classifiers = self.network.pretrained_cfg.get("classifier") or ()
        names = (classifiers,) if isinstance(classifiers, str) else tuple(classifiers)
        dropped = tuple(f"{name}." for name in names)
        state = {key: value for key, value in read_state_dict(path).items() if not key.startswith(dropped)}
        load_state(self.network, state, path)

    def windows(self, start_s: float, end_s: float) -> list[np.ndarray]:
        """One window of T frames, or one of a single frame for each look."""
        if self.frames_per_s is None:
            return [uniform_times(start_s, end_s, self.num_frames)]
        count = max(1, round((end_s - start_s) * self.frames_per_s))
        return list(uniform_times(start_s, end_s, count)[:, None])

    def prepare(self, media: np.ndarray, times_s: np.ndarray) -> Prepared:
        """(T, H, W, 3) uint8 RGB -> (T, 3, height, width) uint8, by the model's own data config up to its scaling."""
        inputs = torch.stack([self._transform(Image.fromarray(frame)) for frame in media])
        time_s = np.asarray(times_s, dtype=np.float32)
        if self.tokens == "pooled":
            time_s = time_s.mean(keepdims=True)
        if self.tokens == "full":
            time_s = np.repeat(time_s, self._tokens_per_frame)
        return Prepared(inputs=inputs, time_s=time_s, valid=np.ones(len(time_s), dtype=bool))

    def finish(self, inputs: Tensor) -> Tensor:
        """(B, T, 3, height, width) uint8 -> float32, the rest of it."""
        frames = inputs.flatten(0, 1).permute(0, 2, 3, 1)  # (B * T, height, width, 3)
        scaled = scale_pictures(frames[:, None], self.transform["mean"], self.transform["std"])
        return scaled[:, :, 0].unflatten(0, inputs.shape[:2])  # (B * T, 3, 1, height, width) -> (B, T, 3, ...)

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, T, 3, height, width) -> (B, N, D)."""
        frames = inputs.flatten(0, 1)  # (B * T, 3, height, width)
        features = self.network.forward_features(frames)
        if self.tokens == "full":
            return self._as_tokens(features).reshape(len(inputs), -1, self.embed_dim)
        pooled = self.network.forward_head(features, pre_logits=True).unflatten(0, inputs.shape[:2])  # (B, T, D)
        return pooled.mean(dim=1, keepdim=True) if self.tokens == "pooled" else pooled

    def _as_tokens(self, features: Tensor) -> Tensor:
        """Tokens of each frame, (B * T, N, C), from a map with channels first or last, or from tokens."""
        if features.ndim == 4:
            channels_first = features.shape[1] == self.network.num_features
            return features.flatten(2).transpose(1, 2) if channels_first else features.flatten(1, 2)
        return features

    @torch.inference_mode()
    def _count_tokens(self) -> int:
        """Tokens of one frame, by a look at a blank one."""
        return self._as_tokens(self.network.forward_features(torch.zeros(1, *self._input_size))).shape[1]
