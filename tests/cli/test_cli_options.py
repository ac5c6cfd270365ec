"""What verbs hand to `surgeon.operation`."""

from __future__ import annotations

from pathlib import Path

import pytest


def test_finetune_passes_every_option(run, operation, plugins, model, tmp_path):
    done = run(
        *("finetune", model, "photos", "-o", tmp_path / "o.onnx", "--case", "auto"),
        *("--cut", "@0.5", "--classes", "4", "--epochs", "2", "--budget", "60", "--init", "random"),
        *("--head", "gemm:pool=gem"),
        *("--device", "cuda:1", "--precision", "bf16", "--seed", "7", "--batch", "16"),
        *("--lr", "1e-3", "--validation", "0.3", "--preprocess", "imagenet", "--size", "96x64"),
        *("--label-column", "y", "--input", "a=1", "--input", "b=[1, 2.5]", "--threads", "2"),
        *("--cache-limit", "2GB", "--force", "--resume", "--augment", "light", "--views", "3"),
        *("--tokenizer", model, "--max-length", "64", "--audio", "16000,1.5"),
        *("--group-column", "patient", "--extend", "--old-data", "old", "--keep-statistics"),
        *("--train", "a.*", "--train", "b", "--from", "@0.7", "--freeze", "*.bias"),
        *("--golden-samples", "--track", "a:dir=b", "--track", "c"),
        *("--report", tmp_path / "r.html"),
    )
    assert done.code == 0, done.err
    (verb, args, settings) = operation.calls[-1]
    assert (verb, args) == ("finetune", (model, "photos"))
    assert callable(settings.pop("progress"))
    assert [one.name for one in settings.pop("plugins").loaded] == ["mine"]
    assert settings == {
        "out": tmp_path / "o.onnx",
        "case": "auto",
        "cut": "@0.5",
        "output": None,
        "classes": 4,
        "start": None,
        "loss": None,
        "adapter": None,
        "adapter_out": None,
        "epochs": 2,
        "budget": 60.0,
        "init": "random",
        "train": ("a.*", "b"),
        "train_from": "@0.7",
        "freeze": ("*.bias",),
        "head": "gemm:pool=gem",
        "task": "auto",
        "device": "cuda:1",
        "precision": "bf16",
        "seed": 7,
        "batch": 16,
        "lr": 1e-3,
        "lr_find": False,
        "validation": 0.3,
        "preprocess": "imagenet",
        "size": (96, 64),
        "tokenizer": model,
        "max_length": 64,
        "audio": (16_000, 1.5),
        "label_column": "y",
        "group_column": "patient",
        "extend": True,
        "old_data": "old",
        "keep_statistics": True,
        "inputs": {"a": 1, "b": [1, 2.5]},
        "threads": 2,
        "cache_limit": 2_000_000_000,
        "force": True,
        "resume": True,
        "dry_run": False,
        "augment": "light",
        "views": 3,
        "accumulate": 1,
        "compile": "auto",
        "memory": "normal",
        "deterministic": False,
        "golden_samples": True,
        "track": ("a:dir=b", "c"),
        "report": tmp_path / "r.html",
    }


def test_finetune_by_default(run, operation, plugins, model, tmp_path):
    run("finetune", model, "photos", "-o", tmp_path / "o.onnx")
    settings = operation.settings
    given = {name: value for name, value in settings.items() if value is not None}
    assert {name: given[name] for name in given if name not in {"out", "progress", "plugins"}} == {
        "train": (),
        "track": (),
        "extend": False,
        "keep_statistics": False,
        "freeze": (),
        "device": "auto",
        "precision": "float32",
        "seed": 0,
        "lr_find": False,
        "validation": 0.2,
        "augment": "auto",
        "views": 1,
        "accumulate": 1,
        "compile": "auto",
        "memory": "normal",
        "deterministic": False,
        "inputs": {},
        "golden_samples": False,
        "task": "auto",
        "force": False,
        "resume": False,
        "dry_run": False,
    }


def test_validation_may_be_data_of_its_own(run, operation, plugins, model, tmp_path):
    run("finetune", model, "d", "-o", tmp_path / "o.onnx", "--validation", tmp_path)
    assert operation.settings["validation"] == Path(tmp_path)


@pytest.mark.parametrize(
    ("text", "count"),
    [("0", 0), ("500", 500), ("1.5kB", 1500), ("2GB", 2 * 10**9), ("2 GiB", 2 * 1024**3)],
)
def test_bytes(run, operation, plugins, model, tmp_path, text, count):
    run("finetune", model, "d", "-o", tmp_path / "o.onnx", "--cache-limit", text)
    assert operation.settings["cache_limit"] == count


def test_other_verbs(run, operation, plugins, model, tmp_path):
    manager = {"plugins"}
    run("check", model, "--case", "c", "--cut", "x", "--classes", 2, "--init", "random")
    assert operation.settings.keys() - manager == {
        "case", "cut", "output", "classes", "init", "train", "train_from", "freeze", "head",
        "task",
    }  # fmt: skip
    run("operate", model, "--start", "t", "--dry-run")
    assert operation.settings.keys() - manager == {
        *("case", "classes", "cut", "output", "start", "init", "seed", "inputs", "device"),
        *("threads", "head", "adapter", "task", "train", "train_from", "freeze", "pool"),
    }
    run("evaluate", model, "d", "--ignore-unknown")
    assert operation.settings.keys() - manager == {
        *("preprocess", "size", "label_column", "inputs", "batch", "device", "threads"),
        *(
            "tokenizer",
            "max_length",
            "audio",
            "ignore_unknown",
            "progress",
            "output",
            "task",
            "against",
        ),
    }
    run("predict", model, tmp_path, model)
    assert operation.calls[-1][1] == (model, (tmp_path, model))
    assert operation.settings.keys() - manager == {
        *("preprocess", "size", "constants", "batch", "device", "threads", "progress"),
        *("tokenizer", "max_length", "audio", "output", "task", "masks", "cut", "pool"),
        *("out", "force", "lines", "top_k"),
    }
    run("verify", model, "--source", model)
    assert operation.settings == {"source": model, "device": "auto", "threads": None}


def test_input_names_may_hold_equal_signs(run, operation, plugins, model):
    run("operate", model, "--start", "t", "--dry-run", "--input", "a=b=3")
    assert operation.settings["inputs"] == {"a=b": 3}
