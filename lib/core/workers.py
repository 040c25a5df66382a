"""Many tasks: worker processes, and a progress bar."""

import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context, parent_process

from tqdm import tqdm

PRELOADED = ["pymatgen.core", "pyarrow.parquet", "scipy.optimize"]  # none of them starts threads
WORTH_A_POOL = 64  # short tasks, such as single points or pairs to match; fewer end before workers have started
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def progress(items: Iterable | None = None, **options):
    """A progress bar with rate and time left; shown only for what takes longer than a second, and by the first process
    alone: a worker's own would stand between its lines."""
    return tqdm(items, delay=1, mininterval=1, **{"disable": parent_process() is not None} | options)


def do_all(task: Callable[..., object], arguments: Sequence[tuple], n_workers: int, **bar) -> None:
    """Call `task`, whose result is what it writes, with each tuple of arguments: in processes, or in this one alone."""
    if len(arguments) == 1:  # which may have a bar of its own
        task(*arguments[0])
        return
    if n_workers <= 1 or not arguments:
        for several in progress(arguments, **bar):
            task(*several)
        return
    with worker_pool(min(n_workers, len(arguments))) as pool:
        jobs = [pool.submit(task, *several) for several in arguments]
        for job in progress(as_completed(jobs), total=len(jobs), **bar):
            job.result()


@contextmanager
def spread(n_workers: int, n: int = WORTH_A_POOL, chunksize: int = 1) -> Iterator[Callable[..., Iterator]]:
    """A `map` over worker processes where there are several and n short tasks are worth it, else in this process."""
    if n_workers > 1 and n >= WORTH_A_POOL:
        with worker_pool(n_workers) as pool:
            yield partial(pool.map, chunksize=chunksize)
    else:
        yield map


@contextmanager
def worker_pool(n_workers: int) -> Iterator[ProcessPoolExecutor]:
    """Processes of one thread each: threads of several workers that wait for one another slow them down fiftyfold.

    The libraries read the number of threads when they are loaded, so workers must find it in their environment; MKL
    and OpenBLAS heed their own variables, which Snakemake sets, before OpenMP's. Workers are forked from a small
    process that has loaded what nearly all of them use and stays for the next pool: the second is there at once. They
    do not run the calling script, which need not guard its lines by the name of its module: tasks are a module's own.
    """
    script = vars(sys.modules["__main__"])
    file = script.pop("__file__", None) if script.get("__spec__") is None else None
    context = get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ |= dict.fromkeys(THREAD_VARIABLES, "1")
    try:
        with ProcessPoolExecutor(n_workers, mp_context=context, initializer=_end_with_parent) as pool:
            try:
                yield pool
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    finally:
        if file is not None:
            script["__file__"] = file
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever, holding its memory."""

    def wait() -> None:
        parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
