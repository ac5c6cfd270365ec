"""`--embed-tokenizer TEXTS`: a graph that takes a text, by an operator of onnxruntime-extensions.

Its ids are measured against those of the tokenizers library on texts that people give; one that
differs is told, and nothing is written.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper

from surgeon.data.media.texts import TextSamples, text_inputs
from surgeon.data.read import open_inputs
from surgeon.data.samples import Given as Opening
from surgeon.errors import CheckError, DataError, UnsupportedError, UsageError
from surgeon.exporting.samples import some
from surgeon.graph import encodings, envelope, strings
from surgeon.graph.shapes import input_infos
from surgeon.records import TextEncoding
from surgeon.runtime.proof import encode
from surgeon.runtime.sessions import open_session

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from surgeon.exporting.given import Feeds, Given
    from surgeon.runtime.sessions import Session

MOST = 2000
"""Texts that are measured."""
EXAMPLES = ("An example sentence, short and plain.", "Prices rose 3.5 % in May: nobody knows why?")
"""Texts of the proof: ours."""


def make(made: onnx.ModelProto, given: Given) -> onnx.ModelProto:
    """Return the graph with the tokenizer in front.

    Raises:
        UsageError: the file takes no texts, or tokenizes them already.
        UnsupportedError: the library does not have this tokenizer, or the batch is another than 1.
        CheckError: its ids are others.
        DataError: no text can be read.
    """
    how, roles = given.model.preprocess, text_inputs(input_infos(made), {})
    if not isinstance(how, TextEncoding) or how.embedded or roles is None:
        raise UsageError(
            "nothing in the file says how texts become its inputs",
            where="--embed-tokenizer",
            remedy="leave it out",
        )
    if given.model.plan is not None and given.model.plan.task == "tokens":
        raise UnsupportedError(
            "a file that answers for each token needs to know where tokens stand in the text",
            where="--embed-tokenizer",
            remedy="leave it out",
        )
    asked = given.asked.delivery.embed_tokenizer
    paths = [Path(asked)] if isinstance(asked, str | Path) else list(asked)
    opened = open_inputs(paths, given.model.inputs, preprocess=how)
    if not isinstance(opened, TextSamples):
        raise DataError("these are no texts", where=str(asked), remedy="give .txt files or a table")
    tokenizer = json.loads(opened.configured())
    result = strings.tokenizing(made, roles, tokenizer)
    front = _front(result, made)
    (name,) = front.inputs
    measured = _measured(front, opened, name)
    now = replace(how, embedded=True)
    envelope.put(result, envelope.PREPROCESS, encodings.as_document(now))

    def before(feeds: Feeds) -> dict[str, Any]:
        """Make tokens as they are made for the source."""
        texts = [str(one) for one in np.ravel(feeds[name])]
        sources = [one.encode() for one in texts]
        rest = {one: value for one, value in feeds.items() if one != name}
        samples = TextSamples(Opening(given.model.inputs, texts, sources=sources, rule=how))
        return samples.batch(range(len(texts))) | rest

    given.inputs.append(before)
    given.golden.extend(
        {"seed": seed, "constants": {name: encode(np.array([text], object))}, "sizes": {}}
        for seed, text in enumerate(EXAMPLES)
    )
    given.notes.append(
        f"the graph gives the tokenizer's own ids of {measured} texts; to run it, "
        "onnxruntime-extensions must be there, and it takes one text at a time"
    )
    return result


def _front(result: onnx.ModelProto, made: onnx.ModelProto) -> Session:
    """Return what makes tokens of texts, alone."""
    inputs = {value.name for value in result.graph.input} - {one.name for one in made.graph.input}
    gone = [one for one in made.graph.input if one.name not in {v.name for v in result.graph.input}]
    nodes = result.graph.node[: len(result.graph.node) - len(made.graph.node)]
    given = [value for value in result.graph.input if value.name in inputs]
    graph = helper.make_graph(
        nodes, "tokens", given,
        [helper.make_tensor_value_info(v.name, v.type.tensor_type.elem_type, None) for v in gone],
    )  # fmt: skip
    alone = helper.make_model(graph, opset_imports=result.opset_import, ir_version=made.ir_version)
    return open_session(alone, device="cpu", threads=1, where="the tokenizer as a graph")


def _measured(front: Session, opened: TextSamples, name: str) -> int:
    """Return how many texts gave the same tokens.

    Raises:
        CheckError: one did not.
        DataError: none can be read.
    """
    alike = 0
    for row in some(opened.n, MOST).tolist():
        wanted = opened.load(row)
        if not isinstance(wanted, dict):
            continue
        text = opened.text(row)
        for key, got in zip(
            front.outputs, front.run({name: np.array([text], object)}), strict=True
        ):
            _require_same(text, key, np.asarray(got)[0], np.asarray(wanted[key])[0])
        alike += 1
    if not alike:
        raise DataError("no text can be read", where="--embed-tokenizer", remedy="give some texts")
    return alike


def _require_same(text: str, key: str, got: NDArray[Any], wanted: NDArray[Any]) -> None:
    """Compare tokens of a text; where others of the data are longer, theirs end in padding."""
    length = min(len(got), len(wanted))
    same = len(got) <= len(wanted) and np.array_equal(got, wanted[:length])
    if same and (not key.lower().count("mask") or not np.any(wanted[length:])):
        return
    places = np.flatnonzero(got[:length] != wanted[:length])
    at = int(places[0]) if len(places) else length
    raise CheckError(
        f"the library's tokenizer gives other tokens of {text[:60]!r}: {key} differs at {at}",
        where="--embed-tokenizer",
        remedy="nothing was written; --describe writes the tokenizer's file beside",
    )
