"""The page `docs/reference/hooks.md`: every hook, made of `surgeon.plugin.hooks` and the offers.

`make docs` writes it anew; `test_hooks_page.py` fails where it is stale, and runs its examples.
"""

from __future__ import annotations

import inspect
import re
import sys
from dataclasses import MISSING, fields
from pathlib import Path
from textwrap import dedent

from surgeon import offers
from surgeon.plugin import hooks
from surgeon.plugin.manager import KINDS

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))
PAGE = ROOT / "docs" / "reference" / "hooks.md"

HEAD = """# Hooks

Written by `make docs`; a test fails where it is stale, and runs every example as it stands here.
[docs/plugins.md](../plugins.md) is the guide; `surgeon plugins new` writes a distribution.

A plugin is a module that an entry point in the group `surgeon` names. Its functions that are called
like a hook are its hooks.

```toml
[project.entry-points.surgeon]
mine = "my_case"
```

The module is imported whenever plugins are asked, for `surgeon --help` too: at import it uses the
standard library, `surgeon.records` and `surgeon.plugin` alone. What is heavy lies in another one,
named `"module:attribute"` and imported when it is used. Keyword-only parameters of that code are
the settings of the offer: `name:key=value,key=value`.

Every offer takes `example="module:attribute"`, a function `(folder) -> Example` or several of them:
what `surgeon plugins check` tries it on where small networks do not do
([checking a plugin](../plugins.md#checking-a-plugin)).

{example}
## What plugins may import

{public}, and the names of `surgeon` itself (`import surgeon`).
Tests and examples may import `surgeon.testing`, too.
Anything else may change without notice.

## Version and compatibility

`surgeon.plugin.API` is {api}. A plugin may say which version it is written for:

```python
SURGEON_API = {api}
```

Where that is more than this surgeon has, or less than {oldest}, the plugin is not loaded: one
warning line names its distribution and what to install. Without it, a plugin is taken as it is.

The number rises when a plugin that worked may stop to: a hook, record, field, parameter or public
name is removed or renamed; code is called with something else, or must return something else; a
value that was taken is refused. Then the old way goes on working, with a warning, for one minor
release at least. What is added leaves the number as it is: a hook, a field with a default, a
parameter that is given by its name to those who ask for it.

## What goes wrong

| | |
|---|---|
| a module that cannot be imported, or is for a newer API | not loaded; one warning line |
| a hook of a name, or with parameters, that there are not | not loaded; one warning line |
| a hook that raises, or yields something else | passed over; one warning line |
| two distributions offer one name | an error that names both |
| the code behind an offer raises, or gives something else | one error |

Each line and error names the distribution, its version and what to do.

| set | |
|---|---|
| `SURGEON_STRICT_PLUGINS=1` | every such warning is an error, exit 2 |
| `SURGEON_DISABLE_PLUGINS=a,b` | entry points or distributions that are left out |
| `--no-plugins` | only ours are loaded |
| `SURGEON_TRACE_PLUGINS=1`, `-vv` | each call of a hook on stderr: whose, what it gave, how long |

A distribution that is not ours is named on stderr before its code is used for the first time, once
(`plugin: their-dist 1.0 (case half-way)`); not with `--json` or `-q`. Loggers: `surgeon.plugin`.
"""


def page() -> str:
    """Return the whole page."""
    from rooms import PUBLIC

    told = [f"`surgeon.{name}`" for name in sorted([*PUBLIC, "train.objective"])]
    public = ", ".join(told)
    example = "\n".join(_record(offers.Example))
    parts = [HEAD.format(public=public, api=hooks.API, oldest=hooks.OLDEST, example=example)]
    return "\n".join(parts + [_section(name) for name in specs()])


def specs() -> list[str]:
    """Return the names of the hooks, in the order of their file."""
    found = re.findall(r"^def (surgeon_\w+)", inspect.getsource(hooks), re.MULTILINE)
    assert found
    return found


def example(name: str) -> tuple[dict[str, str], list[str]]:
    """Return the example of a hook: {file name: text}, the plugin first, and command lines."""
    text = dedent(_doc(name).split("Example:\n")[1])
    lines = [line[2:] for line in text.splitlines() if line.startswith("$ ")]
    code = re.split(r"^\$ ", text, maxsplit=1, flags=re.MULTILINE)[0]
    parts = re.split(r"^# (\w+\.py)\n", code, flags=re.MULTILINE)[1:]
    return {
        file: f"{body.strip()}\n" for file, body in zip(parts[::2], parts[1::2], strict=True)
    }, lines


def _doc(name: str) -> str:
    return inspect.getdoc(getattr(hooks, name)) or ""


def _section(name: str) -> str:
    spec = getattr(hooks, name)
    signature = re.sub(r"[\"']", "", str(inspect.signature(spec)))
    files, lines = example(name)
    parts = [f"## `{name}`", "", f"```python\n{name}{signature}\n```", ""]
    parts += [_doc(name).split("Example:\n")[0].strip(), ""]
    parts += _offer(name)
    for file, text in files.items():
        parts += [f"```python\n# {file}\n{text}```", ""]
    shell = "\n".join(lines)
    return "\n".join([*parts, f"```sh\n{shell}\n```", ""])


def _offer(hook: str) -> list[str]:
    """Return what a hook yields, as its docstring says it."""
    kind = next((kind for kind, (_, one, _) in KINDS.items() if one == hook), None)
    if kind is None:
        return []
    from surgeon import records

    return _record(getattr(offers, kind, None) or getattr(records, kind))


def _record(record: type) -> list[str]:
    """Return what a record holds, as its docstring says it."""
    given = ", ".join(
        one.name if one.default is MISSING else f"{one.name}={one.default!r}"
        for one in fields(record)
        if not one.kw_only
    )
    summary, _, rest = (inspect.getdoc(record) or "").partition("Attributes:\n")
    attributes = re.sub(r"\s*\n {4,}(?! )", " ", f"\n{dedent(rest)}".replace("\n    ", " "))
    listed = [f"- `{line.partition(':')[0]}`:{line.partition(':')[2]}"
              for line in attributes.strip().splitlines() if line.strip()]  # fmt: skip
    return [
        f"`{record.__name__}({given})`: {summary.strip()}",
        "",
        *listed,
        *([""] if listed else []),
    ]


if __name__ == "__main__":
    if "--write" in sys.argv:
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(page(), "utf-8")
    else:
        print(page())
