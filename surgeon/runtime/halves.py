"""A graph in half precision, by ONNX Runtime's own converter.

Whether it still answers alike is for the caller to see.
"""

from __future__ import annotations

from onnx import ModelProto


def to_half(model: ModelProto) -> ModelProto:
    """Return a copy that computes in float16; inputs and outputs keep their types.

    Names of initializers stay; nodes that ONNX Runtime's converter knows to suffer keep float32.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16

    copy = ModelProto()
    copy.CopyFrom(model)
    made: ModelProto = convert_float_to_float16(copy, keep_io_types=True)
    return made
