"""Running a function on many jobs: in this process, in a pool of processes, or on a Ray cluster."""

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Literal, TypeVar

from fcmae.run.extras import extra

Job = TypeVar("Job")
Result = TypeVar("Result")
Engine = Literal["pool", "ray"]


def over(
    function: Callable[[Job], Result], jobs: Sequence[Job], workers: int, engine: Engine = "pool"
) -> Iterator[Result]:
    """Call a function on every job, and yield the results in the order in which they arrive.

    Once the iterator is closed, no job runs any more.

    Args:
        function: What to call; it must be picklable.
        jobs: The arguments, one for each call; they must be picklable.
        workers: The number of processes. With "ray", the number of CPUs of a local cluster; a
            cluster that RAY_ADDRESS names keeps its size.
        engine: "pool" for processes of this machine, "ray" for a Ray cluster.

    Raises:
        ChildProcessError: A worker was killed.
        ModuleNotFoundError: The engine is "ray", and the extra `ray` is not installed.
        Exception: Whatever `function` raises.
    """
    workers = min(workers, len(jobs))
    if engine == "ray":
        yield from over_ray(function, jobs, workers)
    elif workers <= 1:
        yield from map(function, jobs)
    else:
        # spawn: a fork would copy the threads' locks of torch and of the progress bar
        with ProcessPoolExecutor(
            workers,
            multiprocessing.get_context("spawn"),
            initializer=end_with_parent,
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


def over_ray(
    function: Callable[[Job], Result], jobs: Sequence[Job], workers: int
) -> Iterator[Result]:
    """Call a function on every job with Ray, as `over` does."""
    with extra("ray", "--engine ray needs"):
        import ray
        from ray.exceptions import RayTaskError
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
        raise error.cause from None  # the error of the function, without the remote stack
    finally:
        for task in waiting:
            ray.cancel(task, force=True)
        if waiting:
            ray.wait(waiting, num_returns=len(waiting))  # shutdown alone leaves a cluster at work
        ray.shutdown()


def end_with_parent(parent: int) -> None:
    """End this worker once its parent is killed, since a pool does not do that by itself."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
