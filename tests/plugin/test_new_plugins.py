"""`surgeon plugins new`: what it writes installs, passes its own test and the kit, and is used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig

import jsonschema
import pytest

from surgeon import schemas, starters
from surgeon.cli import main
from surgeon.errors import OutputError, UsageError

KINDS = list(starters.KINDS)


def test_the_kinds_are_those_that_the_command_names(capsys):
    with_help = main(["plugins", "new", "--help"])
    page = capsys.readouterr().out
    assert with_help == 0
    assert all(kind in page for kind in KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_it_writes_a_distribution(kind, tmp_path, capsys):
    folder = tmp_path / "made"
    assert main(["plugins", "new", "my-own", "--kind", kind, "-o", str(folder), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    jsonschema.validate(document, schemas.load("plugins"))
    assert document["path"] == str(folder)
    assert {"pyproject.toml", "README.md", "my_own/__init__.py", "tests/test_my_own.py"} <= set(
        document["files"]
    )
    for name in document["files"]:
        text = (folder / name).read_text("utf-8")
        assert "$" not in text
        assert max(map(len, text.splitlines())) <= 100
        if name.endswith(".py"):
            compile(text, name, "exec")


def test_a_folder_that_is_there_is_used_if_it_is_empty(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my-own").mkdir()
    starters.write("my-own", "case")
    with pytest.raises(OutputError, match="not empty"):
        starters.write("my-own", "case")
    (tmp_path / "other").touch()
    with pytest.raises(OutputError, match="a file"):
        starters.write("other", "case")


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("My_Own", "case", "lower case"),
        ("1st", "case", "a letter first"),
        ("../up", "case", "no name"),
        ("class", "case", "no name"),
        ("numpy", "case", "a module 'numpy'"),
        ("json", "case", "a module 'json'"),
        ("my-own", "cases", "one of case, task"),
    ],
)
def test_what_cannot_be_is_refused(name, kind, words, tmp_path):
    with pytest.raises(UsageError) as caught:
        starters.write(name, kind, tmp_path / "made")
    assert words in str(caught.value)
    assert not (tmp_path / "made").exists()


def test_a_name_that_is_taken_is_refused(tmp_path, capsys):
    assert main(["plugins", "new", "focal", "--kind", "loss", "-o", str(tmp_path / "made")]) == 2
    assert "offered already" in capsys.readouterr().err


DRIVER = """
import json, sys
import numpy as np, onnx
from surgeon import testing
from surgeon.cli import main

kinds = sys.argv[1:]
random = np.random.default_rng(0)
values = random.standard_normal((40, 8)).astype(np.float32)
onnx.save(testing.NETWORKS["tabular"](), "model.onnx")
np.savez("data.npz", x=values, labels=np.arange(40) % 3)
with open("data.jsonl", "w") as file:
    for row, values in enumerate(values.tolist()):
        file.write(json.dumps({"x": values, "label": row % 3}) + "\\n")
common = ["--epochs", "1", "--device", "cpu", "-q", "--force", "-o"]
plain = ["--case", "small-similar"]
uses = {
    "case": ["--case", "my-case"],
    "task": [*plain, "--task", "my-task"],
    "head": [*plain, "--head", "my-head:hidden=8"],
    "loss": [*plain, "--loss", "my-loss:epsilon=0.5"],
    "adapter": ["--case", "large-similar", "--adapter", "my-adapter:rank=2"],
    "tracker": [*plain, "--track", "my-tracker"],
}
for kind in kinds:
    if kind not in ("op", "data"):
        assert main(["plugins", "check", f"my-{kind}", "--model", "tabular", "-q"]) == 0, kind
    if kind in uses:
        given = ["finetune", "model.onnx", "data.npz", *uses[kind], *common, f"{kind}.onnx"]
        assert main(given) == 0, kind
assert main(["finetune", "model.onnx", "my-data:data.jsonl", *plain, *common, "data.onnx"]) == 0
assert main(["check", "model.onnx", "-q"]) == 0
assert "finished" in open("run.jsonl").read()
print("all used")
"""


@pytest.mark.slow
def test_each_kind_installs_is_tested_checked_and_used(tmp_path):
    """One fresh environment for all: it sees surgeon and what that needs; nothing is fetched."""
    for kind in KINDS:
        starters.write(f"my-{kind}", kind, tmp_path / f"my-{kind}")
    place = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
    python = place / ("Scripts" if os.name == "nt" else "bin") / "python"
    (site,) = place.glob("[Ll]ib/**/site-packages")
    beside = sysconfig.get_path("purelib")
    (site / "beside.pth").write_text(f"import site; site.addsitedir({beside!r})\n")

    def run(*command, **given):
        done = subprocess.run(
            [str(python), *map(str, command)], cwd=tmp_path, check=False, text=True,
            capture_output=True, **given,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
        return done.stdout

    quiet = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "-q"]
    run("-m", "pip", "install", *quiet, *(tmp_path / f"my-{kind}" for kind in KINDS))
    assert len(list(site.glob("my_*.dist-info"))) == len(KINDS)
    tests = [f"my-{kind}/tests" for kind in KINDS]
    run("-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib", *tests)
    assert "all used" in run("-c", DRIVER, *KINDS)
