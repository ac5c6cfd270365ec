"""Bodies as the contract describes them: what fakes answer with, and what schemas are tried on."""

from __future__ import annotations

from surgeon.documents import METRICS as KEYS

HASH = "0" * 64

PLAN = {
    "case": "small-similar",
    "cut": "/pool",
    "depth": 1.0,
    "classes": 3,
    "init": "pretrained",
    "head": {"kind": "gemm", "pool": "mean"},
    "trainable": ["surgeon.head.weight", "surgeon.head.bias"],
    "stages": [{"name": "head", "trains": "head", "method": "solve"}],
    "dropped_outputs": [],
    "why": "few samples, like the original ones",
}

PROOF = {
    "version": 1,
    "source_sha256": HASH,
    "structure_sha256": HASH,
    "frozen": {"count": 10, "sha256": HASH},
    "tuned": {"count": 2, "sha256": HASH},
    "labels_sha256": HASH,
    "preprocess_sha256": None,
    "parity": {"samples": 4, "max_relative": 2e-7, "bound": 1e-4},
    "golden": [],
}

FIGURES = {**dict.fromkeys(KEYS), "accuracy": 0.9, "macro_f1": 0.89, "loss": 0.31}
METRICS = {**FIGURES, "samples": 20, "quality": 0.9}

BODIES = {
    "inspect": {
        "path": "m.onnx",
        "kind": "classifier",
        "reason": "y is a choice of classes, by Softmax",
        "bytes": 1234,
        "sha256": HASH,
        "ir_version": 8,
        "producer": None,
        "opsets": {"": 13, "com.microsoft": 1},
        "inputs": [
            {"name": "x", "dtype": "float", "shape": ["n", 3, None, 8], "batch_axis": 0},
        ],
        "outputs": [{"name": "[bold]y[/bold]", "dtype": "float", "shape": None, "batch_axis": 0}],
        "nodes": 3,
        "operators": {"Conv": 2, "com.microsoft::Gelu": 1},
        "initializers": 4,
        "parameters": 1_500_000,
        "macs": 5_000_000,
        "head": {
            "form": "Gemm",
            "input": "/pool",
            "weights": ["w"],
            "classes": 10,
            "activation": "Softmax",
        },
        "labels": [str(n) for n in range(10)],
        "preprocess": {"size": [224, 224], "source": "index"},
        "metadata": {"author": "nobody"},
        "surgeon": {"case": "small-similar", "plan": PLAN, "proof": PROOF},
    },
    "cuts": {
        "path": "m.onnx",
        "output": "y",
        "macs": 5_000_000,
        "late": "/pool",
        "early": "/relu",
        "cuts": [
            {
                "tensor": name,
                "depth": depth,
                "shape": ["n", 8],
                "dtype": "float",
                "batch_axis": 0,
                "parameters": 100,
                "macs": 1000,
                "bytes": 400,
            }
            for name, depth in (("/relu", 0.3333), ("/pool", 1.0))
        ],
    },
    "check": {
        "path": "m.onnx",
        "case": "small-similar",
        "ok": False,
        "findings": [
            {
                "level": "error",
                "kind": "unsupported",
                "node": "n1",
                "operator": "Gelu",
                "domain": "com.microsoft",
                "version": 1,
                "message": "not converted",
                "remedy": "cut in front of it",
            },
            {
                "level": "warning",
                "kind": "folded",
                "node": None,
                "operator": None,
                "domain": None,
                "version": None,
                "message": "BatchNormalization is folded away",
                "remedy": None,
            },
        ],
    },
    "cases": {
        "cases": [
            {
                "name": "small-similar",
                "summary": "few samples",
                "distribution": "onnx-surgeon",
                "version": "0.1.0",
            },
            {"name": "own", "summary": "another", "distribution": "theirs", "version": None},
        ]
    },
    "operate": {
        "out": None,
        "plan": PLAN,
        "trainable": ["surgeon.head.weight", "surgeon.head.bias"],
        "frozen": ["w"],
        "removed_nodes": 2,
        "added_nodes": 3,
        "output": "logits",
        "normalized": [{"what": "Constant to initializer", "count": 2}],
    },
    "finetune": {
        "out": "tuned.onnx",
        "sha256": HASH,
        "case": "small-similar",
        "plan": PLAN,
        "labels": ["a", "b", "c"],
        "device": "cpu",
        "providers": ["CPUExecutionProvider"],
        "precision": "float32",
        "seed": 0,
        "data": {
            "samples": 100,
            "train": 80,
            "validation": 20,
            "test": 0,
            "classes": {"a": 40, "b": 30, "c": 30},
            "skipped": [{"path": "x.png", "reason": "truncated"}],
            "sha256": HASH,
        },
        "frontier": {
            "tensors": [{"name": "/pool", "shape": ["n", 8], "dtype": "float"}],
            "nodes_frozen": 3,
            "nodes_trained": 1,
            "one_by_one": False,
            "cache": {"path": "features", "bytes": 3200, "hit": False},
        },
        "trained_parameters": 27,
        "trainable": ["surgeon.head.weight", "surgeon.head.bias"],
        "statistics": [],
        "changed": ["surgeon.head.weight", "surgeon.head.bias"],
        "metrics": {
            "train": METRICS,
            "validation": {**METRICS, "loss": float("nan")},
            "test": None,
        },
        "history": [
            {
                "stage": "head",
                "epoch": None,
                "step": 12,
                "loss": 0.3,
                "validation_loss": 0.4,
                "validation_accuracy": 0.9,
                "lr": None,
                "seconds": 0.5,
            }
        ],
        "delivered": "tuned",
        "stopped": None,
        "seconds": {"total": 3.0, "features": 2.0, "train": 0.5, "write": 0.5},
        "proof": PROOF,
    },
    "evaluate": {
        "path": "m.onnx",
        "samples": 5,
        "skipped": [],
        "labels": ["a", "b"],
        "metrics": {**FIGURES, "top5": None},
        "per_class": [
            {"label": "a", "precision": 1.0, "recall": 0.5, "f1": 0.66, "support": 2},
            {"label": "b", "precision": 0.75, "recall": 1.0, "f1": 0.86, "support": 3},
        ],
        "confusion": [[1, 1], [0, 3]],
        "against": None,
        "providers": ["CPUExecutionProvider"],
        "seconds": 0.2,
    },
    "predict": {
        "path": "m.onnx",
        "labels": ["a", "b"],
        "providers": ["CPUExecutionProvider"],
        "predictions": [
            {
                "input": "1.png",
                "label": "b",
                "index": 1,
                "probability": 0.75,
                "probabilities": [0.25, 0.75],
            }
        ],
        "failed": [{"input": "2.png", "reason": "truncated"}],
    },
    "verify": {
        "path": "m.onnx",
        "passed": True,
        "providers": ["CPUExecutionProvider"],
        "checks": [
            {"name": "frozen", "passed": True, "measured": HASH, "bound": HASH, "detail": None},
            {"name": "golden", "passed": True, "measured": 1e-7, "bound": 1e-4, "detail": "4"},
        ],
    },
    "demo": {
        "rows": [
            {
                "case": "small-similar",
                "cut": "/pool",
                "trained_parameters": 12810,
                "images_seen": 1200,
                "seconds": 20.5,
                "accuracy": 0.97,
                "bytes": 13_000_000,
                "latency": 0.012,
            }
        ],
        "notes": ["best: demo-out/small-similar.onnx"],
    },
}
