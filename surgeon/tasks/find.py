"""The code of a task by its name, ours by the same way as anyone's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from surgeon.errors import SurgeonError
from surgeon.records import Task

if TYPE_CHECKING:
    from collections.abc import Mapping

    from surgeon.plugin.manager import Plugins
    from surgeon.tasks.base import TaskCode


def find_task(
    name: str, plugins: Plugins | None = None, stored: Mapping[str, Any] | None = None
) -> TaskCode:
    """Return the code of a task.

    Args:
        name: the word behind `--task`.
        plugins: loaded plugins; None loads them.
        stored: what a file stores of the task; see `TaskCode.calibrate`.

    Raises:
        UnknownNameError: there is none of this name.
        EnvironmentLacksError: a package that it needs is not installed.
        PluginError: it cannot be loaded, or made.
    """
    if plugins is None:
        from surgeon.plugin.manager import load_plugins

        plugins = load_plugins()
    found = plugins.offer(Task, name)
    make = found.load()
    try:
        code: TaskCode = make(stored or {})
    except SurgeonError:
        raise
    except Exception as error:
        if found.own:
            raise
        raise found.wrong(error) from error
    return code
