"""What the README shows is run, so that it cannot rot: every block of Python and of shell."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
CLASSES = ("ant", "bee", "cat", "dog", "eel")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def write_model(path: Path) -> None:
    """Write a small network of pictures that says how they become its input."""
    random = np.random.default_rng(0)
    weights = {
        "conv.weight": random.normal(size=(12, 3, 3, 3)) * 0.3,
        "conv.bias": np.zeros(12),
        "later.weight": random.normal(size=(12, 12, 3, 3)) * 0.1,
        "later.bias": np.zeros(12),
        "fc.weight": random.normal(size=(10, 12)),
        "fc.bias": np.zeros(10),
    }
    nodes = [
        helper.make_node("Conv", ["x", "conv.weight", "conv.bias"], ["c"]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Conv", ["r", "later.weight", "later.bias"], ["d"]),
        helper.make_node("Relu", ["d"], ["s"]),
        helper.make_node("GlobalAveragePool", ["s"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "fc.weight", "fc.bias"], ["y"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 10])],
        [numpy_helper.from_array(v.astype(np.float32), name) for name, v in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    preprocess = {"preset": "imagenet", "layout": "NCHW", "size": [16, 16]}
    helper.set_model_props(model, {"surgeon.preprocess": json.dumps(preprocess)})
    onnx.save(model, path)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with what the README assumes: model.onnx, photos/ of five classes, photo.jpg."""
    write_model(tmp_path / "model.onnx")
    random = np.random.default_rng(1)
    for number, name in enumerate(CLASSES):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        for index in range(12):
            pixels = random.integers(0, 60, (20, 24, 3)) + np.array([40 * number, 90, 160])
            picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            picture.save(folder / f"{index}.jpg")
    picture.save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SURGEON_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_the_six_lines_of_python_run(place, capsys):
    code = next(block for block in blocks("python") if block.startswith("import surgeon"))
    assert len(code.strip().splitlines()) == 6
    exec(compile(code, "README.md", "exec"), {})
    accuracy, passed, label = capsys.readouterr().out.split()
    assert 0 <= float(accuracy) <= 1
    assert passed == "True"
    assert label.strip("[]'") in CLASSES


@pytest.mark.parametrize(("sign", "out"), [("mine.onnx", "mine.onnx"), ("LoRA", "adapted.onnx")])
def test_the_loops_of_ones_own_give_files_that_verify(place, sign, out):
    import torch

    import surgeon

    code = next(block for block in blocks("python") if sign in block)
    loop = code[code.index("operated = ") :].strip().splitlines()
    assert len(loop) <= (8 if sign == "mine.onnx" else 14)
    random = torch.Generator().manual_seed(0)
    batches = [
        (torch.randn(10, 3, 16, 16, generator=random), torch.arange(10) % 5) for _ in range(4)
    ]
    names = {"batches": batches}
    exec(compile(code, "README.md", "exec"), names)
    assert surgeon.verify(out, "model.onnx").passed
    assert surgeon.load(out).labels == list(CLASSES)
    assert surgeon.predict(out, ["photo.jpg"]).labels[0] in CLASSES
    assert surgeon.evaluate(out, "photos")["metrics"]["accuracy"] >= 0
    before = surgeon.tensors(surgeon.to_torch(names["operated"]))
    after = surgeon.tensors(surgeon.to_torch(out))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert moved <= set(names["operated"].trainable)


def test_the_case_of_ones_own_is_a_case_and_its_entry_point_is_toml(place):
    import surgeon
    from surgeon.records import Case, Context

    code = next(block for block in blocks("python") if "surgeon_cases" in block)
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    (case,) = names["surgeon_cases"]()
    assert isinstance(case, Case)
    plan = case.plan(Context(classes=5, cut=None, init=None, late="f", early="r"))
    patient = surgeon.operate("model.onnx", "small-similar", classes=5, cut=plan.cut)
    assert 0 < patient.plan.depth < 1
    (table,) = blocks("toml")
    assert tomllib.loads(table)["project"]["entry-points"]["surgeon"][case.name]


@pytest.mark.slow
def test_the_shell_commands_run_in_their_order(place):
    # The pretrained network is the small one here: what stands for it must be the README's words.
    script = "\n".join(blocks("sh"))
    fetch, *rest = script.splitlines()
    assert fetch == 'cp "$(surgeon models get efficientnet-lite0)" model.onnx'
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(rest)],
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": path},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "passed" in done.stdout
    assert json.loads(Path("metrics.json").read_text("utf-8"))["verb"] == "evaluate"
    assert onnx.load("tuned.onnx").graph.output[0].name == "logits"
    assert onnx.load("operated.onnx").graph.output[0].name == "logits"


def test_the_targets_and_the_pages_it_names_are_there():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in re.findall(r"`make ([a-z-]+)`", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for link in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / link).is_file(), link


def test_the_extras_of_the_table_are_the_extras_there_are():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    (every,) = project["optional-dependencies"]["all"]
    named = re.findall(r"^\| `([a-z]+)` \|", README, re.MULTILINE)
    assert every == f"{project['name']}[{','.join(named)}]"
    assert f"pip install '{project['name']}[all]'" in README


def test_the_cases_of_the_table_are_the_cases_there_are():
    from surgeon import operation

    known = {case["name"] for case in operation.cases()["cases"]}
    named = set(re.findall(r"^\| `([a-z]+-[a-z]+)` \|", README, re.MULTILINE))
    assert named <= known
    assert len(named) == 4
