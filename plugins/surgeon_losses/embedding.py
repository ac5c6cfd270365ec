"""Objectives of vectors: samples of one class near each other, others far.

Vectors come with length one from the head. Class weights of ArcFace are learnt beside the network's
and never leave training. Samples below code 0 are of no known class: neither learnt nor judged.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from surgeon.plugin.settings import Within

FAR = -1e4
"""Similarity ÷ temperature of what is not compared: its exponential is zero."""


class SupCon(nn.Module):
    """The supervised contrastive loss (Khosla et al., arXiv 2004.11362): pairs within a pass.

    A sample is compared with all others of its pass, so large batches serve it; one without another
    of its class there teaches nothing. Judged by recall at 1 within a pass.
    """

    target: ClassVar[Any] = np.int64

    def __init__(self, *, temperature: Annotated[float, Within(1e-3)] = 0.1) -> None:
        super().__init__()
        self.temperature = temperature

    @classmethod
    def of(
        cls,
        targets: Any,  # noqa: ARG003 - no setting follows from them
        outputs: int,  # noqa: ARG003 - the same
        *,
        scratch: bool = False,  # noqa: ARG003 - the same
        **options: float,
    ) -> Self:
        """Make one for training samples."""
        return cls(**options)

    def extra_repr(self) -> str:
        """Tell every setting."""
        return f"temperature={self.temperature}"

    def total(self, targets: Any) -> float:
        """Return how many samples of a batch have another of their class in it."""
        known = targets[targets >= 0]
        counts = np.unique(known, return_counts=True)[1]
        return float(max(counts[counts > 1].sum(), 1))

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the sum over samples that have another of their class."""
        return supcon(outputs, targets, temperature=self.temperature).sum()

    def judge(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the contrastive loss, how many have their nearest in their class, how many can."""
        near, alike, _ = _pairs(outputs, targets)
        right = alike.gather(1, near.argmax(1, keepdim=True)).sum()
        return supcon(outputs, targets).sum(), right, alike.any(1).sum()


class ArcFace(SupCon):
    """Softmax over angles to a direction per class, with a margin (Deng et al., arXiv 1801.07698).

    A sample alone in its pass is learnt from, too, so that batches may have any size. It is judged
    by pairs, as classes that training never saw can be.
    """

    def __init__(
        self,
        classes: int,
        dimensions: int,
        *,
        margin: Annotated[float, Within(0, 3)] = 0.3,
        scale: Annotated[float, Within(1e-3)] = 16.0,
    ) -> None:
        """Draw a direction per class.

        Args:
            classes: of the training samples.
            dimensions: of the vectors.
            margin: radians by which a sample's own class is made to look farther.
            scale: of cosines before the softmax. The paper's 64 and 0.5 are for millions of faces.
        """
        super().__init__()
        self.margin, self.scale = margin, scale
        drawn = torch.randn(classes, dimensions, generator=torch.Generator().manual_seed(0))
        self.weight = nn.Parameter(functional.normalize(drawn))

    @classmethod
    def of(cls, targets: Any, outputs: int, *, scratch: bool = False, **options: float) -> Self:  # noqa: ARG003 - no setting follows from the start
        """Make one for training samples."""
        return cls(int(targets.max(initial=0)) + 1, outputs, **options)

    def begin(self, outputs: Tensor, targets: Tensor) -> None:
        """Turn the direction of each class to the mean of its vectors, as training begins."""
        known = targets >= 0
        sums = torch.zeros_like(self.weight.data)
        sums.index_add_(0, targets[known], functional.normalize(outputs[known]).to(sums))
        some = sums.norm(dim=1) > 0
        self.weight.data[some] = functional.normalize(sums[some])

    def extra_repr(self) -> str:
        """Tell every setting."""
        classes, dimensions = self.weight.shape
        return f"{classes}, {dimensions}, margin={self.margin}, scale={self.scale}"

    def total(self, targets: Any) -> float:
        """Return how many samples are of a known class."""
        return float(max((targets >= 0).sum(), 1))

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the sum of cross-entropies with the margin."""
        known = targets >= 0
        cosine = functional.normalize(outputs) @ functional.normalize(self.weight.to(outputs)).T
        own = functional.one_hot(targets.clamp(min=0), len(self.weight)).bool()
        flat = cosine.clamp(-1 + 1e-6, 1 - 1e-6)
        farther = torch.cos(flat.acos() + self.margin)
        # Behind π − margin the cosine would rise again: the paper's continuation falls on.
        beyond = cosine - self.margin * np.sin(self.margin)
        farther = torch.where(flat > np.cos(np.pi - self.margin), farther, beyond)
        scores = self.scale * torch.where(own, farther, cosine)
        losses = functional.cross_entropy(scores, targets.clamp(min=0), reduction="none")
        return torch.where(known, losses, 0.0).sum()


def supcon(outputs: Tensor, targets: Tensor, *, temperature: float = 0.1) -> Tensor:
    """Return [n] −mean log-probability of the others of a class; 0 for a sample that has none.

    Args:
        outputs: [n, d] vectors of any length.
        targets: [n] classes; below 0 = none.
        temperature: cosines are divided by it.
    """
    near, alike, others = _pairs(outputs, targets)
    scaled = (near / temperature).masked_fill(~others, FAR)
    rest = scaled.logsumexp(1, keepdim=True) - scaled
    counts = alike.sum(1)
    return torch.where(alike, rest, 0.0).sum(1) / counts.clamp(min=1)


def _pairs(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return cosines [n, n], which pairs are of one class, which are compared at all."""
    vectors = functional.normalize(outputs.float())
    near = vectors @ vectors.T
    known = targets >= 0
    others = known[:, None] & known[None] & ~torch.eye(len(known)).bool().to(known.device)
    alike = others & (targets[:, None] == targets[None])
    return near.masked_fill(~others, -2.0), alike, others
