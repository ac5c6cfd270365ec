"""One page that tells a run, or a file: what was decided and why, how it learnt, how good it is.

`verb` reads documents and files and writes the page, `view` decides what the page shows, `told`
writes its numbers and `charts` draws; the templates lay it out. The page asks for nothing from
outside and runs no script. What must not enter: any figure that stands in no document.
"""

from __future__ import annotations

from surgeon.reporting.verb import page, report, write

__all__ = ["page", "report", "write"]
