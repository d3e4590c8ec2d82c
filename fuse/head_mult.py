"""Crossmodal transformer: each modality is rewritten, layer by layer, by what it finds in each of the others.

Follows "Multimodal Transformer for Unaligned Multimodal Language Sequences" (MulT, Tsai et al., ACL 2019,
arXiv 1906.00295), section 3: for every ordered pair of modalities a crossmodal transformer, whose queries are
the target's tokens and whose keys and values are always the source's first, low-level ones (eq. 4); the
results for one target side by side; a self-attention transformer over them; everything joined for the answer.

Departures:

- the paper's temporal convolutions and sinusoidal positions are here the head's token input with its time
  embedding, and standardising and principal axes before it;
- the results for one target are brought back to the head's width by one linear layer, so that the cost does
  not grow with the square of the number of modalities;
- the paper answers from the last time step of each sequence; here from the mean of the real tokens, as clips
  are padded on the right and have no preferred end; the self-attention transformer has one layer, not three;
- a clip that lacks a modality: as a source it adds nothing, as a target its vector counts as zeros.

# Shapes: B batch, N tokens of a modality, M modalities, D token width, W head width, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from mgcli.fuse.dropout import Dropout
from mgcli.fuse.head import FusionHead, HeadConfig, HeadOutput, TokenRead
from mgcli.fuse.layers import TokenInput, masked_mean
from mgcli.fuse.token_statistics import TokenStatistics
from mgcli.fuse.transformer import CrossAttentionLayer, SelfAttentionLayer


class MulT(FusionHead):
    """Crossmodal transformer (MulT): every modality asks every other, pair by pair, then looks at itself.

    Takes any number of modalities, with a transformer for each ordered pair; with one only self-attention.
    """

    options = ("width", "num_layers", "num_heads", "dropout")
    steady = True

    def __init__(self, dims: Mapping[str, int], num_classes: int, config: HeadConfig) -> None:
        super().__init__(dims, num_classes, config)
        width = config.width
        sizes = (width, config.num_heads, config.dropout)
        self.inputs = nn.ModuleDict({name: TokenInput(dim, width) for name, dim in dims.items()})
        self.sources = {name: [other for other in dims if other != name] for name in dims}
        self.cross = nn.ModuleDict(
            {
                name: nn.ModuleDict(
                    {
                        source: nn.ModuleList(CrossAttentionLayer(*sizes) for _ in range(config.num_layers))
                        for source in self.sources[name]
                    }
                )
                for name in dims
            }
        )
        joins = len(dims) > 1
        self.join = nn.ModuleDict({name: nn.Linear((len(dims) - 1) * width, width) for name in dims} if joins else {})
        self.memory = nn.ModuleDict({name: SelfAttentionLayer(*sizes) for name in dims})
        self.classify = nn.Sequential(
            nn.LayerNorm(len(dims) * width),
            nn.Linear(len(dims) * width, width),
            nn.GELU(),
            Dropout(config.dropout),
            nn.Linear(width, num_classes),
        )

    def set_statistics(self, statistics: Mapping[str, TokenStatistics]) -> None:
        for name in self.modalities:
            cast(TokenInput, self.inputs[name]).set_statistics(statistics[name])

    def forward(
        self, tokens: Mapping[str, Tensor], mask: Mapping[str, Tensor], time: Mapping[str, Tensor]
    ) -> HeadOutput:
        first = {name: self.inputs[name](tokens[name], time[name]) for name in self.modalities}  # (B, N, W)
        vectors = []
        for name in self.modalities:
            x = first[name]
            if self.join:
                found = [self._ask(name, source, first, mask) for source in self.sources[name]]
                x = self.join[name](torch.cat(found, dim=2))  # (B, N, (M - 1) W) -> (B, N, W)
            x = self.memory[name](x, mask[name])
            vectors.append(masked_mean(x, mask[name]))  # (B, W)
        return HeadOutput(self.classify(torch.cat(vectors, dim=1)))

    def token_reads(self, counts: Mapping[str, int]) -> list[TokenRead]:
        """What a modality's tokens, of which the answer takes the mean, look at in each of the others and in itself."""
        layers = cast(Mapping[str, Mapping[str, list[CrossAttentionLayer]]], self.cross)
        memory = cast(Mapping[str, SelfAttentionLayer], self.memory)
        reads = []
        for name in self.modalities:
            read = [(source, layer.attention) for source in self.sources[name] for layer in layers[name][source]]
            reads += [
                TokenRead(attention=attention, tokens={source: slice(None)}, asks=name, readers=None)
                for source, attention in [*read, (name, memory[name].attention)]
            ]
        return reads

    def _ask(self, name: str, source: str, first: Mapping[str, Tensor], mask: Mapping[str, Tensor]) -> Tensor:
        """(B, N, W): a modality's tokens after the crossmodal transformer that reads `source`."""
        x = first[name]
        layers = cast(Mapping[str, Mapping[str, list[CrossAttentionLayer]]], self.cross)
        for layer in layers[name][source]:
            x = layer(x, first[source], mask[source])
        return x
