"""The command line: one small file per verb, and nothing that a verb could do without it.

A verb reads its options, calls `surgeon.operation` and says how the answer looks to people.
What must not enter: model, data or training logic, and any import at module level beyond the
standard library and click (`surgeon --help` has to stay instant; rich is loaded to draw, never
before).
"""

from surgeon.cli.entry import main

__all__ = ["main"]
