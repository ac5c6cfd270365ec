"""The kinds of heads that come with surgeon, one file each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgeon.plugin import hookimpl
from surgeon.records import HeadKind

if TYPE_CHECKING:
    from collections.abc import Iterable


@hookimpl
def surgeon_heads() -> Iterable[HeadKind]:
    """Offer the heads."""
    position, place = ("length",), ("height", "width")
    yield HeadKind("gemm", "one linear layer", "surgeon_heads.gemm:build", solves=True)
    yield HeadKind("mlp", "two linear layers, Relu and Dropout", "surgeon_heads.mlp:build")
    yield HeadKind("cosine", "the angle to a direction per output", "surgeon_heads.cosine:build")
    yield HeadKind(
        "embed", "a linear layer of length one", "surgeon_heads.embed:build", solves="discriminant"
    )
    yield HeadKind(
        "attention", "tokens weighed by learned queries, then one linear layer",
        "surgeon_heads.attention:build", keeps=position, pools=True,
    )  # fmt: skip
    yield HeadKind(
        "linear", "one linear layer at every position", "surgeon_heads.linear:build",
        keeps=position, solves=True,
    )  # fmt: skip
    yield HeadKind(
        "conv", "1×1 Conv at every place of a map, resized to the picture",
        "surgeon_heads.conv:build", keeps=place, solves=True,
    )  # fmt: skip
