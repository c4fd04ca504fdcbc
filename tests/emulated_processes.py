"""Several processes emulated by threads of one: each has an accelerator with a rank of its own."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import torch
from accelerate import Accelerator


class Rank:
    """An `Accelerator` of process `index` of `count`; `shared` are all their parts in a sum."""

    def __init__(self, plain, index, barrier, shared):
        self.plain, self.process_index, self.barrier, self.shared = plain, index, barrier, shared
        self.num_processes, self.is_main_process = len(shared), index == 0

    def __getattr__(self, name):
        return getattr(self.plain, name)

    def wait_for_everyone(self):
        self.barrier.wait()

    def reduce(self, tensor, reduction):
        assert reduction == "mean"
        self.shared[self.process_index] = tensor
        self.barrier.wait()
        total = torch.stack(self.shared).sum(0) / len(self.shared)
        self.barrier.wait()
        return total


def run_on(count, work):
    """`work(accelerator)` of each of `count` processes, by rank."""
    barrier, shared, plain = threading.Barrier(count), [None] * count, Accelerator()

    def one(index):
        try:
            return work(Rank(plain, index, barrier, shared))
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))
