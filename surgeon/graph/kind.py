"""What kind of network a file is, by its structure, and why: `unknown` where that tells too little.

Scores of classes, numbers and vectors may look alike: a row of numbers behind a linear layer. Then
an activation says more, the names of outputs, the labels that a file carries; else nothing is said.
What must not enter: the model index, values of weights.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from surgeon.graph.detector import find_detector, pictures
from surgeon.graph.old_head import RECTIFIERS, TREES, softmax_in_parts
from surgeon.graph.schema import type_name
from surgeon.graph.walk import FLOATS, all_graphs, attribute, data_inputs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnx import NodeProto

    from surgeon.graph.cuts import Anatomy

MOVES = frozenset(
    {"Identity", "Cast", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Dropout", "Transpose",
     "QuantizeLinear", "DequantizeLinear", "Resize", "Upsample", "Normalizer", "ZipMap"}
)  # fmt: skip
"""Operators that leave what values mean as it is."""
DISTRIBUTES = frozenset({"Softmax", "LogSoftmax", "QLinearSoftmax"})
CHOOSES = frozenset({"ArgMax", "Hardmax"})
POOLS = frozenset({"GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax", "AveragePool"})
NORMALISES = frozenset(
    {"LayerNormalization", "SkipLayerNormalization", "LpNormalization", "BatchNormalization",
     "InstanceNormalization", "GroupNormalization", "RMSNormalization",
     "SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization"}
)  # fmt: skip
LOOKS_BACK = {"Attention": "is_causal", "MultiHeadAttention": "unidirectional"}
DECODES = frozenset({"BeamSearch", "GreedySearch", "Sampling", "WhisperBeamSearch"})
CACHED = frozenset({"GroupQueryAttention", "DecoderMaskedMultiHeadAttention"})
VOCABULARY = 1000
"""Scores per position from which they can be those of a vocabulary."""
IMAGENET = frozenset({1000, 1001, 21841, 21843})
"""Scores per picture that only classifiers of ImageNet have."""
MANY = 5
"""Numbers per pixel from which they are no colours, no flow and no normals."""
FEATURES = frozenset({32, 64, 128, 256, 512})
"""Numbers per pixel that features have, and hardly ever classes."""
SCORES = frozenset({"logit", "logits", "prob", "probs", "probability", "probabilities",
                    "softmax", "softmaxout", "class", "classes", "labels"})  # fmt: skip
VECTORS = frozenset({"embedding", "embeddings", "embeds", "embed", "feature", "features",
                     "hidden", "pooler", "pooled", "vector", "vectors"})  # fmt: skip
NUMBERS = frozenset({"values", "regression", "variable"})
MOST_STEPS = 64


@dataclass(frozen=True)
class Kind:
    """What a network is: detector, segmenter, encoder, classifier, regressor, generator, unknown.

    Attributes:
        name: of the kind.
        reason: one sentence, of what it was seen by or why it was not.
    """

    name: str
    reason: str


def find_kind(anatomy: Anatomy, labels: int | None = None) -> Kind:
    """Say what kind of network a graph is.

    Args:
        anatomy: the graph understood.
        labels: how many names of classes the file carries.
    """
    detector = find_detector(anatomy.model, anatomy.shapes, anatomy.links)
    if detector is not None:
        return Kind("detector", detector.reason)
    seen = _Seen(anatomy, labels)
    for look in (seen.generates, seen.segments, seen.of_trees, seen.classifies, seen.encodes,
                 seen.gives_numbers):  # fmt: skip
        found = look()
        if found is not None:
            return found
    return Kind("unknown", f"{seen.told}, and {seen.doubt}")


class _Seen:
    """One output, with what lies in front of it."""

    def __init__(self, anatomy: Anatomy, labels: int | None) -> None:
        self.anatomy, self.labels, self.output = anatomy, labels, anatomy.output
        shapes = anatomy.shapes
        self.kind, dims = shapes.one.get(self.output, (0, ()))
        self.axis = shapes.batch_axes.get(self.output)
        self.dims = tuple(d for place, d in enumerate(dims) if place != (self.axis or 0))
        self.rank = len(dims)
        self.words = set(re.findall(r"[a-z]+", self.output.lower()))
        self.nodes = list(self._back())

    @property
    def told(self) -> str:
        """The output in words."""
        known = self.anatomy.shapes.symbolic.get(self.output, ())
        shape = ", ".join("n" if place == self.axis else str(d or "?")
                          for place, d in enumerate(known))  # fmt: skip
        return f"{self.output} is {type_name(self.kind)} [{shape}]"

    @property
    def doubt(self) -> str:
        """Why nothing is said of it."""
        if self.row and self.width > 1 and self._weighted:
            return "raw scores of classes, values and vectors look alike"
        return "nothing says what it means"

    @property
    def width(self) -> int:
        """How many numbers there are for a sample or a position; 0 where that is not known."""
        wide = [dim for dim in self.dims if dim != 1]
        return (wide or [1])[-1] if self.dims or self.rank else 0

    @property
    def row(self) -> bool:
        """Whether the output is one row of numbers per sample."""
        return self.rank > 0 and sum(dim != 1 for dim in self.dims) <= 1

    def _back(self) -> Iterator[NodeProto]:
        """Yield the nodes in front of the output, up to the first that means something."""
        makers, name = self.anatomy.links.makers, self.output
        for _ in range(MOST_STEPS):
            node = makers.get(name)
            if node is None or not node.input:
                return
            yield node
            if not _moves(node):
                return
            name = node.input[0]

    @property
    def last(self) -> NodeProto | None:
        """The last node that does more than move values."""
        return self.nodes[-1] if self.nodes and not _moves(self.nodes[-1]) else None

    def generates(self) -> Kind | None:
        """Look for text made word by word, and for pictures made of a vector."""
        model, shapes = self.anatomy.model, self.anatomy.shapes
        nodes = [node for graph in all_graphs(model.graph) for node in graph.node]
        decoding = next((node.op_type for node in nodes if node.op_type in DECODES), None)
        if decoding is not None:
            return Kind("generator", f"{decoding} makes a sequence word by word")
        vocabulary = self.rank in (2, 3) and self.width >= VOCABULARY and not self._distributed
        if vocabulary and (self._caches() or any(map(_looks_back, nodes))):
            told = f"{self.output} has scores of {self.width} words"
            return Kind("generator", f"{told}, made with what came before only")
        inputs = [shapes.one.get(name, (0, ())) for name in data_inputs(model.graph)]
        vector = len(inputs) == 1 and len(inputs[0][1]) == 2 and inputs[0][0] in FLOATS
        if vector and self.rank == 4 and self.dims[:1] in ((1,), (3,)) and min(self.dims[1:]) > 7:
            return Kind("generator", f"it makes a picture, {self.output}, of a vector")
        return None

    def _caches(self) -> bool:
        """Say whether keys and values of what came before are inputs, and come out longer."""
        graph = self.anatomy.model.graph
        given = {name for name in data_inputs(graph)
                 if len(self.anatomy.shapes.one.get(name, (0, ()))[1]) == 4}  # fmt: skip
        outputs = {value.name for value in graph.output}
        return any(
            node.op_type in CACHED
            or (node.op_type == "Concat" and given & set(node.input) and outputs & set(node.output))
            for node in graph.node
        )

    @property
    def _distributed(self) -> bool:
        return self.last is not None and (
            self.last.op_type in DISTRIBUTES
            or softmax_in_parts(self.last, self.anatomy.links.makers) is not None
        )

    @property
    def _chosen(self) -> bool:
        return self.last is not None and self.last.op_type in CHOOSES

    def segments(self) -> Kind | None:
        """Look for a map of classes in the size of a picture."""
        given = pictures(self.anatomy.model, self.anatomy.shapes)
        if not given or len(self.dims) not in (2, 3) or not self._mapped():
            return None
        sizes = {size: channels for _, channels, size in given}
        by_place = {self.dims[-2:]: self.dims[0] if len(self.dims) == 3 else 1}
        if len(self.dims) == 3:
            by_place[self.dims[:2]] = self.dims[2]  # [height, width, classes]
        for size, count in by_place.items():
            for picture, channels in sizes.items():
                if size == picture:
                    why = self._classes_of_pixels(count, channels)
                    return None if why is None else Kind("segmenter", why)
                whole = all(a % b == 0 and a // b == picture[0] // size[0]
                            for a, b in zip(picture, size, strict=True))  # fmt: skip
                if whole and min(size) > 1 and count > 1 and (self._distributed or self._chosen):
                    told = f"{self.output} says a class of each {picture[0] // size[0]}th pixel"
                    return Kind("segmenter", told)
        return None

    def _mapped(self) -> bool:
        """Say whether all outputs that are maps are so in one size; depth often comes in many."""
        shapes, sizes = self.anatomy.shapes, set()
        for value in self.anatomy.model.graph.output:
            _, dims = shapes.one.get(value.name, (0, ()))
            if len(dims) == 4:
                sizes.add(dims[2:])
        return len(sizes) <= 1

    def _classes_of_pixels(self, count: int, channels: int) -> str | None:
        """Say by what numbers per pixel are seen to be those of classes, or None."""
        told = f"{self.output} has {count} number{'' if count == 1 else 's'} for each pixel"
        end = self.last.op_type if self.last is not None else ""
        if self._chosen or (count > 1 and self._distributed):
            return f"{self.output} says a class of each pixel, by {end}"
        if end == "Sigmoid" and count not in (channels, 3):
            return f"{told}, from 0 to 1 by a Sigmoid"
        if self.kind not in FLOATS:
            return None
        if count > 1 and (self.words & SCORES or self.labels == count):
            return f"{told}, as many as there are classes" if self.labels else f"{told}, scores"
        if count >= MANY and count not in FEATURES and self.anatomy.head is not None:
            return f"{told}: scores of classes"
        return None

    def of_trees(self) -> Kind | None:
        """Look for classical models."""
        ends = [self.last.op_type] if self.last is not None else []
        head = self.anatomy.head
        ends += [head.form] if head is not None and head.form in TREES else []
        for end in ends:
            if "Classifier" in end:
                return Kind("classifier", f"{end} gives classes and their scores")
            if "Regressor" in end:
                return Kind("regressor", f"{end} gives numbers")
        return None

    def classifies(self) -> Kind | None:
        """Look for scores of classes, of a sample or of each position."""
        end = self.last.op_type if self.last is not None else ""
        if len(self.dims) > 2 and not self.row:
            return None
        of = "" if self.row else " of each position"
        if (self._distributed and self.width > 1) or self._chosen:
            by = end if self._chosen or end in DISTRIBUTES else "Softmax"
            return Kind("classifier", f"{self.output} is a choice of classes{of}, by {by}")
        if not self.width or self.kind not in FLOATS:
            return None
        told = f"{self.output} has {self.width} score{'' if self.width == 1 else 's'}{of}"
        if end == "Sigmoid" and self.anatomy.head is not None:
            return Kind("classifier", f"{told}, each a probability by a Sigmoid")
        if self.anatomy.head is None:
            return None
        if self.labels == self.width and self.width > 1:
            return Kind("classifier", f"{told}, and the file names as many classes")
        if self.words & SCORES and not self.words & VECTORS:
            return Kind("classifier", f"{told}, by its name")
        pictured = pictures(self.anatomy.model, self.anatomy.shapes)
        if self.row and self.width in IMAGENET and pictured and self._weighted:
            return Kind("classifier", f"{told}, as many as ImageNet has classes")
        return None

    @property
    def _weighted(self) -> bool:
        """Whether the output comes from a linear layer with nothing behind it."""
        head = self.anatomy.head
        return head is not None and head.activation is None and head.form not in TREES

    def encodes(self) -> Kind | None:
        """Look for vectors: pooled, normalised, or of each position."""
        if self.kind not in FLOATS or self.width < 2 or self.last is None:
            return None
        told = f"{self.output} is a vector of {self.width} numbers"
        told += "" if self.row else " for each position" if len(self.dims) == 2 else ""
        if len(self.dims) > 2 and not self.row:
            told = f"{self.output} is a map of features"
        end = self.last.op_type
        named = Kind("encoder", f"{told}, by its name") if self.words & VECTORS else None
        if len(self.dims) > 2 and not self.row:
            return Kind("encoder", f"{told}, behind {end}") if end in RECTIFIERS else named
        if self.anatomy.head is not None:
            return named
        vector = _end_of_vectors(self.last, self.anatomy)
        if vector is not None:
            return Kind("encoder", f"{told}, {vector}, and no classifier follows")
        if self.row and (end in POOLS or end in RECTIFIERS):
            return Kind("encoder", f"{told}, behind {end}, and no classifier follows")
        return named

    def gives_numbers(self) -> Kind | None:
        """Look for plain numbers."""
        if self.kind not in FLOATS or not self.row:
            return None
        if self.words & NUMBERS and self._weighted:
            return Kind("regressor", f"{self.told}, numbers by its name")
        if self.width == 1 and self._weighted and self.anatomy.head is not None:
            return Kind("regressor", f"{self.output} is one number with nothing behind it")
        return None


def _moves(node: NodeProto) -> bool:
    return node.op_type in MOVES or (node.op_type == "Concat" and len(node.input) == 1)


def _looks_back(node: NodeProto) -> bool:
    """Say whether a node hides what comes later in a sequence."""
    if node.op_type == "Trilu":
        return True
    flag = attribute(node, LOOKS_BACK.get(node.op_type, ""))
    return flag is not None and bool(flag.i)


def _end_of_vectors(node: NodeProto, anatomy: Anatomy) -> str | None:
    """Say what a node ends that only vectors end in, also where exporters spell it out."""
    if node.op_type in NORMALISES:
        return "normalised"
    makers, weights = anatomy.links.makers, {t.name for t in anatomy.model.graph.initializer}
    division: NodeProto | None = node
    while division is not None and division.op_type in ("Add", "Mul"):  # its scale and bias
        read = [name for name in division.input if name not in weights]
        division = makers.get(read[0]) if len(read) == 1 else None
    if division is None or division.op_type != "Div":
        return None
    over, under = (makers.get(name) for name in division.input)
    for _ in range(MOST_STEPS):
        if under is None or under.op_type in ("ReduceL2", "Sqrt"):
            break
        if under.op_type == "ReduceSum":
            mean = over is not None and over.op_type == "ReduceSum" and node is division
            return "the mean of what a mask holds" if mean else None
        if under.op_type not in ("Expand", "Clip", "Max", "Add", "Unsqueeze", "Cast", "Reshape"):
            return None
        under = next((makers[name] for name in under.input if name in makers), None)
    return None if under is None else "normalised"
