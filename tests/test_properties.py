"""The invariants of the design on generated graphs; the same graphs every time (`derandomize`).

The fast tier looks at few graphs, the slow tier at many of the same distribution.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import networks as nw
import numpy as np
import onnx
import pytest
import torch
from generated import networks
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import surgeon
from surgeon.graph import envelope
from surgeon.graph.cuts import keep_only
from surgeon.graph.frontier import split
from surgeon.graph.normalize import normalize

CASES = ("small-similar", "small-different", "large-similar", "large-different")
FEW, MANY = 25, 400


def examples(count):
    return settings(
        derandomize=True,
        deadline=None,
        max_examples=count,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


def prove(*strategies, few=FEW, many=MANY):
    """Turn a check of drawn values into two tests: few examples, and many in the slow tier."""

    def decorate(check):
        def run(count):
            examples(count)(given(*strategies)(check))()

        run.__name__, run.__doc__ = check.__name__, check.__doc__
        tiers = [pytest.param(few, id="few"), pytest.param(many, id="many", marks=pytest.mark.slow)]
        return pytest.mark.parametrize("count", tiers)(run)

    return decorate


def content(model):
    return {tensor.name: tensor.SerializeToString() for tensor in model.graph.initializer}


def call(module, model, inputs):
    order = [value.name for value in model.graph.input]
    found = module(*[torch.from_numpy(inputs[name]) for name in order])
    return found if isinstance(found, tuple) else (found,)


def assert_close(found, wanted):
    """Compare as the contract does, but for values that are rounding errors around 0."""
    for tensor, b in zip(found, wanted.values(), strict=True):
        a = tensor.detach().numpy()
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        assert np.abs(a - b).max(initial=0) <= 1e-4 * max(np.abs(b).max(initial=0), 1e-3)


def carried(model, without=None):
    """Return the values that data, not shapes, flows into without passing `without`."""
    found = {value.name for value in model.graph.input} - {without}
    for node in model.graph.node:
        if node.op_type != "Shape" and found.intersection(node.input):
            found |= set(node.output) - {without}
    return found


def needed(model, end):
    """Return the values that `end` is computed from, itself among them."""
    found = {end}
    for node in reversed(model.graph.node):
        if found.intersection(node.output):
            found |= set(node.input)
    return found


def operated(drawn, case="large-similar"):
    return surgeon.operate(drawn.model, case=case, classes=3)


@prove(networks())
def test_normalizing_computes_the_same_and_once_is_enough(drawn):
    before = drawn.model.SerializeToString()
    normal, _ = normalize(drawn.model)
    assert drawn.model.SerializeToString() == before
    onnx.checker.check_model(normal, full_check=True)
    inputs = nw.feeds(normal)
    found = nw.run(normal, inputs)
    for name, wanted in nw.run(drawn.model, inputs).items():
        np.testing.assert_array_equal(found[name], wanted)
    again, changes = normalize(normal)
    assert again.SerializeToString(deterministic=True) == normal.SerializeToString(
        deterministic=True
    )
    assert not changes
    weights = content(normal)
    assert not [n for n in normal.graph.node if n.op_type == "Identity" and n.input[0] in weights]
    assert not weights.keys() & {value.name for value in normal.graph.input}


@prove(networks())
def test_torch_is_the_runtime_and_writing_back_what_was_read_changes_no_byte(drawn):
    loaded = surgeon.load(drawn.model)
    module = surgeon.to_torch(drawn.model)
    inputs = nw.feeds(loaded.proto, batch=3)
    assert_close(call(module, loaded.proto, inputs), nw.run(drawn.model, inputs))
    for model in (drawn.model, loaded.proto):
        before = model.SerializeToString()
        for source in (module, surgeon.tensors(module), module.state_dict()):
            assert surgeon.write_back(model, source).SerializeToString() == before


@prove(networks())
def test_one_initializer_is_one_parameter_however_many_nodes_read_it(drawn):
    loaded = surgeon.load(drawn.model)
    module = surgeon.to_torch(drawn.model)
    roles = loaded.roles()
    named = list(module.named_parameters(remove_duplicate=False))
    parameters = dict(named)
    assert len(named) == len(parameters) == len({id(p) for p in parameters.values()})
    assert set(parameters) == {name for name, role in roles.items() if role == "parameter"}
    assert set(module.state_dict()) == set(roles)
    # Weights have the names they were made under; an Identity between them makes no new one.
    assert set(roles) <= set(drawn.weights)
    assert not set(drawn.aliases) & set(roles)


@prove(networks())
def test_one_step_changes_what_is_trainable_and_nothing_else(drawn):
    patient = operated(drawn)
    before = content(patient.proto)
    module = surgeon.to_torch(patient)
    module.train()
    inputs = nw.feeds(patient.proto, batch=6, seed=2)
    parameters = dict(module.named_parameters())
    chosen = {name: p for name, p in parameters.items() if name in patient.trainable}
    (logits,) = call(module, patient.proto, inputs)
    torch.nn.functional.cross_entropy(logits, torch.arange(6) % 3).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in chosen.values())
    torch.optim.SGD(chosen.values(), lr=0.1).step()
    written = surgeon.write_back(patient, module)
    after = content(written)
    assert list(after) == list(before)
    changed = {name for name in before if before[name] != after[name]}
    statistics = {name for name, role in patient.roles().items() if role == "statistics"}
    assert changed <= set(patient.trainable) | statistics
    assert "surgeon.head.bias" in changed
    assert list(written.graph.node) == list(patient.proto.graph.node)
    module.eval()
    assert_close(call(module, patient.proto, inputs), nw.run(written, inputs))


@prove(networks(), st.data())
def test_the_frozen_part_and_the_trained_part_are_the_whole(drawn, data):
    patient = operated(drawn)
    trainable = data.draw(st.sets(st.sampled_from(patient.parameters()), min_size=1))
    keep = data.draw(st.booleans())
    front = split(patient.proto, trainable, patient.anatomy().shapes, keep_weightless=keep)
    inputs = nw.feeds(patient.proto, batch=4)
    values = dict(inputs)
    if front.frozen is not None:
        onnx.checker.check_model(front.frozen)
        values |= nw.run(front.frozen, inputs)
        assert not trainable & set(content(front.frozen))
    onnx.checker.check_model(front.trained)
    given_values = {tensor.name: values[tensor.name] for tensor in front.tensors}
    found = nw.run(front.trained, given_values)["logits"]
    np.testing.assert_array_equal(found, nw.run(patient.proto, inputs)["logits"])
    originals, behind = content(patient.proto), content(front.trained)
    assert trainable <= set(behind)
    assert all(originals[name] == behind[name] for name in behind)


@prove(networks(), st.data())
def test_cutting_at_the_output_changes_nothing_and_twice_is_once(drawn, data):
    model = surgeon.load(drawn.model)
    anatomy = model.anatomy()
    outputs = [value.name for value in anatomy.model.graph.output]
    inputs = nw.feeds(anatomy.model, batch=3)
    whole = keep_only(anatomy.model, outputs, anatomy.shapes)
    wanted = nw.run(anatomy.model, inputs)
    found = nw.run(whole, inputs)
    assert list(found) == list(wanted)
    assert all(np.array_equal(found[name], wanted[name]) for name in outputs)
    # What no output needs is gone; nothing else is, and everything left is as it was.
    nodes = [node for node in anatomy.model.graph.node if node in whole.graph.node]
    assert list(whole.graph.node) == nodes
    assert content(whole).items() <= content(anatomy.model).items()
    assert keep_only(whole, outputs, anatomy.shapes) == whole
    # Cutting at b and then at a in front of it is cutting at a.
    made = [name for node in whole.graph.node for name in node.output]
    later = data.draw(st.sampled_from([name for name in made if name in anatomy.shapes.data]))
    first = keep_only(anatomy.model, [later], anatomy.shapes)
    assert keep_only(first, [later], anatomy.shapes) == first
    inside = [name for node in first.graph.node for name in node.output]
    sooner = data.draw(st.sampled_from([name for name in inside if name in anatomy.shapes.data]))
    cut = keep_only(anatomy.model, [sooner], anatomy.shapes)
    assert keep_only(first, [sooner], anatomy.shapes) == cut
    onnx.checker.check_model(cut)
    value = nw.run(nw.with_outputs(anatomy.model, sooner), inputs)[sooner]
    np.testing.assert_array_equal(nw.run(cut, inputs)[sooner], value)


@prove(networks())
def test_listed_cuts_are_the_values_every_path_passes(drawn):
    anatomy = surgeon.load(drawn.model).anatomy()
    model, end = anatomy.model, anatomy.end
    made = {name for node in model.graph.node for name in node.output}
    candidates = carried(model) & needed(model, end) & made
    wanted = {name for name in candidates if name == end or end not in carried(model, name)}
    assert {cut.tensor for cut in anatomy.cuts} == wanted
    depths = [cut.depth for cut in anatomy.cuts]
    assert depths == sorted(depths)
    assert all(0 <= depth <= 1 for depth in depths)
    values = nw.run(nw.with_outputs(model, *wanted), nw.feeds(model, batch=5))
    for cut in anatomy.cuts:
        shape = [5 if axis == cut.batch_axis else dim for axis, dim in enumerate(cut.shape)]
        assert list(values[cut.tensor].shape) == shape


@prove(networks(), st.sampled_from(CASES))
def test_saving_and_loading_keeps_bytes_and_structure(drawn, case):
    patient = operated(drawn, case)
    digest = envelope.structure_hash(patient.proto)
    with TemporaryDirectory() as folder:
        again = surgeon.load(patient.save(Path(folder) / "operated.onnx"))
    assert not again.changes
    assert envelope.structure_hash(again.proto) == digest
    assert again.proto == patient.proto
    assert again.trainable == patient.trainable
    assert again.source_sha256 == patient.source_sha256
    # Training moves weights, never the structure.
    module = surgeon.to_torch(again)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1)
    assert envelope.structure_hash(surgeon.write_back(again, module)) == digest


@prove(networks(), st.sampled_from(CASES))
def test_every_case_ends_in_a_proven_file(drawn, case):
    n = 18
    inputs = nw.feeds(surgeon.load(drawn.model).proto, batch=n, seed=1)
    data = inputs | {"labels": np.arange(n) % 3}
    patient = operated(drawn, case)
    outcome = surgeon.finetune(
        drawn.model, data, case=case, epochs=1, lr=0.01, device="cpu", threads=1
    )
    assert surgeon.verify(outcome.model, drawn.model).passed
    before, after = content(patient.proto), content(outcome.model.proto)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == set(outcome.body["changed"])
    assert changed <= set(patient.trainable) | set(outcome.body["statistics"])
