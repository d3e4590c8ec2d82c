"""The contract of a frozen backbone, the table of those there are, and how one is made."""

# Shapes: B batch, T frames, H height, W width, C channels, V joints, M people, N tokens, D token width.

from __future__ import annotations

import difflib
import importlib
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, get_args, get_type_hints

import numpy as np
import torch
from torch import Tensor, nn

from mgcli.cache import MgcliError, TokenGrid, named_class
from mgcli.extract.face import DEFAULT_DETECTOR
from mgcli.extract.names import BACKBONES, FAMILIES
from mgcli.extract.shrink import Shrink
from mgcli.extract.skeleton_layouts import JointLayout
from mgcli.extract.weights import PublishedWeights, Weights, resolve_weights
from mgcli.extract.weights_checkpoint import MissingWeightsError, load_weights, read_provenance, state_sha256

_RUN_OPTIONS = {  # what `create_backbone` takes for every backbone -> how a user gives it
    "name": "--backbone",
    "weights": "--weights",
    "tokens": "--tokens",
    "precision": "--precision",
    "device": "--device",
    "weights_dir": "path in [weights] of mgcli.toml",
    "download": "--download",
}
PRECISIONS: dict[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class BackboneError(MgcliError):
    """A backbone, layout or option that does not exist."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """One input of a backbone, ready to be stacked into a batch."""

    inputs: Tensor  # no batch axis; the same shape for every input of a backbone
    time_s: np.ndarray  # (N,) float32, centre of each token in the source video
    valid: np.ndarray  # (N,) bool, False where there was nothing to see


class Backbone(nn.Module, ABC):
    """A frozen network, or fixed computation, that turns frames or skeletons into tokens.

    A subclass takes `tokens` and its other options as keywords, checks them, and leaves them readable in
    `sampling` and `transform`: together with the weights these are all that decides a token's value.
    A clip's tokens are those of its windows, one window after another. Augmented views (`views.py`) need nothing of
    a backbone: they change the times that `windows` gave and the media that `prepare` is given.
    """

    name: ClassVar[str]
    # "video": frames (T, H, W, 3) uint8 RGB; "face": (T, 112, 112, 3) aligned faces, black where there is none;
    # "skeleton": (T, V, 3) float32 x, y, confidence or z
    reads: ClassVar[str]
    layouts: ClassVar[tuple[str, ...]]  # token layouts it offers, default first
    precisions: ClassVar[tuple[str, ...]] = ("float32", "bfloat16")  # it can compute in
    has_weights: ClassVar[bool] = True  # False: a fixed computation
    in_lanes: ClassVar[bool] = False  # on a CPU the inputs of a batch go beside each other (`core_lanes.py`)
    published: ClassVar[PublishedWeights | None] = None
    trained_stem: ClassVar[str] = ""  # of the file that `mgcli backbone-train` makes for it
    weights_hint: ClassVar[str] = ""  # how to come by weights, where it needs some and none are published for it

    tokens: str  # the layout in use
    embed_dim: int  # D
    sampling: dict[str, Any]  # plain values: which frames it sees
    transform: dict[str, Any]  # plain values: what is done to them
    token_grid: TokenGrid | None = None  # of one window in layout `full`, where the smaller ones follow its rules
    joints: JointLayout | None = None  # what skeletons are brought to; None: joints as the file has them
    shrink: Shrink | None = None  # of a reader of "video": done once a frame; `prepare` then gets (T, h, w, 3)
    detector: str = DEFAULT_DETECTOR  # of faces, where the data set gives none
    num_people: int = 1  # of a skeleton file; above 1, `prepare` gets (T, M, V, 3)
    weights: Weights = Weights(name="none")
    trained_on: dict[str, Any] | None = None  # the clips of a checkpoint that `mgcli backbone-train` wrote
    precision: str = "float32"

    @classmethod
    def checkpoint_options(cls, path: Path) -> dict[str, Any]:
        """Options that a checkpoint was made for; by default none. A caller's own go over them.

        Raises:
            WeightsError: the file is damaged.
        """
        return {}

    def load_checkpoint(self, path: Path) -> None:
        """Fill every parameter from a checkpoint file.

        Raises:
            WeightsError: the file is damaged, holds code, or was made for another network.
        """
        load_weights(self, path)

    @abstractmethod
    def windows(self, start_s: float, end_s: float) -> list[np.ndarray]:
        """Times of the frames of each input that the clip [start_s, end_s) gives; (T,) each, ascending."""

    @abstractmethod
    def prepare(self, media: np.ndarray, times_s: np.ndarray) -> Prepared:
        """One input from the frames or skeletons at `times_s`."""

    def finish(self, inputs: Tensor) -> Tensor:
        """What is left of `prepare`, for a batch and on the device: (B, ...) as prepared -> (B, ...) floating.

        By default nothing. So that little is moved, `prepare` may leave pictures in uint8, and this scales them.
        """
        return inputs

    @abstractmethod
    def forward(self, inputs: Tensor) -> Tensor:
        """(B, ...) -> (B, N, D); a clip's tokens do not depend on its batch."""

    def companions(self, tokens: Tensor) -> dict[str, Tensor]:
        """Arrays to keep beside the tokens (B, N, D) that `forward` gave: name -> (B, N, ...); by default none."""
        return {}

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        parameter = next(self.parameters(), None)
        return torch.device("cpu") if parameter is None else parameter.device

    def embed(self, inputs: Tensor) -> Tensor:
        """Tokens of a batch in the backbone's own precision and on its device, given back as float32 on the CPU."""
        return self.embed_with_companions(inputs)[0]  # (B, N, D)

    def embed_with_companions(self, inputs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The same, and what the backbone keeps beside its tokens."""
        tokens, kept = self.embed_on_device(inputs, self)
        return tokens.cpu(), {name: each.cpu() for name, each in kept.items()}

    @torch.inference_mode()
    def embed_on_device(self, inputs: Tensor, network: Callable[[Tensor], Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Tokens and companions in float32, left where they were computed.

        Args:
            inputs: (B, ...), as `prepare` gave them.
            network: this backbone, or this backbone compiled.
        """
        inputs = self.finish(inputs.to(device=self.device, non_blocking=True))
        tokens = network(inputs.to(dtype=PRECISIONS[self.precision]))
        return tokens.float(), {name: each.float() for name, each in self.companions(tokens).items()}


def scale_pictures(pictures: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Scaled to [0, 1] and normalised, as torchvision's video transforms do it.

    Args:
        pictures: (B, T, H, W, 3) uint8.
        mean: of each channel.
        std: of each channel.

    Returns:
        (B, 3, T, H, W) float32.
    """
    x = pictures.permute(0, 4, 1, 2, 3).to(torch.float32, memory_format=torch.contiguous_format).div_(255)
    middle, scale = (_by_channel(tuple(each), x.device) for each in (mean, std))
    return x.sub_(middle).div_(scale)


@lru_cache(64)
def _by_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    """(C, 1, 1, 1), made once: a GPU that is given numbers ends all its work first."""
    with torch.inference_mode(False):
        return torch.tensor(values, device=device).view(-1, 1, 1, 1)


def create_backbone(
    name: str,
    *,
    weights: str | None = None,
    tokens: str | None = None,
    precision: str = "float32",
    device: str | torch.device = "cpu",
    weights_dir: Path | None = None,
    download: bool = False,
    **options: Any,
) -> Backbone:
    """A frozen backbone, ready for `embed`.

    Args:
        name: of the table, `timm:NAME`, `torchvision:NAME`, or `package.module:Class` for a user's own.
        weights: file, name in a weights folder, "random:SEED", or None for the published ones.
        tokens: layout; None for the backbone's default.
        precision: float32 or bfloat16.
        device: where it runs.
        weights_dir: folder that weights are looked for first.
        download: fetch published weights that are nowhere.
        options: of this backbone, such as sampling="uniform".

    Raises:
        BackboneError: unknown name, layout, precision or option.
        WeightsError: weights missing, damaged or for another network.
    """
    kind = backbone_class(name)
    layout = tokens or kind.layouts[0]
    if layout not in kind.layouts:
        raise BackboneError(f"{kind.name} has no token layout {layout!r}; it offers: {', '.join(kind.layouts)}")
    if precision not in kind.precisions:
        raise BackboneError(f"{kind.name} cannot compute in {precision!r}; it can in: {', '.join(kind.precisions)}")
    check_options(kind, options)
    if weights is not None and not kind.has_weights:
        raise BackboneError(f"{kind.name} is computed without weights; leave out weights={weights!r}")
    if weights is None and kind.weights_hint:
        raise MissingWeightsError(
            f"{kind.name} has no published weights to fall back on: give --weights FILE, {kind.weights_hint}; "
            "--weights random:0 runs without (for trying things out: such tokens mean little)"
        )
    wanted = resolve_weights(weights, kind.published, weights_dir=weights_dir, download=download)
    if wanted.path is not None:
        options = kind.checkpoint_options(wanted.path) | options
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(wanted.seed or 0)
        backbone = kind(tokens=layout, **options)
        if wanted.path is not None:
            backbone.load_checkpoint(wanted.path)
            backbone.trained_on = read_provenance(wanted.path).get("trained_on")
    if kind.has_weights and wanted.path is None:
        # random, or filled by the class itself: torch may draw otherwise in another version
        name = "own" if wanted.seed is None else wanted.name
        wanted = Weights(name=name, sha256=state_sha256(backbone), seed=wanted.seed)
    backbone.weights = wanted
    backbone.precision = precision
    backbone.to(device=device, dtype=PRECISIONS[precision])
    return backbone.eval().requires_grad_(False)


def backbone_class(name: str) -> type[Backbone]:
    """The class behind a name of the table, a `FAMILY:NAME` or a `package.module:Class`.

    Raises:
        BackboneError: there is none, or it is no Backbone.
    """
    family, _, member = name.partition(":")
    if family in FAMILIES:
        return family_class(family).member(member)
    found = named_class(name, BACKBONES, Backbone, what="backbone", listing="mgcli backbones", error=BackboneError)
    if BACKBONES.get(found.name) not in (None, f"{found.__module__}:{found.__qualname__}"):
        raise BackboneError(f"{name!r} calls itself {found.name!r}, which is taken; give the class another name")
    return found


def family_class(family: str) -> Any:
    """What all backbones of a family have in common; its `member(NAME)` is the class of one."""
    module_name, _, class_name = FAMILIES[family].partition(":")
    return getattr(importlib.import_module(module_name), class_name)


def accepted_options(kind: type[Backbone]) -> set[str]:
    """Names of the options that a backbone's constructor takes, besides `tokens`."""
    return set(inspect.signature(kind.__init__).parameters) - {"self", "tokens"}


def check_options(kind: type[Backbone], options: Mapping[str, Any]) -> None:
    """Refuse what a backbone's constructor does not take, and what is no option of a backbone but of the run.

    Raises:
        BackboneError: it names the option, and what to give instead.
    """
    known = accepted_options(kind)
    hints = get_type_hints(kind.__init__)
    for option, value in options.items():
        if option in _RUN_OPTIONS:
            raise BackboneError(f"{option} is no option of backbone {kind.name}; give it with {_RUN_OPTIONS[option]}")
        if option not in known:
            near = difflib.get_close_matches(option, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; it takes: {', '.join(sorted(known)) or 'none'}"
            raise BackboneError(f"{kind.name} has no option {option!r}{hint}")
        plain = [each for each in get_args(hints.get(option)) or (hints.get(option),) if isinstance(each, type)]
        fitting = (*plain, int) if float in plain else tuple(plain)
        if plain and not isinstance(value, fitting):
            names = " or ".join(each.__name__ for each in plain)
            raise BackboneError(f"{kind.name}: {option} is {value!r}; it must be {names}")
