"""Videos: the frame in the middle stands for the whole."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from surgeon.data.sources import UnreadableError

if TYPE_CHECKING:
    from PIL import Image


def read(content: bytes) -> Image.Image:
    """Return the frame shown at half of the time, upright."""
    import av

    with av.open(io.BytesIO(content), "r") as file:
        if not file.streams.video:
            raise UnreadableError("there is no picture in it")
        stream = file.streams.video[0]
        middle = (file.start_time or 0) + (file.duration or 0) // 2  # in millionths of a second
        if middle:
            file.seek(middle)  # to the key frame in front of it
        frame = None
        for frame in file.decode(stream):
            if frame.time is not None and frame.time * 1_000_000 >= middle:
                break
        if frame is None:
            raise UnreadableError("it has no frame")
        image: Image.Image = frame.to_image()  # type: ignore[no-untyped-call]
        turned = getattr(frame, "rotation", 0)
        return image.rotate(turned, expand=True) if turned else image
