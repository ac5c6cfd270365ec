"""Low-rank adapters: few numbers that learn in place of a large weight, folded back into it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from surgeon.plugin import hookimpl
from surgeon.records import Adapter

if TYPE_CHECKING:
    from collections.abc import Iterable


@hookimpl
def surgeon_adapters() -> Iterable[Adapter]:
    """Yield LoRA, with its scaling rsLoRA and its magnitudes DoRA as settings."""
    yield Adapter(
        "lora", "a product of two thin matrices is added to each weight", "surgeon_lora.lora:LoRA",
        lr=2e-3,
    )  # fmt: skip
    yield Adapter(
        "qlora", "thin matrices as nodes beside MatMulNBits, whose 4 bits stay",
        "surgeon_lora.beside:beside", of="file", lr=2e-3, example="surgeon_lora.example:packed",
    )  # fmt: skip
