"""Every client on 200 pictures of all kinds: the labels of `predict`, and its probabilities.

JPEG decoders differ by a level or two between versions of libjpeg and between browsers, and a
browser reads 16-bit grey by its upper byte: there labels must agree, and probabilities nearly.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from installed import chromium, node_modules, wheels

import surgeon

pytestmark = pytest.mark.slow
BOUND, LOSSY = 1e-3, 2e-2
HERE = Path(__file__).parent
PYTHON = (
    *(("python", "plain"), ("python", "embedded"), ("openvino", "plain")),
    *(("openvino", "embedded"), ("opencv", "plain")),
)


@pytest.fixture(scope="module")
def embedded(tuned, tmp_path_factory):
    out = tmp_path_factory.mktemp("pixels") / "app.onnx"
    surgeon.export(tuned, out, embed_preprocess=True)
    return out


@pytest.fixture(scope="module")
def told(tuned, embedded, many):
    return {path: surgeon.predict(path, many, threads=1) for path in (tuned, embedded)}


def compare(name, lines, many, told, lossy=()):
    """Compare what a program printed with what `predict` says; print the figures."""
    rows = [line.split("\t") for line in lines]
    assert [row[0] for row in rows] == many
    same = sum(row[1] == label for row, label in zip(rows, told.labels, strict=True))
    apart = np.array([
        abs(float(row[2]) - told.probabilities[at].max()) for at, row in enumerate(rows)
    ])  # fmt: skip
    rough = np.array([any(kind in row[0] for kind in lossy) for row in rows])
    print(
        f"{name}: labels {same}/{len(many)}, largest difference of probabilities "
        f"{apart[~rough].max():.1e}, of {rough.sum()} others {apart[rough].max(initial=0):.1e}"
    )
    assert same == len(many)
    assert apart[~rough].max() <= BOUND
    assert apart[rough].max(initial=0) <= LOSSY


def printed(command, **environment):
    """Return the lines that a program prints."""
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


@pytest.mark.parametrize(("language", "form"), PYTHON)
def test_programs_in_python(tuned, embedded, many, told, tmp_path, language, form):
    source = tuned if form == "plain" else embedded
    surgeon.export(source, tmp_path / "app.onnx", code=language)
    path = {} if language == "python" else {"PYTHONPATH": str(wheels())}
    lines = printed([sys.executable, str(tmp_path / "app.py"), *many], **path)
    compare(f"{language}, {form}", lines, many, told[source])
    if language == "python":
        for line, row in zip(lines, told[source].probabilities, strict=True):
            assert abs(float(line.split("\t")[2]) - row.max()) <= 1e-6


def test_program_in_node(tuned, embedded, many, told, tmp_path):
    modules = node_modules()
    body = surgeon.export(tuned, tmp_path / "app.onnx", code="node")
    assert "embed-preprocess" in body["forms"]
    (tmp_path / "node_modules").symlink_to(modules)
    lines = printed(["node", str(tmp_path / "app.mjs"), *many])
    compare("node", lines, many, told[embedded])


def test_page_in_the_browser(tuned, embedded, many, told, tmp_path):
    modules, browser = node_modules(), chromium()
    surgeon.export(tuned, tmp_path / "app.onnx", code="web")
    command = ["node", str(HERE / "drive.mjs"), str(tmp_path), "app.html", str(modules)]
    lines = printed([*command, *many], CHROMIUM=browser)
    compare("web", lines, many, told[embedded], lossy=("-deep.png", ".jpg"))
