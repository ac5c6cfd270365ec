"""Starting up: fast, without the heavy libraries, whatever is asked for."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from surgeon.cli.entry import VERBS

HEAVY = ["torch", "onnxruntime", "datasets", "sklearn", "onnx", "numpy", "rich"]

PROBE = f"""
import sys
from surgeon.cli import main
code = main(sys.argv[1:])
loaded = sorted(name for name in {HEAVY} if name in sys.modules)
sys.exit(f"loaded: {{loaded}}" if loaded else code)
"""


def start(*arguments: str, program: str = PROBE) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False
    )


def test_help_loads_nothing_heavy():
    done = start("--help")
    assert (done.returncode, done.stderr) == (0, "")
    for verb in VERBS:
        assert f"\n  {verb} " in done.stdout


def test_a_help_text_reads_no_more_than_it_says():
    more = [*HEAVY, "importlib.metadata", "json", "logging", "surgeon.options", "surgeon.records"]
    done = start("--help", program=PROBE.replace(repr(HEAVY), repr(more)))
    assert done.returncode == 0, done.stderr
    assert "\n  models " in done.stdout


def test_looking_at_a_model_loads_neither_torch_nor_a_runtime(tmp_path):
    import networks as nw
    import onnx

    path = tmp_path / "net.onnx"
    onnx.save(nw.convnet(), path)
    heavy = ["torch", "onnxruntime", "sklearn", "datasets", "onnx_graphsurgeon", "PIL"]
    program = PROBE.replace(repr(HEAVY), repr(heavy))
    for words in (["inspect", path], ["cuts", path], ["cases"], ["models", "list"]):
        done = start(*map(str, words), program=program)
        assert done.returncode == 0, (words, done.stderr)


def test_a_fixed_batch_is_told_without_running_the_graph(tmp_path):
    import networks as nw
    import onnx

    model = nw.convnet()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    path = tmp_path / "net.onnx"
    onnx.save(model, path)
    program = PROBE.replace(repr(HEAVY), repr(["torch", "onnxruntime"]))
    done = start("inspect", str(path), "--json", program=program)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["warnings"] == ["the batch is fixed at 1"]
    assert document["outputs"][0]["batch_axis"] == 0


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_loads_nothing_heavy(verb):
    done = start(verb, "--help")
    assert done.returncode == 0, done.stderr
    assert "--json" in done.stdout or "COMMAND" in done.stdout


def test_versions_are_read_without_importing():
    done = start("--version")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("surgeon ")
    assert any(line.startswith("torch ") for line in lines)
    document = json.loads(start("--json", "--version").stdout)
    assert document["versions"]["numpy"]


def test_no_arguments_show_the_help_and_are_an_error(run):
    done = run()
    assert done.code == 2
    assert done.out == ""
    assert "Verbs:" in done.err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(run, shell):
    if shell == "bash" and not _bash():
        pytest.skip("click asks bash itself for its version")
    done = run("completion", shell)
    assert done.code == 0
    assert "_SURGEON_COMPLETE" in done.out


def _bash() -> bool:
    import shutil

    return shutil.which("bash") is not None


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("ins", ["plain,inspect"]),
        ("operate m.onnx --case large-", ["plain,large-similar", "plain,large-different"]),
        ("models get open", ["plain,opennsfw"]),
    ],
)
def test_the_shell_gets_what_may_follow(monkeypatch, words, expected):
    line = f"surgeon {words}"
    monkeypatch.setenv("_SURGEON_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(line.split()) - 1))
    done = start(program="import sys; from surgeon.cli import main; sys.exit(main([]))")
    assert done.stdout.split() == expected
