"""The page `docs/options.md`: every option, made of `surgeon.options`.

`make docs` writes it anew; `test_options.py` fails where it is stale.
"""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path

from surgeon.options import GROUPS, every

PAGE = Path(__file__).resolve().parents[2] / "docs" / "options.md"

HEAD = """# Options

Written by `make docs`; a test fails where it is stale. In Python an option is a keyword of the
function of the same name (`--max-length 64` is `max_length=64`; what *may be repeated* is a list or
a dict); `surgeon VERB --help` and `help(surgeon.VERB)` say the same.
"""


def page() -> str:
    """Return the whole page."""
    parts = [HEAD]
    for group in GROUPS.values():
        parts += [
            f"## {(group.__doc__ or '').rstrip('.')}",
            "",
            "| option | takes | default | verbs | |",
            "|---|---|---|---|---|",
            *(_row(one.name) for one in fields(group)),
            "",
        ]
    return "\n".join(parts)


def _row(name: str) -> str:
    one = every()[name]
    flags = ", ".join(f"`{flag}`" for flag in one.flags or (one.flag,))
    default = "" if one.default in (None, ()) else str(one.default)
    cells = (
        flags if one.default is not True else f"{flags}, `{one.flag.replace('--', '--no-', 1)}`",
        f"`{one.values}`" if one.words or one.metavar else one.values,
        {"True": "yes", "False": "no"}.get(default, default),
        " ".join(one.verbs),
        one.help,
    )
    shown = " | ".join(cell.replace("|", "\\|") for cell in cells)
    return f"| {shown} |"


if __name__ == "__main__":
    if "--write" in sys.argv:
        PAGE.write_text(page(), "utf-8")
