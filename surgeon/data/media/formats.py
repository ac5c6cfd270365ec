"""Content in a further format of a medium: which one it is, and what its reader makes of it.

What must not enter: a format, or a library that reads one.
"""

from __future__ import annotations

import io
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, UnidentifiedImageError

from surgeon.data.sources import UnreadableError, broken, content_of
from surgeon.errors import EnvironmentLacksError
from surgeon.extras import need

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from surgeon.data.samples import Source
    from surgeon.records import Medium


def open_picture(source: Source, name: str) -> AbstractContextManager[Image.Image]:
    """Open a picture in any format that is known.

    Args:
        source: where it is, its content, or the picture itself.
        name: of the sample; its ending may say the format.

    Raises:
        UnreadableError: there is no content, or its reader refuses it.
        UnidentifiedImageError: nobody knows the format.
    """
    if isinstance(source, Image.Image):
        return nullcontext(source)
    content = content_of(source)
    try:
        return Image.open(io.BytesIO(content))
    except UnidentifiedImageError:
        found: Image.Image | None = read_further("pictures", name, content)
        if found is None:
            raise
        return found


def read_further(medium: str, name: str, content: bytes) -> Any:
    """Return what the reader of a further format makes of content; None where it is in none.

    Raises:
        UnreadableError: it refuses the content, or is not installed.
    """
    from surgeon.data.media.registry import formats, reader_of

    known = [one for one in formats() if one.of == medium]
    marked = (one for one in known if any(content.startswith(m, at) for at, m in one.marks))
    ending = Path(name).suffix.lower()
    form = next(marked, None) or next((one for one in known if ending in one.suffixes), None)
    if form is None:
        return None
    try:
        require_reader(form)
        return reader_of(form)(content)
    except (KeyboardInterrupt, MemoryError, UnreadableError):
        raise
    except EnvironmentLacksError as error:
        raise UnreadableError(f"{error.message}: {error.remedy}") from None
    except Exception as error:  # noqa: BLE001 - readers raise anything on broken files
        raise broken(content, " ".join(str(error).split()) or type(error).__name__) from None


def require_reader(form: Medium) -> None:
    """Make sure that a format can be read here.

    Raises:
        EnvironmentLacksError: what reads it is not installed; says which extra brings it.
    """
    if form.needs:
        need(form.needs, f"reading {form.name} ({', '.join(form.suffixes[:2])})")
