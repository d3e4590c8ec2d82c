"""FusionHead, the contract of every head, and how one is made by name.

# Shapes: B batch, N tokens of one modality, D token width, K classes.
"""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor, nn

from mgcli.cache import MgcliError, named_class
from mgcli.fuse.data import Batch
from mgcli.fuse.names import HEADS
from mgcli.fuse.token_statistics import TokenStatistics

if TYPE_CHECKING:
    from mgcli.fuse.layers import Attention

CROSS_TOKENS = ("all", "class", "bottleneck")
_MOST = {  # size -> beyond it no memory holds the head, or nobody waits for it
    "width": 2**14,
    "num_layers": 1000,
    "num_heads": 2**14,
    "num_queries": 10**4,
    "num_bottlenecks": 10**4,
    "rank": 2**14,
}


class HeadError(MgcliError):
    """A head that does not exist, or that cannot be built as asked."""


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """Sizes and choices of a head; each head reads the fields that its `options` name."""

    width: int = 96  # every token is projected to this
    num_layers: int = 2
    num_heads: int = 4  # attention heads
    num_queries: int = 4  # vectors that sum up a modality, inter_fusion
    num_bottlenecks: int = 4  # tokens that modalities share, where they are the only way across
    rank: int = 64  # of the product of modalities
    cross_tokens: Literal["all", "class", "bottleneck"] = "all"  # what crosses over, cross_modal_token_fusion
    guide: str = ""  # modality that asks the others, pose_guided; by default pose, else the last
    dropout: float = 0.1
    without: str = ""  # modalities that it is not shown, joined by +; every head reads this

    def __post_init__(self) -> None:
        for name, most in _MOST.items():
            if not 1 <= getattr(self, name) <= most:
                raise HeadError(f"{name} is {getattr(self, name)}; it must be 1 or more, and {most} at most")
        if self.width % self.num_heads:
            raise HeadError(f"width {self.width} does not divide into {self.num_heads} attention heads")
        if not 0 <= self.dropout < 1:
            raise HeadError(f"dropout is {self.dropout}; it must be at least 0 and below 1")
        if self.cross_tokens not in CROSS_TOKENS:
            raise HeadError(f"cross_tokens is {self.cross_tokens!r}; it must be {', '.join(CROSS_TOKENS)}")


@dataclass(frozen=True)
class HeadOutput:
    """What a head says of a batch."""

    logits: Tensor  # (B, K)
    aux: dict[str, Tensor] = field(default_factory=dict)  # modality -> (B, K), its answer by itself
    separate: bool = False  # every answer by itself is learned whole, whatever aux_weight; none from `logits`


@dataclass(frozen=True, kw_only=True)
class TokenRead:
    """A place in a head where vectors that the answer is made from look at tokens: see `FusionHead.token_reads`."""

    attention: Attention
    tokens: dict[str, slice]  # modality -> where its tokens stand in the row that is attended to
    asks: str | None = None  # modality that the vectors sum up: what a clip lacks does not count; None: of all
    readers: slice | None = field(
        default_factory=lambda: slice(None)
    )  # which queries they are; None: the real tokens of `asks`


class FusionHead(nn.Module, ABC):
    """Tokens of one or more modalities in, one score a class out.

    A clip that lacks a modality has an all-False row in that modality's mask. What stands under a False
    mask, as long as it is a number, never changes a logit, and no clip's logits depend on the rest of the batch.
    """

    options: ClassVar[tuple[str, ...] | None] = None  # fields of HeadConfig that it reads; None: not told
    # Whether every pass in training runs the same operations, whatever the tokens say: no `if` that looks at their
    # numbers, no count of passes, no chance of Python's own. On a GPU steps are then recorded and repeated.
    steady: ClassVar[bool] = False
    shown: Tensor  # (M,) bool

    def __init__(self, dims: Mapping[str, int], num_classes: int, config: HeadConfig) -> None:
        """`dims` gives the token width of each modality, `num_classes` is K.

        Raises:
            HeadError: it is to be without a modality that is not there, or without all.
        """
        super().__init__()
        self.modalities = tuple(dims)
        self.num_classes = num_classes
        self.config = config
        hidden = modalities_without(config.without, self.modalities)
        self.hides = bool(hidden)
        # A buffer, so that each of a stack can have its own; the settings say it, so a checkpoint does not need it.
        shown = torch.tensor([name not in hidden for name in self.modalities])
        self.register_buffer("shown", shown, persistent=False)
        self.register_forward_pre_hook(_hide)

    @abstractmethod
    def forward(
        self, tokens: Mapping[str, Tensor], mask: Mapping[str, Tensor], time: Mapping[str, Tensor]
    ) -> HeadOutput:
        """Score every class.

        Args:
            tokens: modality -> (B, N, D) float; N may differ between modalities and from batch to batch.
            mask: modality -> (B, N) bool.
            time: modality -> (B, N) float, 0 at the clip's start and 1 at its end.
        """

    def set_statistics(self, statistics: Mapping[str, TokenStatistics]) -> None:
        """Take in what the training tokens look like, before the first step; by default nothing."""

    def token_reads(self, counts: Mapping[str, int]) -> list[TokenRead]:
        """Where the head attends to its tokens on the way to the answer; by default it does not say.

        It is asked by `mgcli.fuse.attention`, which watches these attentions from outside while the head scores
        clips: training and scores take no notice of it.

        Args:
            counts: modality -> N, tokens of each in the batch.
        """
        return []


def modalities_without(words: str, modalities: Sequence[str]) -> set[str]:
    """Those of the setting `without`.

    Raises:
        HeadError: one is not among `modalities`, or none would be left.
    """
    hidden = {word.strip() for word in words.split("+") if word.strip()}
    for name in hidden:
        if name not in modalities:
            near = difflib.get_close_matches(name, modalities, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise HeadError(f"without is {words!r}, but there is no modality {name!r}; {hint}{', '.join(modalities)}")
    if len(hidden) == len(modalities):
        raise HeadError(f"without is {words!r}, which leaves no modality to look at")
    return hidden


def _hide(head: nn.Module, given: tuple[Mapping[str, Tensor], ...]) -> tuple[Mapping[str, Tensor], ...] | None:
    """Runs before `forward`: masks of what the head is not shown become False."""
    assert isinstance(head, FusionHead)
    if not head.hides:
        return None
    tokens, mask, *rest = given
    return tokens, {name: mask[name] & head.shown[i] for i, name in enumerate(head.modalities)}, *rest


class FittedHead(FusionHead):
    """A head with a fit of its own in place of the training loop, and without chance in it."""

    @abstractmethod
    def fit(self, train: Sequence[Batch], val: Sequence[Batch]) -> list[dict[str, float]]:
        """Set every parameter; return rows for `history.csv`."""


def side_by_side(names: Sequence[str], counts: Mapping[str, int], first: int = 0) -> dict[str, slice]:
    """Where the tokens of modalities stand in a row that has them one modality after another.

    Args:
        names: modalities in their order.
        counts: tokens of each.
        first: vectors before each modality's tokens, such as a class token.
    """
    places, end = {}, 0
    for name in names:
        places[name] = slice(end + first, end + first + counts[name])
        end += first + counts[name]
    return places


def create_head(name: str, dims: Mapping[str, int], num_classes: int, config: HeadConfig | None = None) -> FusionHead:
    """A head with fresh weights, drawn from torch's global generator.

    Args:
        name: one of HEADS, or `package.module:Class` for a user's own.
        dims: token width of each modality.
        num_classes: how many classes to tell apart.
        config: sizes.

    Raises:
        HeadError: no head of that name, or a user's own that cannot be made or does not answer as a head must.
    """
    kind, config = head_class(name), config or HeadConfig()
    if name in HEADS:
        return kind(dims, num_classes, config)
    try:
        head = kind(dims, num_classes, config)
        fault = _fault_of(head, dims)
    except HeadError:
        raise
    except Exception as error:  # whatever a user's own code may raise
        first = (str(error).strip().splitlines() or [""])[0]
        raise HeadError(f"head {name!r} fails: {type(error).__name__}: {first}") from error
    if fault:
        raise HeadError(f"head {name!r} {fault}; see FusionHead in mgcli.fuse.head")
    return head


def _fault_of(head: FusionHead, dims: Mapping[str, int]) -> str:
    """What is wrong with the answers of a user's own head to two clips of zeros; empty where nothing is."""
    if isinstance(head, FittedHead):
        return ""
    if not any(each.requires_grad for each in head.parameters()):
        return "has no parameter to train"
    tokens = {name: torch.zeros(2, 3 + i, dim) for i, (name, dim) in enumerate(dims.items())}
    mask = {name: torch.ones(each.shape[:2], dtype=torch.bool) for name, each in tokens.items()}
    time = {name: torch.linspace(0, 1, each.shape[1]).expand(2, -1) for name, each in tokens.items()}
    head.eval()
    with torch.no_grad():
        output = head(tokens, mask, time)
    head.train()
    if not isinstance(output, HeadOutput):
        return f"gives {type(output).__name__}, not a HeadOutput"
    unknown = [name for name in output.aux if name not in dims]
    if unknown:
        return f"gives an answer of modality {unknown[0]!r} by itself, which it does not read"
    for what, each in {"logits": output.logits, **output.aux}.items():
        if each.shape != (2, head.num_classes):
            return f"gives {what} of shape {tuple(each.shape)} for 2 clips and {head.num_classes} classes"
    return ""


def check_options(name: str, config: HeadConfig, say: Callable[[str], None]) -> None:
    """Say which fields of `config` were changed in vain: the head `name` does not read them."""
    reads, usual = head_class(name).options, HeadConfig()
    changed = [
        each.name
        for each in fields(config)
        if each.name != "without" and getattr(config, each.name) != getattr(usual, each.name)
    ]
    unread = [] if reads is None else [each for each in changed if each not in reads]
    if unread:
        say(f"head {name!r} does not read {', '.join(unread)}; its options: {', '.join(reads or ()) or 'none'}")


def head_class(name: str) -> type[FusionHead]:
    """The class behind a name of HEADS or a `package.module:Class`.

    Raises:
        HeadError: there is none, or it is no FusionHead; the message suggests the nearest.
    """
    return named_class(name, HEADS, FusionHead, what="head", listing="mgcli heads", error=HeadError)
