"""What several processes of one training run, on one machine or more, do in turns or share out."""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def first_on_each_disk(arguments: Any) -> Iterator[None]:
    """One process goes first, then one of each other machine, then the rest.

    So files are made once on a disk that the machines share, and once per machine where each has its own.

    Args:
        arguments: TrainingArguments.
    """
    with arguments.main_process_first(local=False), arguments.main_process_first(local=True):
        yield


def shares(arguments: Any) -> list[tuple[int, int]]:
    """Rank and number of processes, among all and then among those of this machine.

    Files that are shared out by the first are all there already on a disk that the machines share; where each
    has its own, sharing out what is missing by the second completes them.
    """
    local = int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # of torchrun and accelerate
    everywhere = [(arguments.process_index, arguments.world_size)]
    return everywhere + [(arguments.local_process_index, local)] * (local < arguments.world_size)


def leave_group(trainer: Any) -> None:
    """End the exchange between processes, if there is one.

    All that uses it must be gone by then: threads that are still there when Python exits abort the process.
    """
    if torch.distributed.is_initialized():
        trainer.model_wrapped = trainer.model
        trainer.callback_handler.optimizer = trainer.optimizer = None
        trainer.accelerator.free_memory()  # drops the wrapped model, and collects garbage
        gc.collect()
        torch.distributed.destroy_process_group()
