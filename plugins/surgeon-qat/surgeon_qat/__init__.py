"""Quantisation-aware training: a float file becomes a QDQ file of int8 that learns.

`--adapter qat`; the code behind it is imported when it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgeon.plugin import hookimpl
from surgeon.records import Adapter

if TYPE_CHECKING:
    from collections.abc import Iterable


@hookimpl
def surgeon_adapters() -> Iterable[Adapter]:
    """Yield the adapter that quantises a file before it is trained."""
    yield Adapter("qat", "int8 (QDQ) while it trains", "surgeon_qat.quantize:quantize", of="file")
