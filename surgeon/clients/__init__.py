"""What runs a file elsewhere: a side file that says everything, and programs in other languages.

`facts` finds what a client must know of a file, `describe` writes it as JSON, `programs` fills the
templates, one for each language. What must not enter: how a file is made.
"""

from __future__ import annotations

from surgeon.clients.describe import describe
from surgeon.clients.facts import Facts, find_facts
from surgeon.clients.programs import LANGUAGES, Language, program

__all__ = ["LANGUAGES", "Facts", "Language", "describe", "find_facts", "program"]
