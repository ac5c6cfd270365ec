"""Plugins: typed hooks and the manager that loads them.

A plugin module imports the standard library, `surgeon.records` and this package, nothing else, at
import: the command line imports it to show its help.
"""

from surgeon.plugin.hooks import API, hookimpl, hookspec

__all__ = ["API", "hookimpl", "hookspec"]
