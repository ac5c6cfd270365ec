"""The head and the task that CONTRIBUTING shows, installed as it says, go through the verbs."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import networks as nw
import numpy as np
import onnx
import pytest

import surgeon

GUIDE = (Path(__file__).resolve().parents[2] / "CONTRIBUTING.md").read_text("utf-8")
ENTRY = """
from surgeon.plugin import hookimpl
from surgeon.records import Case, Head, HeadKind, Plan, Stage, Task

{hook}

@hookimpl
def surgeon_cases():
    yield Case("theirs", "", lambda evidence: 0.0, lambda context: {plan})
"""


def blocks(section):
    text = GUIDE.split(f"## {section}\n")[1].split("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


@pytest.fixture
def package(install, tmp_path, monkeypatch):
    """Write `my_package`, and install a distribution whose entry point yields what a hook says."""
    folder = tmp_path / "my" / "my_package"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(folder.parent)

    def write(hook, plan, **modules):
        for name, text in modules.items():
            (folder / f"{name}.py").write_text(text, "utf-8")
        install("their-dist", "theirs", ENTRY.format(hook=hook, plan=plan))

    yield write
    for name in [name for name in sys.modules if name.split(".")[0] == "my_package"]:
        del sys.modules[name]


def graded(n=120):
    """Five grades whose neighbours overlap."""
    random = np.random.default_rng(0)
    grades = np.arange(n) % 5
    values = random.standard_normal((n, 8)) + 1.5 * grades[:, None]
    return {"x": values.astype(np.float32), "labels": grades + 1}


def test_every_example_is_short():
    found = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    assert max(len(block.replace("\n\n", "\n").splitlines()) for block in found) <= 20


def test_the_head_is_built_trained_and_proven(package, tmp_path):
    code, hook = blocks("A head")
    plan = 'Plan(cut=context.late, head=Head("direction", options={"scale": 16.0}))'
    assert plan.partition("head=")[2][:-1] in GUIDE
    package(hook, plan, heads=code)
    outcome = surgeon.finetune(nw.mlp(), graded(), case="theirs", epochs=3, lr=0.02, device="cpu")
    nodes = {node.op_type: node for node in outcome.model.proto.graph.node}
    assert onnx.helper.get_node_attr_value(nodes["Gemm"], "alpha") == 16.0
    assert "LpNormalization" in nodes
    assert set(outcome.document()["changed"]) == set(outcome.model.plan.head.weights)
    assert surgeon.verify(outcome.model.save(tmp_path / "tuned.onnx")).passed


@pytest.mark.parametrize("stages", ["", 'stages=(Stage("head", method="adamw", epochs=3),)'])
def test_the_task_judges_solved_heads_and_those_trained_by_steps(package, tmp_path, stages):
    code, steps, hook = blocks("A task")
    plan = f'Plan(cut=context.late, task="grades", {stages})'
    package(hook, plan, grades=code, steps=steps)
    outcome = surgeon.finetune(nw.mlp(), graded(), case="theirs", device="cpu")
    assert outcome.model.task == "grades"
    (*_, row) = outcome.history
    assert "validation_within_one" in row
    path = outcome.model.save(tmp_path / "tuned.onnx")
    assert surgeon.verify(path).passed
    metrics = surgeon.evaluate(path, graded())["metrics"]
    assert metrics["quality"] == metrics["within_one"]
    assert 1 >= metrics["within_one"] > metrics["accuracy"]
    assert surgeon.predict(path, graded()["x"]).labels[0] in list("12345")
