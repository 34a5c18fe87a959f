"""TVM's threads: as many as are asked for, on processors of their own where that is asked for.

TVM keeps a pool of threads for every thread that calls it. The pool is made when that thread first needs it, and never
grows. Unless it is told otherwise, its size is half the number of processors.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from ctypes import CDLL
from functools import cache
from pathlib import Path
from typing import TypeVar

from .runtime import load_runtime

T = TypeVar("T")

_ONE_EACH, _ALL = -2, -3
"""TVM's ways to place the threads of a pool: a processor for each, or the same ones for all."""

_local = threading.local()


def called(threads: int, pin: bool, function: Callable[[], T]) -> T:
    """Call a function that runs kernels with exactly so many threads, this one counted.

    With `pin` each of them is tied to a processor of its own, of those that this process may use, and this one stays
    tied to the first until it calls without. Where TVM has fewer threads for this thread already, another thread
    that has all of them makes the call, and this one waits.
    """
    if use(threads, pin):
        return function()
    return _other(threads, pin).submit(function).result()


def use(threads: int, pin: bool = False) -> bool:
    """Have kernels that this thread calls run with so many threads; whether it could be done.

    Threads beyond those that this thread had before sleep.
    """
    if getattr(_local, "state", None) == (threads, pin):
        return True
    _most(threads)
    query = load_runtime().get_global_func
    if threads > 1 and int(query("runtime.NumThreads")()) != threads:
        _place(_ALL, threads, _chosen(threads))
        if int(query("runtime.NumThreads")()) != threads:
            return False
    if pin:
        _pin(threads)
    elif getattr(_local, "pinned", False):
        _release(threads)
    _local.state = threads, pin
    return True


def _most(threads: int) -> None:
    """The number of threads that this thread's pool gets when it is made; with one there is none.

    TVM has no registered function that says so without making the pool.
    """
    load_runtime()
    CDLL(None)["_ZN3tvm7runtime9threading17SetMaxConcurrencyEi"](threads)


def _pin(threads: int) -> None:
    if threads > 1:
        _bound(_ONE_EACH, threads, _chosen(threads))
    os.sched_setaffinity(0, _chosen(1))
    _local.pinned = True


def _release(threads: int) -> None:
    if threads > 1:
        _bound(_ALL, threads, _processors())
    os.sched_setaffinity(0, _processors())
    _local.pinned = False


def _bound(mode: int, threads: int, processors: list[int]) -> None:
    """Place a pool's threads, which TVM leaves alone otherwise (`load_runtime`)."""
    before = os.environ.get("TVM_BIND_THREADS")
    os.environ["TVM_BIND_THREADS"] = "1"
    try:
        _place(mode, threads, processors)
    finally:
        if before is None:
            del os.environ["TVM_BIND_THREADS"]
        else:
            os.environ["TVM_BIND_THREADS"] = before


def _place(mode: int, threads: int, processors: list[int]) -> None:
    load_runtime().get_global_func("runtime.config_threadpool")(mode, threads, [str(p) for p in processors])
    _most(threads)  # which TVM has set to the number of processors


def _chosen(threads: int) -> list[int]:
    own = _processors()
    return [own[i % len(own)] for i in range(threads)]


@cache
def _processors() -> list[int]:
    """The processors that this process may use, read before any thread of it is pinned: one of each core first."""
    own = sorted(os.sched_getaffinity(os.getpid()))
    cores = {p: _core(p) for p in own}
    first = {cores[p]: p for p in reversed(own)}
    return sorted(own, key=lambda p: (first[cores[p]] != p, p))


def _core(processor: int) -> str:
    """The processors that share a core with one; itself, where the system does not say."""
    try:
        return Path(f"/sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list").read_text()
    except OSError:
        return str(processor)


_others: dict[tuple[int, bool], ThreadPoolExecutor] = {}
_lock = threading.Lock()


def _other(threads: int, pin: bool) -> ThreadPoolExecutor:
    """A thread that has as many, kept."""
    with _lock:
        if (threads, pin) not in _others:
            executor = ThreadPoolExecutor(1, "netc", _start, (threads, pin))
            _others[threads, pin] = executor
        return _others[threads, pin]


def _start(threads: int, pin: bool) -> None:
    if not use(threads, pin):  # a new thread has no pool
        raise RuntimeError(f"TVM does not run with {threads} threads")
