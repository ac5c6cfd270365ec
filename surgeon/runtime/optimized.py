"""A graph as ONNX Runtime simplifies it before it runs, written down: nothing for one processor.

What must not enter: whether it still answers alike, which the caller sees.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx

from surgeon.graph.forms import like
from surgeon.graph.walk import all_graphs
from surgeon.runtime.sessions import quiet


def to_optimized(model: onnx.ModelProto, level: str) -> onnx.ModelProto:
    """Return the graph after ONNX Runtime's own rewriting.

    Args:
        model: with its weights in it.
        level: `basic` keeps to standard operators, `extended` takes those of ONNX Runtime, too.
    """
    import onnxruntime

    levels = onnxruntime.GraphOptimizationLevel
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = {
        "basic": levels.ORT_ENABLE_BASIC, "extended": levels.ORT_ENABLE_EXTENDED,
    }[level]  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="surgeon-") as folder, quiet(onnxruntime):
        path = Path(folder) / "optimized.onnx"
        options.optimized_model_filepath = str(path)
        onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        made = onnx.load(path)
    used = {node.domain for graph in all_graphs(made.graph) for node in graph.node}
    used |= {"ai.onnx"} if "" in used else set()
    for place in reversed(range(len(made.opset_import))):
        if made.opset_import[place].domain not in used | {""}:
            del made.opset_import[place]
    return like(made, model)
