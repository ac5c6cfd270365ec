"""Does work ahead in threads, results in order. What must not enter: what the work is."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future

Item = TypeVar("Item")
Result = TypeVar("Result")


def work_ahead(
    work: Callable[[Item], Result], items: Iterable[Item], lanes: int
) -> Iterator[Result]:
    """Apply `work` to items in `lanes` threads; results come in the order of the items.

    At most two items a lane are in work or waiting to be taken, so that memory stays bounded. What
    `work` raises is raised here in its turn, when all that has begun is done. Leaving the loop
    early stops what has not begun; what has ends by itself.
    """
    stop = threading.Event()

    def guarded(item: Item) -> Result | None:
        # A cancelled future may already be on its way to a thread.
        return None if stop.is_set() else work(item)

    pool = ThreadPoolExecutor(lanes, thread_name_prefix="surgeon-lane")
    pending: deque[Future[Result | None]] = deque()
    left = iter(items)
    waits = True
    try:
        while True:
            while len(pending) < 2 * lanes:
                try:
                    item = next(left)
                except StopIteration:
                    break
                pending.append(pool.submit(guarded, item))
            if not pending:
                return
            yield cast("Result", pending.popleft().result())
    except GeneratorExit:
        # The collector of cycles may be what ends it, in the middle of anything and in any thread:
        # one that is just starting would be waited for by itself.
        waits = False
        raise
    finally:
        stop.set()
        pool.shutdown(wait=waits, cancel_futures=True)
