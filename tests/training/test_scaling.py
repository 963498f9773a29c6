"""The same training on any number of processes: gloo groups of 2 and 4, started once for all cases."""

import multiprocessing
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.model.reviews import make_trainer, some_lengths, some_reviews


def train(rank: int, processes: int, folder: Path) -> None:
    """One process of a run; rank 0 leaves losses, test figures and weights in ``folder``.

    Of 50 reviews in batches of 16 the last batch has 2, so two of four processes have none. Plain gradient
    descent: the weights are the sum of the gradients, so equal weights are equal gradients.
    """
    torch.set_num_threads(1)
    lengths = some_lengths(65, seed=2) // 3 + 2
    trainer = make_trainer(
        folder / "none", some_reviews(lengths[:50]), some_reviews(lengths[50:]), 16, (None, processes, "cpu"),
        num_train_epochs=2, learning_rate=0.5, ddp_find_unused_parameters=False,
    )  # fmt: skip
    assert trainer.accelerator.num_processes == processes
    trainer.train()
    weights = trainer.accelerator.unwrap_model(trainer.model).state_dict()
    trainer.accelerator.end_training()
    if not rank:
        torch.save({"history": trainer.state.log_history, "weights": weights}, folder / f"{processes}.pt")


def worker(place: int, folder: str) -> None:
    """Process ``place`` of the spawned ones: the first two form one group, the other four the next."""
    processes, rank = (2, place) if place < 2 else (4, place - 2)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": Path(folder, f"port-{processes}").read_text()}
    os.environ |= {name: str(rank) for name in ("RANK", "LOCAL_RANK")}
    os.environ |= {name: str(processes) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE")}
    train(rank, processes, Path(folder))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("scaling")
    for processes in (2, 4):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            (folder / f"port-{processes}").write_text(str(free.getsockname()[1]))
    multiprocessing.set_forkserver_preload([__name__])  # one import for all six
    torch.multiprocessing.start_processes(worker, (str(folder),), nprocs=6, start_method="forkserver")
    train(0, 1, folder)
    return {processes: torch.load(folder / f"{processes}.pt") for processes in (1, 2, 4)}


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_batches_that_do_not_divide(runs: dict[int, dict[str, Any]], processes: int) -> None:
    alone, found = runs[1], runs[processes]
    assert len(alone["history"]) == len(found["history"])
    assert sum("loss" in entry for entry in alone["history"]) == 8  # 4 an epoch: none dropped, none added
    for mine, theirs in zip(found["history"], alone["history"]):
        figures = [name for name in theirs if not name.endswith(("runtime", "per_second"))]
        assert [mine[name] for name in figures] == pytest.approx([theirs[name] for name in figures], rel=1e-5)
    for name, weight in alone["weights"].items():
        # a key's bias gets nothing but rounding, since softmax takes away what all scores share
        assert (found["weights"][name] - weight).norm() <= 1e-5 * weight.norm() + 1e-9, name
