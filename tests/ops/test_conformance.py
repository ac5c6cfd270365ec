"""ONNX's official backend suite, through our backend, with our own comparison.

The official runner cannot compare a sequence that holds a scalar; `same` can.
"""

from __future__ import annotations

import functools
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from onnx.backend.test.loader import load_model_tests

from surgeon.errors import SurgeonError, UnsupportedError
from surgeon.tune.backend import SurgeonBackend

if TYPE_CHECKING:
    from onnx.backend.test.case.test_case import TestCase as Case

DRAWN = "Bernoulli draws numbers; its distribution is tested in test_random.py"
EXPECTED_TO_DIFFER = {
    **{
        f"test_bernoulli{kind}{form}": DRAWN
        for kind in ("", "_double", "_seed")
        for form in ("", "_expanded")
    },
}


@functools.cache
def cases(kind: str) -> dict[str, Case]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {case.name: case for case in load_model_tests(kind=kind)}


def stored(folder: Path, kind: str, infos: Any) -> list[Any]:
    values = []
    for number in range(len(list(folder.glob(f"{kind}_*.pb")))):
        raw = (folder / f"{kind}_{number}.pb").read_bytes()
        which = infos[number].type.WhichOneof("value") if number < len(infos) else "tensor_type"
        if which == "sequence_type":
            values.append(numpy_helper.to_list(onnx.SequenceProto.FromString(raw)))
        elif which == "optional_type":
            values.append(numpy_helper.to_optional(onnx.OptionalProto.FromString(raw)))
        else:
            values.append(numpy_helper.to_array(TensorProto.FromString(raw)))
    return values


def loaded(case: Case) -> tuple[onnx.ModelProto, list[tuple[list[Any], list[Any]]]]:
    if case.model is not None:
        return case.model, list(case.data_sets)
    folder = Path(case.model_dir)
    model = onnx.load(os.fspath(folder / "model.onnx"))
    sets = [
        (stored(d, "input", model.graph.input), stored(d, "output", model.graph.output))
        for d in sorted(folder.glob("test_data_set_*"))
    ]
    return model, sets


def same(expected: Any, found: Any, rtol: float, atol: float) -> None:
    if expected is None or isinstance(expected, dict):
        assert found == expected
    elif isinstance(expected, list | tuple):
        assert isinstance(found, list | tuple)
        assert len(found) == len(expected)
        for e, f in zip(expected, found, strict=True):
            same(e, f, rtol, atol)
    else:
        if isinstance(expected, TensorProto):
            expected = numpy_helper.to_array(expected)
        expected = np.asarray(expected)
        assert isinstance(found, np.ndarray)
        assert found.shape == expected.shape
        if expected.dtype == object:
            np.testing.assert_array_equal(found, expected)
            return
        assert found.dtype == expected.dtype
        if expected.dtype.name == "bfloat16":
            rtol = max(rtol, 2**-6)  # two units in the last place, as the official runner has it
        if expected.dtype.kind not in "biufc":
            expected, found = expected.astype(np.float32), found.astype(np.float32)
        np.testing.assert_allclose(found, expected, rtol=rtol, atol=atol)


def check(case: Case) -> None:
    model, sets = loaded(case)
    prepared = SurgeonBackend.prepare(model)
    for inputs, outputs in sets:
        same(outputs, list(prepared.run(inputs)), case.rtol, case.atol)


def test_every_eighth_node_case() -> None:
    for number, (name, case) in enumerate(sorted(cases("node").items())):
        if number % 8 == 0 and name not in EXPECTED_TO_DIFFER:
            check(case)


@pytest.mark.slow
def test_the_whole_suite() -> None:
    counts = {"passed": 0, "unsupported": 0, "error": 0, "wrong": 0}
    off: dict[str, str] = {}
    for kind in ("node", "simple", "pytorch-converted", "pytorch-operator"):
        for name, case in cases(kind).items():
            try:
                check(case)
                counts["passed"] += 1
                continue
            except UnsupportedError as error:
                counts["unsupported"] += 1
                off[name] = str(error)
            except SurgeonError as error:
                counts["error"] += 1
                off[name] = str(error)
            except AssertionError as error:
                counts["wrong"] += 1
                off[name] = str(error)
    print(counts, sorted(off))
    assert set(off) <= set(EXPECTED_TO_DIFFER), {
        k: off[k] for k in set(off) - set(EXPECTED_TO_DIFFER)
    }
    assert counts["passed"] == 2018
