"""Real models: written back byte for byte, cut where their values are, tuned by all four cases."""

from __future__ import annotations

import networks as nw
import numpy as np
import onnx
import pytest

import surgeon
from surgeon.graph.cuts import keep_only
from surgeon_models import get

pytestmark = pytest.mark.slow

REAL = [
    "efficientnet-lite0", "efficientnet-lite0-op8", "efficientnet-lite0-op23", "mobilenetv2",
    "mobilenetv2-bn", "mobilenetv2-fp16", "mobilenetv2-ext", "opennsfw",
]  # fmt: skip
GENERATED = ["light-resnet50", "light-densenet121", "light-shufflenet"]
MORE = ["light-squeezenet", "light-inception-v1", "light-inception-v2"]
CASES = ("small-similar", "small-different", "large-similar", "large-different")


def content(model):
    return model.SerializeToString(deterministic=True)


def feeds(loaded, batch, seed=0):
    random = np.random.default_rng(seed)
    (info,) = loaded.inputs
    shape = [batch, *info.shape[1:]]
    dtype = np.float16 if info.dtype == "float16" else np.float32
    return {info.name: random.standard_normal(shape).astype(dtype)}


@pytest.mark.parametrize("name", REAL + GENERATED + MORE)
def test_writing_back_what_was_read_changes_no_byte(name):
    path = get(name)
    module = surgeon.to_torch(path)
    stored = onnx.load(str(path))
    assert content(surgeon.write_back(path, surgeon.tensors(module))) == content(stored)
    roles = surgeon.load(path).roles()
    assert {k for k, _ in module.named_parameters()} == {
        key for key, role in roles.items() if role == "parameter"
    }
    assert set(module.state_dict()) == set(roles)


@pytest.mark.parametrize("name", REAL + GENERATED + MORE)
def test_cuts_give_the_originals_own_values(name):
    loaded = surgeon.load(get(name))
    anatomy = loaded.anatomy()
    cuts = loaded.cuts()
    depths = [cut.depth for cut in cuts]
    assert depths == sorted(depths)
    assert depths[-1] == 1.0
    stored = loaded.stored
    fixed = loaded.inputs[0].shape[0]
    batch = fixed if isinstance(fixed, int) else 2
    inputs = feeds(loaded, batch)
    some = [cuts[0], cuts[len(cuts) // 3], cuts[2 * len(cuts) // 3], cuts[-1]]
    whole = nw.with_outputs(stored, *(cut.tensor for cut in some))
    wanted = nw.run(whole, inputs, [cut.tensor for cut in some])
    for cut in some:
        short = keep_only(anatomy.model, [cut.tensor], anatomy.shapes)
        got = nw.run(short, inputs)[cut.tensor]
        np.testing.assert_array_equal(got, wanted[cut.tensor])


def data_for(loaded, n=12):
    return feeds(loaded, n, seed=3) | {"labels": np.arange(n) % 2}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ["mobilenetv2", "mobilenetv2-fp16", "opennsfw", *GENERATED])
def test_tuning_keeps_every_invariant(name, case):
    path = get(name)
    loaded = surgeon.load(path)
    patient = surgeon.operate(path, case=case, classes=2)
    outcome = surgeon.finetune(
        path, data_for(loaded), case=case, epochs=1, batch=4, device="cpu", validation=0.34
    )
    before = {t.name: t for t in patient.proto.graph.initializer}
    after = {t.name: t for t in outcome.model.proto.graph.initializer}
    assert list(outcome.model.proto.graph.node) == list(patient.proto.graph.node)
    changed = {key for key in before if before[key] != after[key]}
    body = outcome.document()
    assert set(body["changed"]) == changed
    assert changed <= set(body["trainable"]) | set(body["statistics"])
    parity = outcome.proof["parity"]
    assert parity["max_relative"] <= parity["bound"] <= (1e-2 if "fp16" in name else 1e-4)
    verdict = surgeon.verify(outcome.model.proto, source=path)
    assert verdict.passed, [check for check in verdict.checks if not check.passed]
