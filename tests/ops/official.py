"""ONNX's own backend test runner over `surgeon.onnx_backend`, every case by name.

The runner decides what is run and what is right. One line of it is made good: it compares the
elements of a sequence by iterating over them, which a tensor without axes does not allow.
"""

from __future__ import annotations

import functools
import os
import tempfile
import unittest
import warnings
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx.backend.test.runner import Runner

import surgeon
from surgeon.errors import SurgeonError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

DRAWS = frozenset(
    f"test_bernoulli{kind}{form}_cpu"
    for kind in ("", "_double", "_seed")
    for form in ("", "_expanded")
)
"""Cases that compare drawn numbers with those of one generator: any other draw is as right."""


DIFFERING = {
    "test_maxunpool_export_with_output_shape_cpu": "MaxUnpool with `output_shape`",
    "test_resize_downsample_scales_cubic_align_corners_cpu": "Resize from opset 19, align_corners",
    "test_resize_downsample_scales_linear_align_corners_cpu": "Resize from opset 19, align_corners",
}
"""Cases in which ONNX Runtime computes something else, which is followed; see `followed.py`."""


class SequenceRunner(Runner):
    """The official runner, comparing an element of a sequence as it compares an output."""

    @classmethod
    def assert_similar_outputs(
        cls,
        ref_outputs: Sequence[Any],
        outputs: Sequence[Any],
        rtol: float,
        atol: float,
        model_dir: str | None = None,
    ) -> None:
        if isinstance(outputs, np.ndarray):  # reached only from inside a sequence
            ref_outputs, outputs = [ref_outputs], [outputs]
        super().assert_similar_outputs(ref_outputs, outputs, rtol, atol, model_dir)


@functools.cache
def cases() -> dict[str, Callable[..., Any]]:
    """Every case on the CPU by name, in order; `expanded` variants included."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the library, while it makes its cases
        tests = SequenceRunner(surgeon.onnx_backend, __name__).test_cases.values()
    found: dict[str, Callable[..., Any]] = {}
    for test in tests:
        for name in dir(test):
            if name.startswith("test_") and name.endswith("_cpu"):
                assert name not in found
                found[name] = getattr(test, name)
    return dict(sorted(found.items()))


def attempt(name: str) -> tuple[str, str]:
    """Run a case: `passed`, `refused` (our error), `wrong` or `crashed`; and the reason."""
    with tempfile.TemporaryDirectory() as home, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = os.environ.get("ONNX_HOME")
        os.environ["ONNX_HOME"] = home  # where the runner writes the inputs of the light models
        try:
            cases()[name](None)
        except SurgeonError as error:
            return "refused", str(error)
        except AssertionError as error:
            return "wrong", str(error)
        except unittest.SkipTest as error:
            return "skipped", str(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is counted
            return "crashed", f"{type(error).__name__}: {error}"
        finally:
            os.environ.pop("ONNX_HOME")
            if before is not None:
                os.environ["ONNX_HOME"] = before
    return "passed", ""


def tally(names: Iterable[str]) -> tuple[Counter[str], dict[str, tuple[str, str]]]:
    """Run some cases; return how many ended how, and what did not pass."""
    outcomes = {name: attempt(name) for name in names}
    off = {name: outcome for name, outcome in outcomes.items() if outcome[0] != "passed"}
    return Counter(outcome for outcome, _ in outcomes.values()), off
