"""The command that makes a run again, as far as a document knows it.

What must not enter: running it.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from surgeon.options import every

if TYPE_CHECKING:
    from collections.abc import Mapping

    from surgeon.options import Option
    from surgeon.reporting.told import Told

JOINED = {"size": "x", "audio": ","}
"""What stands between numbers, by the form of their option."""
LEFT_OUT = ("out", "report", "force", "resume", "dry_run", "track")
"""Options that change nothing of what comes out; `out` is written last."""


def told(run: Told | None) -> dict[str, Any] | None:
    """Return the command, or what stands for it where a run was no command; None without a run."""
    if run is None:
        return None
    asked = run.at("asked")
    if not asked:
        return {"command": None, "versions": {}, "options": {}}
    return {
        "command": command(asked), "versions": asked.get("versions") or {},
        "options": asked.get("options") or {},
    }  # fmt: skip


def command(asked: Mapping[str, Any]) -> str | None:
    """Return the command line of a run; None where its model was no file."""
    if asked.get("model") is None:
        return None
    words = ["surgeon", "finetune", str(asked["model"]), str(asked["data"])]
    options, known = asked.get("options") or {}, every()
    for name, value in options.items():
        if name in known and name not in LEFT_OUT:
            words += _words(known[name], value)
    if options.get("out") is not None:
        words += ["-o", str(options["out"])]
    return " ".join(map(shlex.quote, words))


def _words(one: Option, value: Any) -> list[str]:
    """Return an option as it is written."""
    if isinstance(one.default, bool):
        if one.default:
            return [one.flags[0] if one.flags else one.flag.replace("--", "--no-", 1)]
        return [one.flag]
    if isinstance(value, dict):
        value = [f"{name}={one}" for name, one in value.items()]
    elif isinstance(value, list) and one.form in JOINED:
        value = JOINED[one.form].join(f"{part:g}" for part in value)
    if isinstance(value, list):
        return [word for single in value for word in (one.flag, str(single))]
    return [one.flag, f"{value:g}" if isinstance(value, float) else str(value)]
