"""`latentctl encode CONFIG --ray N`: the shards as rows of a data set of Ray, on its cluster.

Ray starts the workers, each with a decoder of its own, and starts a worker that died again. A
shard that was encoded twice is the same.
"""

from __future__ import annotations

__all__ = ["encode_on_ray"]

from collections.abc import Callable
from typing import Any

from ..decoder.encode_job import EncodeJob
from ..decoder.shares import Given
from ..errors import InputError

ANY = 1 << 40  # more than there are tasks: a task is given by its number


def encode_on_ray(job: EncodeJob, make: Callable[[], EncodeJob], workers: int, gpu: bool) -> None:
    """Encode the missing shards of a job by workers of Ray.

    Arguments:
        job: The job.
        make: Makes the same job in a worker.
        workers: How many.
        gpu: Whether a worker takes a GPU.

    Raises:
        InputError: If Ray is not installed, or the data are a stream in one part.
    """
    try:
        import ray
    except ImportError as error:
        raise InputError('--ray needs Ray: pip install "latentctl[ray]".') from error
    source = job.reader.source
    if source.streaming and source.parts == 1:
        raise InputError(
            "--ray divides a map-style data set, or a stream in several files; this is one stream. "
            "Start processes without --ray: they share it by claims."
        )

    class Worker:
        def __init__(self) -> None:
            self.job = make()

        def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
            for task in batch["task"].tolist():
                self.job.run(Given(range(task, task + 1), ANY), progress=False)
            return batch

    tasks = [{"task": int(task)} for task in job.missing()]
    if not tasks:
        return
    shards = ray.data.from_items(tasks, override_num_blocks=min(len(tasks), 8 * workers))
    needs = {"num_gpus": 1} if gpu else {"num_cpus": 1}
    shards.map_batches(Worker, batch_size=1, concurrency=workers, **needs).materialize()
