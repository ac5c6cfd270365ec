"""`--embed-preprocess`: a graph that takes pictures as they are decoded, of any size."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from surgeon.data.media.pictures import as_values, image_input
from surgeon.errors import UsageError
from surgeon.graph import encodings, envelope, pixels, rule
from surgeon.graph.shapes import input_infos
from surgeon.records import Preprocess

if TYPE_CHECKING:
    import onnx

    from surgeon.exporting.given import Feeds, Given

SIZES = ((97, 131), (301, 202))
"""Height and width of the pictures that are drawn for the proof."""


def make(made: onnx.ModelProto, given: Given) -> onnx.ModelProto:
    """Return the graph with the preparing of pictures in front.

    Raises:
        UsageError: the file takes no pictures, or prepares them already.
    """
    how = given.model.preprocess
    info = image_input(input_infos(made), {})
    if not isinstance(how, Preprocess) or info is None or how.embedded:
        raise UsageError(
            "the file prepares its pictures itself already"
            if isinstance(how, Preprocess) and how.embedded
            else "nothing in the file says how pictures become its input",
            where="--embed-preprocess",
            remedy="leave it out",
        )
    result = pixels.embedded(made, info.name, how)
    (name,) = {one.name for one in result.graph.input} - {one.name for one in made.graph.input}
    now = replace(how, embedded=True, draft=False)
    envelope.put(result, envelope.PREPROCESS, encodings.as_document(now))
    for key, text in rule.image_metadata(now).items():
        envelope.put_text(result, key, text)

    def before(feeds: Feeds) -> dict[str, Any]:
        """Prepare pictures as they are prepared for the source."""
        pictures = [Image.fromarray(one) for one in feeds[name]]
        values = np.stack([as_values(picture, how, info) for picture in pictures])
        return {one: value for one, value in feeds.items() if one != name} | {info.name: values}

    given.inputs.append(before)
    given.golden.extend(_drawn(seed, name, size) for seed, size in enumerate(SIZES))
    return result


def _drawn(seed: int, name: str, size: tuple[int, int]) -> dict[str, Any]:
    """Return what a proof says of a picture that is drawn by a seed."""
    sizes = {f"{name}:{axis}": side for axis, side in enumerate(size, 1)}
    return {"seed": seed, "constants": {}, "sizes": sizes, "ranges": {name: [0, 255]}}
