"""One function over many jobs: in this process, in a pool of processes, or on a Ray cluster."""

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Literal, TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")
Engine = Literal["pool", "ray"]


def cores() -> int:
    """Those that this process may use, which in a container are fewer than there are."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux has it
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def over(
    function: Callable[[Job], Result], jobs: Sequence[Job], workers: int, engine: Engine = "pool"
) -> Iterator[Result]:
    """Yield the results as they come, in any order.

    `function` and the jobs must be picklable. With "ray", `workers` counts the CPUs of a local
    cluster; one that RAY_ADDRESS names is taken as it is. When the iterator is closed, no job runs
    any more.

    Raises what `function` raises, ChildProcessError if a worker is killed, and ModuleNotFoundError
    without the extra `ray`.
    """
    workers = min(workers, len(jobs))
    if engine == "ray":
        yield from _over_ray(function, jobs, workers)
    elif workers <= 1:
        yield from map(function, jobs)
    else:
        # spawn: a fork would copy the threads' locks of torch and of the progress bar
        with ProcessPoolExecutor(
            workers,
            multiprocessing.get_context("spawn"),
            initializer=_end_with_parent,
            initargs=(os.getpid(),),
        ) as pool:
            futures = [pool.submit(function, job) for job in jobs]
            try:
                for future in as_completed(futures):
                    yield future.result()
            except BrokenProcessPool as error:
                raise ChildProcessError(
                    "a worker was killed, perhaps for want of memory: take fewer --workers"
                ) from error
            finally:
                pool.shutdown(wait=True, cancel_futures=True)


def _over_ray(
    function: Callable[[Job], Result], jobs: Sequence[Job], workers: int
) -> Iterator[Result]:
    try:
        import ray
        from ray.exceptions import RayTaskError
    except ModuleNotFoundError as error:
        message = "--engine ray needs the extra: pip install 'fcmae[ray]'"
        raise ModuleNotFoundError(message) from error
    address = os.environ.get("RAY_ADDRESS")
    ray.init(
        address=address,
        num_cpus=None if address else workers,
        include_dashboard=False,
        log_to_driver=False,
    )
    waiting = []
    try:
        remote = ray.remote(function)
        waiting = [remote.remote(job) for job in jobs]
        while waiting:
            done, waiting = ray.wait(waiting)
            yield from ray.get(done)
    except RayTaskError as error:
        raise error.cause from None  # what the function raised, without the remote stack
    finally:
        for task in waiting:
            ray.cancel(task, force=True)
        if waiting:
            ray.wait(waiting, num_returns=len(waiting))  # shutdown alone leaves a cluster at work
        ray.shutdown()


def _end_with_parent(parent: int) -> None:
    """End this worker when its parent is killed, which a pool does not notice by itself."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
