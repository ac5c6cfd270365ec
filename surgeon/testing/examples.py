"""What an offer brings to be tried on: models, data and settings of its own.

What must not enter: what is tried.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from surgeon.records import Example

if TYPE_CHECKING:
    from pathlib import Path

    from surgeon.plugin.manager import Found


def examples(found: Found[Any], folder: Path) -> list[Example]:
    """Return an offer's own examples, none where it names none.

    Args:
        found: the offer.
        folder: where examples may put files.

    Raises:
        PluginError: they cannot be made, or are something else.
    """
    if not found.offer.example:
        return []
    make = found.load(found.offer.example)
    try:
        made = make(folder)
        listed = [made] if isinstance(made, Example) else list(made)
    except Exception as error:
        raise found.wrong(error) from error
    wrong = [type(one).__name__ for one in listed if not isinstance(one, Example)]
    if wrong or not listed:
        raise found.wrong(f"{found.offer.example} gives {wrong[0] if wrong else 'no Example'}")
    return listed
