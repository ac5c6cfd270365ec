"""Whether the forward and backward pass run as they are or compiled: decided once, by measurement.

Compiling takes from half a minute to several, so it must have time left to pay. What must not
enter: the loop, the optimiser, anything that changes a result by more than rounding.
"""

from __future__ import annotations

import time
import warnings
from typing import TYPE_CHECKING, Any, Final, Literal

import torch
from torch import nn

from surgeon.tune.device import is_out_of_memory

if TYPE_CHECKING:
    from collections.abc import Callable

Compile = Literal["on", "off", "auto"]

#: Seconds of training still to come from which on compiling is tried, by kind of device. A step
#: gains a tenth to a third; compiling takes one to four minutes on a CPU, less on a GPU.
WORTH: Final = {"cpu": 1800.0, "cuda": 300.0}
#: Steps measured before deciding, after as many that only warm up.
MEASURED: Final = 3
#: Share of the time that a compiled step may take to be used.
_GAIN: Final = 0.97


class Passes:
    """The passes of training over a module, with the choice between its two forms.

    Attributes:
        compiled: True or False once decided, None before.
    """

    def __init__(self, module: nn.Module, wanted: Compile, device: torch.device) -> None:
        self.module = module
        self.device = device
        self.compiled: bool | None = {"off": False}.get(wanted)
        self.force = wanted == "on"
        self.taken: list[float] = []
        self._callable: Callable[..., Any] = module

    def forward(self, *inputs: Any) -> Any:
        """Run the forward pass in the form chosen."""
        return self._callable(*inputs)

    def took(self, seconds: float) -> None:
        """Note how long a step took, while nothing is decided."""
        if self.compiled is None:
            self.taken.append(seconds)

    def is_due(self, steps_left: float, seconds_left: float) -> bool:
        """Tell whether now is the time to try compiling; where it cannot pay, the choice falls."""
        if self.compiled is not None:
            return False
        if self.force:
            return True
        if len(self.taken) < 2 * MEASURED:
            return False
        if min(self.step_seconds() * steps_left, seconds_left) >= WORTH.get(self.device.type, 0):
            return True
        self.compiled = False
        return False

    def step_seconds(self) -> float:
        """Return what a step takes as it is, infinity where none was measured."""
        measured = sorted(self.taken[MEASURED : 2 * MEASURED])
        return measured[len(measured) // 2] if measured else float("inf")

    def resume(self, compiled: bool | None) -> None:
        """Go on in the form an interrupted run had chosen."""
        if compiled is not None and self.compiled is None:
            self.compiled = None if compiled else False
            self.force = compiled

    def attempt(self, once: Callable[[Callable[..., Any]], None], *, varies: bool) -> str:
        """Compile, run a trial twice, and choose; return what people should know.

        Args:
            once: makes one forward and backward pass with the callable it gets, and leaves no
                trace of it.
            varies: whether batches come in more than one size.
        """
        began = time.perf_counter()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the compiler, about itself
                candidate = (
                    _varying(torch.compile(self.module)) if varies else (torch.compile(self.module))
                )
                once(candidate)
                compiling = time.perf_counter() - began
                plain = _seconds(lambda: once(self.module))
                seconds = _seconds(lambda: once(candidate))
        except Exception as error:
            if is_out_of_memory(error):
                raise
            self.compiled = False
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            return f"torch.compile does not work here, training goes on without it: {reason[:200]}"
        self.compiled = self.force or seconds < _GAIN * plain
        if self.compiled:
            self._callable = candidate
        chosen = "used" if self.compiled else "not used"
        return (
            f"compiled in {compiling:.0f} s: {seconds:.3g} s per pass instead of {plain:.3g}, "
            f"{chosen}"
        )


def _seconds(call: Callable[[], None]) -> float:
    best = float("inf")
    for _ in range(2):
        began = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - began)
    return best


def _varying(function: Callable[..., Any]) -> Callable[..., Any]:
    """Tell the compiler that the number of samples changes, so that it compiles once for all."""

    def call(*inputs: Any) -> Any:
        for value in inputs:
            if isinstance(value, torch.Tensor) and value.dim():
                torch._dynamo.maybe_mark_dynamic(value, 0)  # noqa: SLF001 - its documented place
        return function(*inputs)

    return call
