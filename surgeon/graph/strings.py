"""A graph that makes tokens of a text itself, by an operator of onnxruntime-extensions.

That library has tokenizers as operators of the domain `ai.onnx.contrib`; it must be there wherever
the file runs. Known is WordPiece as BERT uses it: whether its ids are those of the tokenizers
library is for the caller to measure. What must not enter: running a graph, loading a library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from surgeon.errors import UnsupportedError
from surgeon.graph.walk import all_names

if TYPE_CHECKING:
    from collections.abc import Mapping

    from surgeon.records import TensorInfo

DOMAIN = "ai.onnx.contrib"
MARK = "surgeon.text."
NAMES = ("text", "sentence", "surgeon.text")
_KINDS = {"int64": TensorProto.INT64, "int32": TensorProto.INT32, "bool": TensorProto.BOOL,
          "float": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}  # fmt: skip


def tokenizing(
    model: onnx.ModelProto, roles: Mapping[str, TensorInfo], tokenizer: Mapping[str, Any]
) -> onnx.ModelProto:
    """Return a copy that takes one text, string [1], in place of tokens.

    Args:
        model: takes tokens.
        roles: which input takes `ids`, `mask` and `types`.
        tokenizer: the tokenizer's file, cutting and padding to a length in it.

    Raises:
        UnsupportedError: the library does not have this tokenizer.
    """
    normal = tokenizer.get("normalizer") or {}
    kinds = (tokenizer["model"].get("type"), normal.get("type"),
             (tokenizer.get("pre_tokenizer") or {}).get("type"))  # fmt: skip
    cut, padding = tokenizer.get("truncation") or {}, tokenizer.get("padding") or {}
    sides = {one.get("direction", "Right") for one in (cut, padding)}
    if kinds != ("WordPiece", "BertNormalizer", "BertPreTokenizer") or sides != {"Right"}:
        told = ", ".join(str(one) for one in kinds)
        raise UnsupportedError(
            f"the tokenizer is {told}: WordPiece as of BERT, cut and padded on the right, is known",
            where="--embed-tokenizer",
            remedy="leave it out; --describe writes the tokenizer's file beside",
        )
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    taken = all_names(copy.graph)
    name = next(one for one in NAMES if one not in taken)
    length = (padding.get("strategy") or {}).get("Fixed") if padding else None
    nodes = _nodes(name, tokenizer, cut.get("max_length"), length, int(padding.get("pad_id") or 0))
    for role, info in roles.items():
        nodes.append(
            helper.make_node("Cast", [MARK + role], [info.name], name=f"{MARK}{role}_cast",
                             to=_KINDS[info.dtype])
        )  # fmt: skip
    own = list(copy.graph.node)
    del copy.graph.node[:]
    copy.graph.node.extend([*nodes, *own])
    names = {info.name for info in roles.values()}
    others = [value for value in copy.graph.input if value.name not in names]
    del copy.graph.input[:]
    text = helper.make_tensor_value_info(name, TensorProto.STRING, [1])
    copy.graph.input.extend([text, *others])
    if all(one.domain != DOMAIN for one in copy.opset_import):
        copy.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    return copy


def _nodes(
    name: str, tokenizer: Mapping[str, Any], limit: int | None, length: int | None, pad: int
) -> list[onnx.NodeProto]:
    """Return nodes that make `ids`, `mask` and `types`, [1, tokens] integers each."""
    vocabulary = sorted(tokenizer["model"]["vocab"].items(), key=lambda item: item[1])
    normal = tokenizer["normalizer"]
    lower = bool(normal.get("lowercase"))
    strip = normal.get("strip_accents")
    made: list[onnx.NodeProto] = []

    def put(op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        made.append(helper.make_node(op, inputs, [MARK + output], name=MARK + output, **attributes))
        return MARK + output

    def constant(values: Any, output: str) -> str:
        tensor = numpy_helper.from_array(np.asarray(values, np.int64))
        return put("Constant", [], output, value=tensor)

    made.append(
        helper.make_node(
            "BertTokenizer", [name], [f"{MARK}raw", f"{MARK}raw_types", f"{MARK}raw_mask"],
            name=f"{MARK}tokenizer", domain=DOMAIN,
            vocab_file="\n".join(word for word, _ in vocabulary).encode(),
            do_lower_case=int(lower), strip_accents=int(lower if strip is None else strip),
            tokenize_chinese_chars=int(bool(normal.get("handle_chinese_chars"))),
            suffix_indicator=tokenizer["model"].get("continuing_subword_prefix") or "##",
            do_basic_tokenize=1, unk_token=tokenizer["model"].get("unk_token") or "[UNK]",
            **{f"{one}_token": f"[{one.upper()}]" for one in ("cls", "sep", "pad", "mask")},
        )
    )  # fmt: skip
    zero, last = constant([0], "zero"), constant([-1], "last")
    ids = f"{MARK}raw"
    if limit is not None:  # what ends a text stays at its end
        inner = put("Slice", [ids, zero, last], "inner")
        inner = put("Slice", [inner, zero, constant([limit - 1], "limit")], "kept")
        end = put("Slice", [ids, last, constant([2**31 - 1], "end")], "separator")
        ids = put("Concat", [inner, end], "cut", axis=0)
    count = put("Shape", [ids], "count")
    one = numpy_helper.from_array(np.ones(1, np.int64))
    rows = {"ids": ids, "mask": put("ConstantOfShape", [count], "ones", value=one),
            "types": put("ConstantOfShape", [count], "zeros",
                         value=numpy_helper.from_array(np.zeros(1, np.int64)))}  # fmt: skip
    flat = constant([1, -1], "flat")
    stop = None if length is None else constant([length], "length")
    for role, row in rows.items():
        if length is not None and stop is not None:
            filling = constant([pad if role == "ids" else 0] * length, f"{role}_filling")
            row = put("Concat", [row, filling], f"{role}_long", axis=0)  # noqa: PLW2901 - it grows
            row = put("Slice", [row, zero, stop], f"{role}_padded")  # noqa: PLW2901
        put("Reshape", [row, flat], role)
    return made
