"""What a medium of one's own is made of: for the code behind a `Medium` that a plugin offers.

What must not enter: anything of its own.
"""

from surgeon.data.samples import Given
from surgeon.data.sources import SourceSamples, UnreadableError, ValueSamples

__all__ = ["Given", "SourceSamples", "UnreadableError", "ValueSamples"]
