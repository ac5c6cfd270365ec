"""A file in other forms, proven against the one it was made from.

`verb` has the order of the steps, `chain` the list of forms in the order in which they are made. A
form is a file of its own; what it may know of the export, and must leave to be compared by, is in
`given`.
"""

from __future__ import annotations

from surgeon.exporting.verb import export

__all__ = ["export"]
