from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest

from surgeon.data import work_ahead


def test_results_come_in_order():
    def slow_when_even(number):
        time.sleep(0.01 * (number % 2 == 0))
        return number * number

    assert list(work_ahead(slow_when_even, range(20), 4)) == [n * n for n in range(20)]
    assert list(work_ahead(slow_when_even, [], 2)) == []


def test_it_works_in_threads_and_runs_only_a_little_ahead():
    begun = []
    results = work_ahead(lambda n: begun.append(n) or threading.get_ident(), range(100), 3)
    idents = {next(results) for _ in range(5)}
    assert threading.get_ident() not in idents
    time.sleep(0.05)
    assert len(begun) <= 5 + 6
    results.close()
    after = len(begun)
    time.sleep(0.05)
    assert len(begun) == after < 20


def test_leaving_early_waits_for_no_thread():
    """The collector may be what leaves, in a thread that is just starting."""
    gate = threading.Event()
    results = work_ahead(lambda n: n == 0 or gate.wait(30), range(9), 2)
    assert next(results)
    leaving = threading.Thread(target=results.close)
    leaving.start()
    leaving.join(20)
    left = not leaving.is_alive()
    gate.set()
    assert left


def test_an_error_comes_in_its_turn():
    results = work_ahead(lambda n: 1 // (n - 2), range(9), 2)
    assert [next(results), next(results)] == [-1, -1]
    with pytest.raises(ZeroDivisionError):
        next(results)
    with pytest.raises(StopIteration):
        next(results)


def test_reading_data_imports_no_engine():
    code = (
        "import sys, surgeon.data, surgeon.graph.preprocess, surgeon.runtime.features\n"
        "heavy = {'torch', 'onnxruntime', 'datasets', 'sklearn', 'pandas', 'pyarrow'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout.strip() == "[]"
