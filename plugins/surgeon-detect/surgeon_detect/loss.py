"""What a detector minimises, on the boxes and probabilities that its file gives.

Boxes are assigned by how well they and their class fit (task alignment: Feng et al., "TOOD", 2021,
as YOLOv8 uses it); a box learns by complete overlap (Zheng et al., "Distance-IoU Loss", 2020), the
classes by cross-entropy against how well the assigned box fits. What must not enter: files.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from surgeon.errors import UnsupportedError
from surgeon_detect import boxes

if TYPE_CHECKING:
    import numpy.typing as npt

NEAREST = 10
"""Boxes that are assigned to each one that is there."""
CLASS, PLACE = 0.5, 6.0
"""Powers of probability and overlap in how well a box fits."""
CLASS_GAIN, PLACE_GAIN = 3.0, 7.5
"""Weights in the loss. Classes are what is new here: YOLOv8, which learns all at once, has 0.5."""
FLOOR = 0.1
"""Least weight of an assigned box: one that overlaps nothing yet has to move."""
TINY = 1e-7
LADDERS = tuple(
    tuple(first << step for step in range(count))
    for count in (3, 2, 4, 1, 5, 6)
    for first in (8, 4, 16, 32, 2)
)
"""Cell sizes of pyramids, the usual ones first."""


class Aligned(nn.Module):
    """Boxes of classes; judged by the average precision of each picture alone."""

    target: ClassVar[npt.DTypeLike] = np.float32
    judges: ClassVar[str] = "picture_ap_50"

    def __init__(self, classes: int) -> None:
        """Take how many classes there are."""
        super().__init__()
        self.classes = classes

    @classmethod
    def of(
        cls,
        targets: npt.NDArray[Any],  # noqa: ARG003 - no setting follows from them
        outputs: int,
        *,
        scratch: bool = False,  # noqa: ARG003 - the same
    ) -> Self:
        """Make one for training samples."""
        return cls(outputs)

    def extra_repr(self) -> str:
        """Tell every setting."""
        return f"classes={self.classes}"

    def total(self, targets: npt.NDArray[Any]) -> float:
        """Return the number of boxes; a picture without any counts as one."""
        return float(np.maximum((targets[..., 0] >= 0).sum(axis=1), 1).sum())

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the sum over a pass."""
        axis, first = boxes.layout(outputs.shape, self.classes)
        columns = outputs.float().movedim(axis, 2)
        middle, half = columns[..., :2], columns[..., 2:4] / 2
        said = torch.cat([middle - half, middle + half], dim=2)
        classes = columns[..., first:]
        there = columns[..., 4:5] if first == 5 else None
        with torch.no_grad():
            scores = classes if there is None else classes * there
            owner, fit = assign(said, scores, targets[:, 1:], _points(targets, said.shape[1]))
        taken = owner >= 0
        chosen = (
            targets[:, 1:].nan_to_num().gather(1, owner.clamp(min=0)[..., None].expand(-1, -1, 5))
        )
        kinds = nn.functional.one_hot(chosen[..., 0].long().clamp(min=0), self.classes)
        wanted = kinds * (fit * taken)[..., None]
        lost = _entropy(classes, wanted if there is None else kinds.to(fit))
        if there is None:
            lost = lost.sum()
        else:
            lost = (lost.sum(dim=2) * fit * taken).sum() + _entropy(
                there[..., 0], fit * taken
            ).sum()
        apart = 1 - complete_overlap(said[taken], chosen[taken][:, 1:])
        return CLASS_GAIN * lost + PLACE_GAIN * (apart * fit[taken].clamp(min=FLOOR)).sum()

    def judge(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss, average precision of each picture, how many boxes there are.

        A picture counts as often as it has boxes.
        """
        told = boxes.decode(outputs.float().cpu().numpy(), self.classes)
        right = targets.cpu().numpy()
        quality, count = 0.0, 0
        for one, wanted in zip(told, right, strict=True):
            found = boxes.matches(one, wanted[wanted[:, 0] >= 0])
            many = max(int((wanted[:, 0] >= 0).sum()), 1)
            quality, count = quality + many * boxes.of_picture(found), count + many
        return self.loss(outputs, targets), outputs.new_tensor(quality), outputs.new_tensor(count)


def assign(said: Tensor, scores: Tensor, targets: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Assign boxes that are said to those that are there.

    Args:
        said: [n, a, 4].
        scores: [n, a, k] probabilities.
        targets: [n, m, 5], NaN where there is none.
        points: [a, 2] where each box that is said lies.

    Returns:
        [n, a] the one that is there, −1 where none; [n, a] how well it fits, 0 to 1.
    """
    real, filled = ~targets[..., 0].isnan(), targets.nan_to_num()
    kinds, there = filled[..., 0].long(), filled[..., 1:]
    overlaps = _overlap(there[:, :, None], said[:, None]).clamp(min=0)
    own = scores.transpose(1, 2).gather(1, kinds[..., None].expand(-1, -1, said.shape[1]))
    fits = own.clamp(min=0) ** CLASS * overlaps**PLACE
    apart = torch.cdist((there[..., :2] + there[..., 2:]) / 2, points[None].to(there))
    nearest = apart <= apart.min(dim=2, keepdim=True).values
    low, high = (points - there[:, :, None, :2]), (there[:, :, None, 2:] - points)
    inside = ((torch.cat([low, high], dim=3) > 0).all(dim=3) | nearest) & real[..., None]
    ranked = torch.where(inside, fits + 1e-12 / (1 + apart), -1.0)
    best = ranked.topk(min(NEAREST, said.shape[1]), dim=2)
    mine = torch.zeros_like(inside).scatter_(2, best.indices, best.values > 0)
    rivals = torch.where(mine, overlaps - 1e-6 * apart, -math.inf)
    top, owner = rivals.max(dim=1) if there.shape[1] else (rivals.new_full((), -math.inf), None)
    if owner is None:
        empty = said.new_zeros(said.shape[:2])
        return empty.long() - 1, empty
    mine &= nn.functional.one_hot(owner, there.shape[1]).transpose(1, 2).bool()
    fits, overlaps = fits * mine, overlaps * mine
    scale = overlaps.amax(dim=2, keepdim=True) / (fits.amax(dim=2, keepdim=True) + 1e-12)
    return torch.where(top.isfinite(), owner, -1), (fits * scale).amax(dim=1)


def complete_overlap(one: Tensor, other: Tensor) -> Tensor:
    """Return overlap less what centres and forms differ by, [n], of boxes [n, 4]."""
    plain = _overlap(one, other)
    low, high = torch.minimum(one[:, :2], other[:, :2]), torch.maximum(one[:, 2:], other[:, 2:])
    diagonal = (high - low).square().sum(dim=1) + TINY
    apart = (one[:, :2] + one[:, 2:] - other[:, :2] - other[:, 2:]).square().sum(dim=1) / 4
    forms = [
        torch.atan((b[:, 2] - b[:, 0]) / (b[:, 3] - b[:, 1]).clamp(min=TINY)) for b in (one, other)
    ]
    form = (4 / math.pi**2) * (forms[0] - forms[1]).square()
    with torch.no_grad():
        share = form / (form - plain + 1 + TINY)
    return plain - apart / diagonal - share * form


def _overlap(one: Tensor, other: Tensor) -> Tensor:
    low = torch.maximum(one[..., :2], other[..., :2])
    high = torch.minimum(one[..., 2:], other[..., 2:])
    inner = (high - low).clamp(min=0).prod(dim=-1)
    areas = [(b[..., 2:] - b[..., :2]).clamp(min=0).prod(dim=-1) for b in (one, other)]
    return inner / (areas[0] + areas[1] - inner + TINY)


def _entropy(said: Tensor, wanted: Tensor) -> Tensor:
    """Return cross-entropy of probabilities; autocast has none."""
    said = said.clamp(TINY, 1 - TINY)
    return -(wanted * said.log() + (1 - wanted) * torch.log1p(-said))


def _points(targets: Tensor, anchors: int) -> Tensor:
    """Return where the boxes of an output lie, [anchors, 2] in pixels."""
    width, height = (int(one) for one in targets[0, 0, 3:].tolist())
    found = points(width, height, anchors)
    return torch.from_numpy(found).to(targets)


@lru_cache(maxsize=16)
def points(width: int, height: int, anchors: int) -> npt.NDArray[np.float32]:
    """Return the middles of the cells of a pyramid, [anchors, 2].

    Args:
        width: of what the network is given.
        height: the same.
        anchors: boxes that it gives: one or three of each cell.

    Raises:
        UnsupportedError: no pyramid of cells has as many.
    """
    for times in (1, 3):
        for ladder in LADDERS:
            grids = [(-(-height // cell), -(-width // cell), cell) for cell in ladder]
            if times * sum(down * across for down, across, _ in grids) == anchors:
                return np.concatenate([_cells(*one, times) for one in grids])
    raise UnsupportedError(
        f"{anchors} boxes of {width}x{height} pixels are no pyramid of cells",
        where="graph output",
        remedy="looked for: one or three boxes a cell, cells of 8, 16, 32 pixels and the like",
    )


def _cells(down: int, across: int, cell: int, times: int) -> npt.NDArray[np.float32]:
    y, x = np.meshgrid(np.arange(down) + 0.5, np.arange(across) + 0.5, indexing="ij")
    return np.tile(np.stack([x.ravel(), y.ravel()], 1) * cell, (times, 1)).astype(np.float32)
