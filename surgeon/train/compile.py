"""The form in which the forward and backward pass run: as they are, compiled, or as CUDA graphs.

Decided by measurement. Compiling takes from half a minute to several, so it must have time left to
pay. What is measured is work: on a CPU the seconds that this process computes, so that whatever
runs beside it does not count. A form that turns out slower is left again. What must not enter: the
loop, the optimiser, anything that changes a result by more than rounding, the number of epochs or
what ends them.
"""

from __future__ import annotations

import gc
import math
import time
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

import torch
from torch import nn

from surgeon.train.device import is_out_of_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Compile = Literal["on", "off", "auto"]

#: Steps measured before deciding, at least, after as many that only warm up.
MEASURED: Final = 3
#: Share of the seconds from which on a form is worth its while that training must really have
#: taken before: no job of half a minute is mistaken for one of half an hour.
_EVIDENCE: Final = 1 / 60
#: A form whose steps take this much longer than plain ones did is left again.
_SLOWER: Final = 1.05
#: Share of the time that a pass may take in another form for that form to be used.
_GAIN: Final = 0.97
#: Passes timed in each form: the best counts. The first of a graph only records it.
_TIMED: Final = 3
#: Compiled forms of one code object that a process may hold; torch's own limit is 8.
_RECOMPILE: Final = 64
#: A form asked for by `on` is tried if it is worth its while in this many seconds.
_ASKED: Final = 1800.0


@dataclass(frozen=True)
class Form:
    """One way to run the passes.

    Attributes:
        name: as people read it.
        worth: seconds of training still to come from which on it is tried.
        options: of `torch.compile`.
        graphs: whether a step is recorded and replayed: results live until the next one only.
    """

    name: str
    worth: float
    options: Mapping[str, Any] = field(default_factory=dict)
    graphs: bool = False


#: By kind of device, in the order of trial. A step gains a tenth to a third by compiling, which
#: takes one to four minutes on a CPU and less on a GPU. CUDA graphs need no compiler: they spare
#: the launching of kernels, which decides where kernels are short.
FORMS: Final = {
    "cpu": (Form("compiled", 1800.0),),
    "cuda": (
        Form("CUDA graphs", 120.0, {"backend": "cudagraphs", "dynamic": False}, graphs=True),
        Form("compiled", 300.0),
        Form(
            "compiled, CUDA graphs",
            300.0,
            {"mode": "reduce-overhead", "dynamic": False},
            graphs=True,
        ),
        Form("compiled, autotuned", 3600.0, {"mode": "max-autotune-no-cudagraphs"}),
    ),
}


def work_seconds(device: torch.device) -> float:
    """Return a clock's reading, in seconds of work on a device.

    On a CPU: of this process, all of its threads together, by the number of torch's. That is at
    most what a wall clock says, and the same beside other work. A GPU is waited for.
    """
    if device.type != "cpu":
        return time.perf_counter()
    return time.process_time() / max(torch.get_num_threads(), 1)


class Passes:
    """The passes of training over a module, with the choice between their forms.

    Attributes:
        compiled: True or False once decided, None before.
        form: the form in use, None = as they are.
        decision: what was chosen and what it was estimated from, None where nothing was.
    """

    def __init__(
        self, module: nn.Module, wanted: Compile, device: torch.device, *, measured: bool = True
    ) -> None:
        """Take a module; `measured` False = no choice by the clock, which does not repeat."""
        self.measured = measured
        self.module = module
        self.device = device
        self.compiled: bool | None = {"off": False}.get(wanted)
        self.form: Form | None = None
        self.force = wanted == "on"
        self.taken: list[float] = []
        self.decision: dict[str, Any] | None = None
        self._plain = math.inf  # seconds of a step as it is, once another form is in use
        self._callable: Callable[..., Any] = module

    def forward(self, *inputs: Any) -> Any:
        """Run the forward pass in the form chosen."""
        return self._callable(*inputs)

    @property
    def timing(self) -> bool:
        """Whether steps are timed, so that every one is waited for."""
        return self.compiled is None or math.isfinite(self._plain)

    def took(self, seconds: float) -> str | None:
        """Note the work of a step while that matters; return what people should know, if anything.

        While nothing is decided, steps tell what one takes. Afterwards the first ones in the form
        chosen are compared with those before.
        """
        if not self.timing:
            return None
        self.taken.append(seconds)
        if self.compiled is None or len(self.taken) < 2 * MEASURED:
            return None
        plain, self._plain = self._plain, math.inf
        now = self.step_seconds()
        if self.decision is not None:
            self.decision["step_seconds_after"] = now
        if now <= _SLOWER * plain:
            return None
        name = self.form.name if self.form else ""
        self.end()
        self.form, self.compiled = None, False
        if self.decision is not None:
            self.decision["chosen"] = "as they are"
        return f"{name}: {now:.3g} s per step instead of {plain:.3g}: left again"

    def is_due(self, steps_left: float, seconds_left: float) -> bool:
        """Tell whether now is the time to try other forms; if none can pay, the choice falls."""
        if self.compiled is not None:
            return False
        if self.force:
            return True
        forms = FORMS.get(self.device.type, FORMS["cpu"])
        needed = _EVIDENCE * min(form.worth for form in forms)
        if len(self.taken) < 2 * MEASURED or sum(self.taken[MEASURED:]) < needed:
            return False
        left = self.left(steps_left, seconds_left)
        self.decision = {
            "what": "compile",
            "chosen": "as they are",
            "steps": len(self.taken) - MEASURED,
            "step_seconds": self.step_seconds(),
            "seconds_left": left,
        }
        if self._tried(left, several=False):
            return True
        self.compiled = False
        return False

    def left(self, steps_left: float, seconds_left: float) -> float:
        """Return the seconds of training still to come, infinity where nothing was measured."""
        return min(self.step_seconds() * steps_left, seconds_left)

    def step_seconds(self) -> float:
        """Return what a step takes in the form in use, infinity where none was measured."""
        measured = sorted(self.taken[MEASURED:])
        return measured[len(measured) // 2] if measured else math.inf

    def resume(self, compiled: bool | None) -> None:
        """Go on in the form an interrupted run had chosen."""
        if compiled is not None and self.compiled is None:
            self.compiled = None if compiled else False
            self.force = compiled

    def attempt(
        self,
        once: Callable[[Callable[..., Any]], None],
        *,
        varies: bool,
        left: float = math.inf,
        several: bool = False,
    ) -> str:
        """Try the forms for which there is time, and choose; return what people should know.

        Args:
            once: makes one forward and backward pass with the callable it gets, waits for the
                device, and leaves no trace of it.
            varies: whether batches come in more than one size.
            left: seconds of training still to come.
            several: whether a step has several passes, whose gradients add up. A graph's gradients
                live until its next replay only, so that graphs are left out.

        """
        forms = self._tried(left, several=several)
        plain = self._seconds(once, self.module)  # before anything holds memory of its own
        best: tuple[float, Form, Callable[..., Any]] | None = None
        told, failed = [], []
        for form in forms:
            candidate, compiling, seconds = self._trial(form, once, varies=varies)
            if isinstance(candidate, str):
                failed.append(f"{form.name}: {candidate}" if len(forms) > 1 else candidate)
                continue
            told.append(
                f"{form.name} in {compiling:.0f} s: {seconds:.3g} s per pass instead of {plain:.3g}"
            )
            if best is None or seconds < best[0]:
                best = seconds, form, candidate
            if len(forms) > 1:  # a recorded pass holds its memory for as long as it is known
                del candidate
                _forget(self.device)
        self.compiled = best is not None and (self.force or best[0] < _GAIN * plain)
        if best is not None and self.compiled:
            _, self.form, self._callable = best
            if not self.force:  # asked for, it stays
                self._plain, self.taken = self.step_seconds(), []
            if self.decision is not None:
                self.decision["chosen"] = self.form.name
        if not told:
            said = "; ".join(failed) or "no form fits"
            return f"torch.compile does not work here, training goes on without it: {said}"
        chosen = "used" if self.form is None or len(forms) == 1 else f"{self.form.name} used"
        text = "; ".join(told) + f"; {chosen if self.compiled else 'not used'}"
        return text + (f" (failed: {'; '.join(failed)})" if failed else "")

    def between(self) -> None:
        """Save gradients from the next pass of a step: a graph's live until its next replay."""
        if self.form is not None and self.form.graphs:
            for parameter in self.module.parameters():
                if parameter.grad is not None:
                    parameter.grad = parameter.grad.clone()

    def end(self) -> None:
        """Let go of what was compiled, and of the memory that recorded passes hold."""
        self._callable = self.module
        if self.form is not None:
            _forget(self.device)

    def _trial(
        self, form: Form, once: Callable[[Callable[..., Any]], None], *, varies: bool
    ) -> tuple[Callable[..., Any] | str, float, float]:
        """Return a form that works, or why it does not; seconds of compiling and of a pass."""
        began = time.perf_counter()
        try:
            candidate = self._made(form, varies=varies)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the compiler, about itself
                once(candidate)
                compiling = time.perf_counter() - began
                return candidate, compiling, self._seconds(once, candidate)
        except Exception as error:
            # The plain pass fits into memory: on a GPU another form's need is no reason to halve.
            if is_out_of_memory(error) and self.device.type == "cpu":
                raise
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        _forget(self.device)  # out here: the error's frames held the pass's memory
        return reason, 0.0, 0.0

    def _seconds(
        self, once: Callable[[Callable[..., Any]], None], forward: Callable[..., Any]
    ) -> float:
        best = math.inf
        for _ in range(_TIMED):
            began = work_seconds(self.device)
            once(forward)
            best = min(best, work_seconds(self.device) - began)
        return best

    def _tried(self, left: float, *, several: bool) -> list[Form]:
        """Return the forms that are worth trying with this much time to come."""
        limit = left
        if self.force:  # asked for: all but what takes many minutes, unless hours are to come
            limit = _ASKED if math.isinf(left) else max(left, _ASKED)
        forms = FORMS.get(self.device.type, FORMS["cpu"])
        if not self.measured:  # the first alone: on a GPU torch's own kernels, as without it
            forms = forms[:1]
        return [f for f in forms if f.worth <= limit and not (several and f.graphs)]

    def _made(self, form: Form, *, varies: bool) -> Callable[..., Any]:
        # All graph modules share one code object, whose compiled forms are counted together.
        limits = torch._dynamo.config  # noqa: SLF001 - its documented place
        if hasattr(limits, "recompile_limit"):  # torch 2.6 has it under another name
            limits.recompile_limit = max(_RECOMPILE, limits.recompile_limit)
        # Random operators draw the same numbers in every form: which one is used may not show.
        torch._inductor.config.fallback_random = True  # noqa: SLF001 - its documented place
        compiled: Callable[..., Any] = torch.compile(self.module, **form.options)
        if form.graphs:  # a graph is recorded for every size by itself

            def marked(*inputs: Any) -> Any:
                torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
                return compiled(*inputs)

            return marked
        return _varying(compiled) if varies else compiled


def _forget(device: torch.device) -> None:
    """Let go of all that was compiled for a GPU; what goes on is compiled again, from a cache."""
    if device.type == "cuda":
        torch.compiler.reset()
        gc.collect()
        torch.cuda.empty_cache()


def _varying(function: Callable[..., Any]) -> Callable[..., Any]:
    """Tell the compiler that the number of samples changes, so that it compiles once for all."""

    def call(*inputs: Any) -> Any:
        for value in inputs:
            if isinstance(value, torch.Tensor) and value.dim():
                torch._dynamo.maybe_mark_dynamic(value, 0)  # noqa: SLF001 - its documented place
        return function(*inputs)

    return call
