"""The page of the hooks is what the specs say, and each of its examples runs as it stands there."""

from __future__ import annotations

import json
import re
import shlex
import sys

import hooks_page
import networks as nw
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from surgeon.cli import main
from surgeon.data.media import registry as media
from surgeon.ops import registry
from surgeon.plugin import hooks

TEXT = hooks_page.PAGE.read_text("utf-8")
SAYS = {
    "cases": "their-mine 1.0 (case half-way)",
    "tasks": '"sure"',
    "heads": "(head unit)",
    "losses": "(loss poly)",
    "adapters": "(adapter scale)",
    "media": "(medium points)",
    "trackers": "(tracker lines)",
    "exporters": "(exporter names)",
    "checks": "the file names no licence",
    "known": "cat",
    "ops": "1 native",
    "open_data": "(bumps:200)",
    "list_data": "1.0 (photos.lst)",
    "commands": "3 nodes",
}
"""{hook: what its example says, and nothing says without it}."""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with what the examples name: models, arrays, and files of a medium."""
    model = nw.mlp()
    model.producer_name = "my-lab"
    onnx.save(model, tmp_path / "model.onnx")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8])
    node = helper.make_node("Snake", ["x"], ["y"], domain="org.example", alpha=2.0)
    opsets = [helper.make_opsetid("", 13), helper.make_opsetid("org.example", 1)]
    graph = helper.make_graph([node], "g", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "snake.onnx")
    random = np.random.default_rng(0)
    labels = np.arange(60) % 3
    values = (random.normal(size=(60, 8)) + 2 * labels[:, None]).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=values, labels=labels)
    for number, row in enumerate(values):
        folder = tmp_path / "points" / str(labels[number])
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.xyz").write_text(" ".join(map(str, row)))
    photos = nw.convnet()
    form = {"layout": "NCHW", "size": [12, 12], "scale": 1 / 255}
    helper.set_model_props(photos, {"surgeon.preprocess": json.dumps(form)})
    onnx.save(photos, tmp_path / "photos.onnx")
    for number in range(24):
        pixels = random.integers(0, 120, (12, 12, 3)) + 60 * (number % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{number}.png")
    lines = [f"{number}.png {'ab'[number % 2]}" for number in range(24)]
    (tmp_path / "photos.lst").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SURGEON_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(media, "_OFFERED", {})
    registry.lookup("", "Gemm", 13)  # loads ours
    monkeypatch.setattr(registry, "_declared", {k: dict(v) for k, v in registry._declared.items()})
    registry.lookup.cache_clear()
    yield tmp_path
    registry.lookup.cache_clear()


def shown(hook):
    """Return what the page shows of a hook: {file name: text}, command lines."""
    section = TEXT.split(f"## `surgeon_{hook}`\n")[1].split("\n## ")[0]
    files = dict(re.findall(r"```python\n# (\w+)\.py\n(.*?)```", section, re.DOTALL))
    (shell,) = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    return files, shell.splitlines()


def test_the_page_is_what_the_specs_say():
    assert hooks_page.page() == TEXT, "run `make docs`"
    named = [name for name in dir(hooks) if name.startswith("surgeon_")]
    assert {f"surgeon_{name}" for name in SAYS} == set(named)


@pytest.mark.parametrize("hook", SAYS)
def test_an_example_runs_as_it_stands(place, monkeypatch, capsys, hook):
    def run():
        codes = [main(shlex.split(line)[1:]) for line in lines]
        captured = capsys.readouterr()
        return codes, captured.out + captured.err

    files, lines = shown(hook)
    assert SAYS[hook] not in run()[1]
    site = place / "site"
    info = site / "their_mine-1.0.dist-info"
    info.mkdir(parents=True)
    for name, text in files.items():
        (site / f"{name}.py").write_text(text, "utf-8")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[surgeon]\nmine = {next(iter(files))}\n")
    monkeypatch.syspath_prepend(str(site))
    try:
        codes, told = run()
    finally:
        for name in files:
            sys.modules.pop(name, None)
    assert codes == [0] * len(lines), told
    assert SAYS[hook] in told
    assert not re.search(
        r"^(import|from) (torch|numpy|onnx)", next(iter(files.values())), re.MULTILINE
    )
