"""The heads that any fusion result stands beside: simple, and hard to beat on small data.

# Shapes: B batch, N tokens, D token width, W head width, K classes, n clips, F pooled numbers of a clip.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mgcli.fuse.data import Batch
from mgcli.fuse.dropout import Dropout
from mgcli.fuse.head import FittedHead, FusionHead, HeadConfig, HeadError, HeadOutput, TokenRead
from mgcli.fuse.layers import FeedForward, Standardise, TokenPool, masked_mean
from mgcli.fuse.token_statistics import TokenStatistics

# Strength of the L2 penalty of `logistic`, from strong to weak: C as in scikit-learn, divided by n.
LOGISTIC_C = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)


class Single(FusionHead):
    """One modality: a learned query pools its tokens by attention, a small network scores the classes."""

    options = ("width", "num_heads", "dropout")
    steady = True

    def __init__(self, dims: Mapping[str, int], num_classes: int, config: HeadConfig) -> None:
        super().__init__(dims, num_classes, config)
        if len(dims) != 1:
            raise HeadError(
                f"head 'single' takes one modality, not {', '.join(dims)}; try --head single_{next(iter(dims))}"
            )
        self.name, width = self.modalities[0], config.width
        self.pool = TokenPool(dims[self.name], width, config.num_heads, config.dropout)
        self.classify = nn.Sequential(FeedForward(width, dropout=config.dropout), nn.Linear(width, num_classes))

    def set_statistics(self, statistics: Mapping[str, TokenStatistics]) -> None:
        self.pool.set_statistics(statistics[self.name])

    def token_reads(self, counts: Mapping[str, int]) -> list[TokenRead]:
        """The pooling."""
        return [TokenRead(attention=self.pool.pool, tokens={self.name: slice(None)}, asks=self.name)]

    def forward(
        self, tokens: Mapping[str, Tensor], mask: Mapping[str, Tensor], time: Mapping[str, Tensor]
    ) -> HeadOutput:
        pooled = self.pool(tokens[self.name], mask[self.name], time[self.name])  # (B, N, D) -> (B, W)
        return HeadOutput(self.classify(pooled))


class Concat(FusionHead):
    """The mean of each modality's real tokens, all put side by side, and a small network."""

    options = ("width", "dropout")
    steady = True

    def __init__(self, dims: Mapping[str, int], num_classes: int, config: HeadConfig) -> None:
        super().__init__(dims, num_classes, config)
        self.standardise = nn.ModuleDict({name: Standardise(dim) for name, dim in dims.items()})
        self.classify = nn.Sequential(
            nn.LayerNorm(sum(dims.values())),
            nn.Linear(sum(dims.values()), config.width),
            nn.GELU(),
            Dropout(config.dropout),
            nn.Linear(config.width, num_classes),
        )

    def set_statistics(self, statistics: Mapping[str, TokenStatistics]) -> None:
        for name in self.modalities:
            cast(Standardise, self.standardise[name]).set_statistics(statistics[name])

    def forward(
        self, tokens: Mapping[str, Tensor], mask: Mapping[str, Tensor], time: Mapping[str, Tensor]
    ) -> HeadOutput:
        pooled = [masked_mean(self.standardise[name](tokens[name]), mask[name]) for name in self.modalities]
        return HeadOutput(self.classify(torch.cat(pooled, dim=1)))


class ScoreAverage(FusionHead):
    """The average of the class probabilities that each modality's `single` head gives, where it is there.

    The single heads learn side by side, each from its own loss; nothing flows between them.
    """

    options = Single.options
    steady = True

    def __init__(self, dims: Mapping[str, int], num_classes: int, config: HeadConfig) -> None:
        super().__init__(dims, num_classes, config)
        # Without `without`: what is hidden is hidden in the masks that they are given.
        own = HeadConfig(width=config.width, num_heads=config.num_heads, dropout=config.dropout)
        self.singles = nn.ModuleDict({name: Single({name: dim}, num_classes, own) for name, dim in dims.items()})

    def set_statistics(self, statistics: Mapping[str, TokenStatistics]) -> None:
        for single in self.singles.values():
            cast(Single, single).set_statistics(statistics)

    def token_reads(self, counts: Mapping[str, int]) -> list[TokenRead]:
        """The pooling of each single head."""
        return [read for single in self.singles.values() for read in cast(Single, single).token_reads(counts)]

    def forward(
        self, tokens: Mapping[str, Tensor], mask: Mapping[str, Tensor], time: Mapping[str, Tensor]
    ) -> HeadOutput:
        aux = {name: self.singles[name](tokens, mask, time).logits for name in self.modalities}
        present = torch.stack([mask[name].any(dim=1) for name in self.modalities]).float()  # (M, B)
        share = present / present.sum(dim=0).clamp_min(1)
        scores = torch.stack([aux[name].detach().softmax(dim=1) for name in self.modalities])  # (M, B, K)
        average = (scores * share[..., None]).sum(dim=0)
        average = average.where(present.any(dim=0)[:, None], 1 / self.num_classes)
        return HeadOutput(average.clamp_min(1e-8).log(), aux, separate=True)


class Logistic(FittedHead):
    """Multinomial logistic regression on the mean of each modality's real tokens, L2-penalised.

    Minimises the mean cross-entropy plus ||W||^2 / (2 C n) by L-BFGS; C is the one of LOGISTIC_C with the
    lowest cross-entropy on the validation split. The pooled numbers are standardised once more, so that
    one penalty suits all.
    """

    options = ()

    def __init__(self, dims: Mapping[str, int], num_classes: int, config: HeadConfig) -> None:
        super().__init__(dims, num_classes, config)
        self.standardise = nn.ModuleDict({name: Standardise(dim) for name, dim in dims.items()})
        self.standardise_pooled = Standardise(sum(dims.values()))
        self.classify = nn.Linear(sum(dims.values()), num_classes)

    def set_statistics(self, statistics: Mapping[str, TokenStatistics]) -> None:
        for name in self.modalities:
            cast(Standardise, self.standardise[name]).set_statistics(statistics[name])

    def fit(self, train: Sequence[Batch], val: Sequence[Batch]) -> list[dict[str, float]]:
        pooled, labels = self._pool_all(train)
        self.standardise_pooled.set_mean_and_std(pooled.mean(dim=0), pooled.std(dim=0, correction=0))
        pooled = self.standardise_pooled(pooled)
        val_pooled, val_labels = self._pool_all(val) if val else (pooled[:0], labels[:0])
        val_pooled = self.standardise_pooled(val_pooled)
        nn.init.zeros_(self.classify.weight)
        nn.init.zeros_(self.classify.bias)
        history, best_loss, best = [], float("inf"), {}
        for step, c in enumerate(LOGISTIC_C):  # each starts where the stronger penalty ended
            train_loss = self._minimise(pooled, labels, c)
            with torch.no_grad():
                val_loss = float(F.cross_entropy(self.classify(val_pooled), val_labels)) if len(val_labels) else 1 / c
            history.append({"step": step, "c": c, "train_loss": train_loss, "val_loss": val_loss})
            if val_loss < best_loss:
                best_loss = val_loss
                best = {name: value.clone() for name, value in self.classify.state_dict().items()}
        self.classify.load_state_dict(best)
        return history

    def forward(
        self, tokens: Mapping[str, Tensor], mask: Mapping[str, Tensor], time: Mapping[str, Tensor]
    ) -> HeadOutput:
        return HeadOutput(self.classify(self.standardise_pooled(self._pool(tokens, mask))))

    def _pool(self, tokens: Mapping[str, Tensor], mask: Mapping[str, Tensor]) -> Tensor:
        """(B, F): the modalities' means side by side."""
        pooled = [masked_mean(self.standardise[name](tokens[name]), mask[name]) for name in self.modalities]
        return torch.cat(pooled, dim=1)

    @torch.no_grad()
    def _pool_all(self, batches: Sequence[Batch]) -> tuple[Tensor, Tensor]:
        pooled = torch.cat([self._pool(batch.tokens, batch.mask) for batch in batches])  # (n, F)
        return pooled, torch.cat([batch.labels for batch in batches])

    def _minimise(self, pooled: Tensor, labels: Tensor, c: float) -> float:
        parameters = list(self.classify.parameters())
        optimizer = torch.optim.LBFGS(parameters, max_iter=200, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = F.cross_entropy(self.classify(pooled), labels)
            loss = loss + self.classify.weight.square().sum() / (2 * c * len(labels))
            loss.backward()
            return loss

        optimizer.step(closure)
        with torch.no_grad():
            return float(F.cross_entropy(self.classify(pooled), labels))


class Constant(FittedHead):
    """The most frequent class of the training split, whatever the clip shows."""

    options = ()

    log_share: Tensor

    def __init__(self, dims: Mapping[str, int], num_classes: int, config: HeadConfig) -> None:
        super().__init__(dims, num_classes, config)
        self.register_buffer("log_share", torch.zeros(num_classes))

    def fit(self, train: Sequence[Batch], val: Sequence[Batch]) -> list[dict[str, float]]:
        count = torch.cat([batch.labels for batch in train]).bincount(minlength=self.num_classes)
        self.log_share.copy_(((count + 1) / (count.sum() + self.num_classes)).log())
        return []

    def forward(
        self, tokens: Mapping[str, Tensor], mask: Mapping[str, Tensor], time: Mapping[str, Tensor]
    ) -> HeadOutput:
        return HeadOutput(self.log_share.expand(len(next(iter(tokens.values()))), -1))
