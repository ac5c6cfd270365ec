"""BatchNormalization behind convolutions whose own was folded away, while training lasts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgeon.plugin import hookimpl
from surgeon.records import Adapter

if TYPE_CHECKING:
    from collections.abc import Iterable


@hookimpl
def surgeon_adapters() -> Iterable[Adapter]:
    """Offer the adapter."""
    yield Adapter(
        "batchnorm", "BatchNormalization back behind convolutions while training lasts",
        "surgeon_batchnorm.adapter:put_back", of="part",
    )  # fmt: skip
