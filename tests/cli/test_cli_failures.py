"""What a verb writes when it cannot do its work."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys

import jsonschema
import pytest

from surgeon import schemas
from surgeon.errors import CheckError, DataError, EnvironmentLacksError, ModelError


class OutOfMemoryError(RuntimeError):
    """Named like torch's."""


@pytest.mark.parametrize(
    ("error", "code", "word"),
    [
        (ModelError("not ONNX", where="m.onnx"), 2, "not ONNX"),
        (DataError("one class"), 2, "one class"),
        (CheckError("parity"), 1, "parity"),
        (EnvironmentLacksError("no GPU"), 3, "no GPU"),
        (MemoryError(), 3, "out of memory"),
        (OutOfMemoryError("CUDA out of memory"), 3, "out of memory"),
        (OSError(errno.ENOSPC, "No space left", "f"), 3, "disk is full"),
        (PermissionError(errno.EACCES, "denied", "f"), 2, "no permission"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "f"), 2, "no such file"),
        (ModuleNotFoundError("No module named 'kornia'", name="kornia"), 3, "kornia"),
        (ModuleNotFoundError("No module named 'surgeon.x'", name="surgeon.x"), 1, "internal error"),
        (ZeroDivisionError("x"), 1, "internal error: ZeroDivisionError"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_every_error_has_its_exit_code_and_document(
    run, operation, plugins, model, error, code, word
):
    operation.fail = error
    done = run("inspect", model)
    assert (done.code, done.out) == (code, "")
    assert done.err.count("error: ") >= 1
    assert word in done.err
    assert "Traceback" not in done.err
    done = run("inspect", model, "--json")
    document = json.loads(done.out)
    jsonschema.validate(document, schemas.load("error"))
    assert document["verb"] == "inspect"
    assert (done.code, document["error"]["exit"]) == (code, code)
    assert word in document["error"]["message"]


def test_traceback_on_request(run, operation, plugins, model):
    operation.fail = ZeroDivisionError("x")
    assert "Traceback" in run("inspect", model, "--traceback").err


@pytest.mark.parametrize(
    ("arguments", "verb", "word"),
    [
        (["inspct", "m"], None, "inspect"),
        (["cache", "lst"], "cache", "list"),
        (["inspect"], "inspect", "MODEL"),
        (["inspect", "no.onnx"], "inspect", "no.onnx"),
        (["inspect", "."], "inspect", "folder"),
        (["inspect", "MODEL", "--bogus"], "inspect", "--bogus"),
        (["operate", "MODEL", "--classes", "0"], "operate", "--classes"),
        (["operate", "MODEL", "--classes", "many"], "operate", "--classes"),
        (["operate", "MODEL", "--cut", "@1.5"], "operate", "@1.5"),
        (["operate", "MODEL", "--cut", "@nan"], "operate", "@nan"),
        (["operate", "MODEL"], "operate", "--case"),
        (["finetune", "MODEL", "d"], "finetune", "-o"),
        (["finetune", "MODEL", "d", "--epochs", "-3"], "finetune", "--epochs"),
        (["finetune", "MODEL", "d", "--budget", "-1"], "finetune", "--budget"),
        (["finetune", "MODEL", "d", "--budget", "nan"], "finetune", "--budget"),
        (["finetune", "MODEL", "d", "--lr", "inf"], "finetune", "--lr"),
        (["finetune", "MODEL", "d", "--batch", "0"], "finetune", "--batch"),
        (["finetune", "MODEL", "d", "--seed", "-1"], "finetune", "--seed"),
        (["finetune", "MODEL", "d", "--size", "96"], "finetune", "--size"),
        (["finetune", "MODEL", "d", "--size", "0x96"], "finetune", "--size"),
        (["finetune", "MODEL", "d", "--device", "tpu"], "finetune", "--device"),
        (["finetune", "MODEL", "d", "--validation", "1"], "finetune", "--validation"),
        (["finetune", "MODEL", "d", "--validation", "nowhere"], "finetune", "--validation"),
        (["finetune", "MODEL", "d", "--cache-limit", "big"], "finetune", "--cache-limit"),
        (["finetune", "MODEL", "d", "--init", "maybe"], "finetune", "--init"),
        (["finetune", "MODEL", "d", "--input", "a"], "finetune", "NAME=VALUE"),
        (["finetune", "MODEL", "d", "--input", "a=b"], "finetune", "a=b"),
        (["finetune", "MODEL", "d", "--input", "a=1", "--input", "a=2"], "finetune", "twice"),
        (["predict", "MODEL"], "predict", "INPUTS"),
        (["predict", "MODEL", "no.png"], "predict", "no.png"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_usage_is_one_clear_error(run, operation, plugins, model, arguments, verb, word):
    command = [str(model) if part == "MODEL" else part for part in arguments]
    done = run(*command)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: ")
    assert word in done.err
    done = run(*command, "--json")
    document = json.loads(done.out)
    jsonschema.validate(document, schemas.load("error"))
    assert done.code == 2
    assert word in json.dumps(document["error"])
    assert document["verb"] == verb
    assert operation.calls == []


def test_no_output_is_overwritten_unasked(run, operation, plugins, model, tmp_path):
    out = tmp_path / "out.onnx"
    out.write_text("precious")
    finetune = ["finetune", model, "data", "-o"]
    operate = ["operate", model, "--case", "c", "--classes", 3, "-o"]
    for command in (finetune, operate):
        for place, word in (
            (out, "exists"),
            (tmp_path, "folder"),
            (tmp_path / "missing" / "out.onnx", "no folder"),
        ):
            done = run(*command, place)
            assert done.code == 2
            assert word in done.err
    assert operation.calls == []
    assert out.read_text() == "precious"
    assert run(*finetune, out, "--force").code == 0
    assert operation.settings["force"] is True


def test_a_folder_that_may_not_be_written(run, operation, plugins, model, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    done = run("finetune", model, "data", "-o", tmp_path / "out.onnx")
    assert done.code == 2
    assert "may not be written" in done.err


def test_a_reader_that_left_is_no_error():
    program = (
        "import sys; from surgeon.cli import main\n"
        "sys.stdin.readline()\n"
        "sys.exit(main(['models', 'list']))"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    child.stdout.close()
    child.stdin.write("go\n")
    child.stdin.close()
    err = child.stderr.read()
    child.stderr.close()
    assert child.wait() == 0
    assert err == ""


def test_native_output_does_not_reach_stdout(tmp_path):
    program = (
        "import os, sys, types\n"
        "import surgeon\n"
        "fake = types.ModuleType('surgeon.operation')\n"
        "fake.inspect = lambda path, **_: (os.write(1, b'native'), {'a': 1})[1]\n"
        "sys.modules['surgeon.operation'] = surgeon.operation = fake\n"
        "from surgeon.cli import main\n"
        "sys.exit(main(['inspect', sys.argv[1], '--json']))"
    )
    file = tmp_path / "m.onnx"
    file.touch()
    done = subprocess.run(
        [sys.executable, "-c", program, str(file)], capture_output=True, text=True, check=False
    )
    assert json.loads(done.stdout)["a"] == 1
    assert done.stderr == "native"


def test_a_name_the_terminal_cannot_show_is_escaped(tmp_path):
    program = "import sys; from surgeon.cli import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", program, "inspect", "läuft×.onnx"],
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert done.returncode == 2
    assert b"l\\xe4uft\\xd7.onnx" in done.stderr
