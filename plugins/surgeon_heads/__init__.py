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
    yield HeadKind("gemm", "one linear layer", "surgeon_heads.gemm:build", solves=True)
