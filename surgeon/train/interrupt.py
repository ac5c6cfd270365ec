"""Ctrl-C, remembered. What must not enter: what is interrupted."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from types import FrameType


class Interrupt:
    """A context that remembers Ctrl-C: Python drops one that falls into a finalizer or a callback.

    In another thread, or where another's handler is in place, that is theirs to decide.
    """

    def __init__(self) -> None:
        self._pressed = threading.Event()
        self._before: Any = None

    def __enter__(self) -> Self:
        before = signal.getsignal(signal.SIGINT)
        ours = threading.current_thread() is threading.main_thread()
        if ours and before is signal.default_int_handler:
            self._before = before
            signal.signal(signal.SIGINT, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def check(self) -> None:
        """Raise what was dropped.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed.
        """
        if self._pressed.is_set():
            raise KeyboardInterrupt

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self._pressed.set()
        signal.default_int_handler(number, frame)
