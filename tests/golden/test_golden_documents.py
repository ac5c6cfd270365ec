"""One document per verb, as it was when last agreed on: what should not change is seen not to.

Figures that a processor, a clock or a place decides are left out by `steady`, everything else is
compared whole. After a change that is meant: `SURGEON_WRITE_GOLDEN=1 pytest tests/golden`, and read
the difference.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from networks import convnet
from PIL import Image

from surgeon.cli import main

HERE = Path(__file__).parent / "documents"
EXACT = frozenset(
    (
        "accuracy",
        "bound",
        "depth",
        "f1",
        "lr_decay",
        "macro_f1",
        "precision",
        "quality",
        "recall",
        "scale",
    )
)
"""Fractions that come out alike everywhere: counts over counts, and what was asked for."""

PLACES = frozenset(
    (
        "bytes",
        "pareto",
        "peak_memory",
        "regularisation",
        "step",
        "surgeon",
        "surgeon.proof",
        "version",
    )
)
"""What a machine, a release or an iteration's last digits decide."""

COLOURS = {"blue": (30, 40, 220), "green": (30, 200, 40), "red": (220, 30, 30)}
HASH = re.compile(r"\b([0-9a-f]{64}|[0-9a-f]{16})\b")


def steady(value, key="", folder=""):
    """Return a document without what another machine, day or folder would change."""
    if isinstance(value, dict):
        if key == "seconds":
            return sorted(value)
        if key == "versions":
            return f"<{key}>"
        return {name: steady(item, name, folder) for name, item in sorted(value.items())}
    if key == "golden":
        return [sorted(one) for one in value or ()]
    if isinstance(value, list):
        return [steady(item, key, folder) for item in value]
    if isinstance(value, str):
        text = HASH.sub("<sha256>", value.replace(folder, "DIR")) if folder else value
        return f"<{key}>" if key in PLACES else re.sub(r"\d\.\de-\d\d", "<error>", text)
    if key in PLACES or key.startswith("seconds"):
        return f"<{key}>"
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, float) and not value.is_integer():
        return round(value, 4) if key in EXACT else "<number>"
    return value


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A network, pictures of three colours, and the same as arrays; a cache of its own."""
    root = tmp_path_factory.mktemp("golden")
    onnx.save(convnet(), root / "net.onnx")
    random = np.random.default_rng(0)
    images, labels = [], []
    for label, colour in {
        "blue": (30, 40, 220),
        "green": (30, 200, 40),
        "red": (220, 30, 30),
    }.items():
        (root / "photos" / label).mkdir(parents=True)
        for number in range(20):
            noisy = np.asarray(colour) + random.normal(0, 12, (12, 12, 3))
            pixels = np.clip(noisy, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / "photos" / label / f"{number:02}.png")
            images.append(pixels.transpose(2, 0, 1).astype(np.float32) / 255)
            labels.append(label)
    np.savez(root / "arrays.npz", x=np.stack(images), labels=np.asarray(labels))
    return root


CASE = ["--preprocess", "zero-one", "--threads", 1, "--device", "cpu"]
STEPS = ["--epochs", 2, "--compile", "off", "--augment", "none", "--batch", 16]
COMMANDS = {
    "inspect": ["inspect", "net.onnx"],
    "inspect-tuned": ["inspect", "small-similar.onnx"],
    "cuts": ["cuts", "net.onnx"],
    "cases": ["cases"],
    "check": ["check", "net.onnx", "--case", "large-similar"],
    "operate": ["operate", "net.onnx", "--case", "small-different", "--classes", 3, "-o", "a.onnx"],
    "small-similar": ["finetune", "net.onnx", "photos", "--case", "small-similar", *CASE],
    "small-different": ["finetune", "net.onnx", "photos", "--case", "small-different", *CASE],
    "large-similar": ["finetune", "net.onnx", "photos", "--case", "large-similar", *CASE, *STEPS],
    "large-different": [
        "finetune", "net.onnx", "arrays.npz", "--case", "large-different", "--init", "random",
        *CASE[2:], *STEPS,
    ],
    "dry-run": ["finetune", "net.onnx", "photos", "--case", "small-similar", "--dry-run", *CASE],
    "goes-on": ["finetune", "small-similar.onnx", "photos", *CASE[2:]],
    "evaluate": ["evaluate", "small-similar.onnx", "photos", *CASE[2:]],
    "predict": ["predict", "small-similar.onnx", "photos/red/00.png", "photos/blue/01.png"],
    "predict-foreign": ["predict", "net.onnx", "photos/red/00.png", "--preprocess", "zero-one"],
    "verify": ["verify", "small-similar.onnx", "--source", "net.onnx"],
    "advise": ["advise", "net.onnx", "photos", *CASE],
    "no-such-file": ["inspect", "absent.onnx"],
    "no-such-case": ["operate", "net.onnx", "--case", "smal", "--classes", 3, "-o", "b.onnx"],
}  # fmt: skip
WRITES = {"small-similar", "small-different", "large-similar", "large-different", "goes-on"}
NEEDS = {"inspect-tuned", "goes-on", "evaluate", "predict", "verify"}


def ask(name, folder, capsys, monkeypatch, cache=""):
    """Run a command in the folder; return its document and exit code.

    With a cache of its own: whether features are found there depends on no other test.
    """
    monkeypatch.setenv("SURGEON_CACHE", str(folder / f"cache-{name}{cache}"))
    monkeypatch.chdir(folder)
    command = [str(part) for part in COMMANDS[name]]
    if name in WRITES:
        command += ["-o", f"{name}.onnx", "--force"]
    code = main([*command, "--json"])
    return json.loads(capsys.readouterr().out), code


@pytest.mark.parametrize("name", COMMANDS)
def test_the_document_is_the_one_agreed_on(name, folder, capsys, monkeypatch):
    if name in NEEDS and not (folder / "small-similar.onnx").exists():
        ask("small-similar", folder, capsys, monkeypatch, "-before")
    document, code = ask(name, folder, capsys, monkeypatch)
    found = {"exit": code, "document": steady(document, folder=str(folder))}
    page = HERE / f"{name}.json"
    text = json.dumps(found, indent=1, ensure_ascii=False) + "\n"
    if os.environ.get("SURGEON_WRITE_GOLDEN"):
        page.parent.mkdir(exist_ok=True)
        page.write_text(text, "utf-8")
    agreed = json.loads(page.read_text("utf-8"))
    assert agreed == found, f"see {page.name} and this module's first lines"


def test_there_is_no_page_too_many():
    assert {page.stem for page in HERE.glob("*.json")} == set(COMMANDS)
