"""Training on the shards of ``data_loader.py --per-genre all``."""

import json
import random
import shutil
import socket
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from goodreads.data import full_corpus as shards
from goodreads.data.split_store import ShardedSplit, read_split, read_train
from goodreads.model import tokenized as tokens
from goodreads.model.modelling import build
from goodreads.model.tokenized import Padding, load_or_tokenize, tokenize_share
from goodreads.training.processes import shares
from tests.conftest import QUICK
from tests.data.test_whole_files import everything
from tests.helpers import assert_one_line_error, command, environment, run_script, succeeded
from tests.scripts.test_data_loader import TWO, load

SIZES = ("--head", 200, "--per-genre", 60, "--train-per-genre", 40)


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory, files: Path) -> Path:
    """Two genres of 200 reviews but 40 test reviews, as shards; not to be changed."""
    folder = tmp_path_factory.mktemp("sharded")
    succeeded(load(files, *TWO, *SIZES, cwd=folder))
    succeeded(everything(files, "--head", 200, cwd=folder))
    return folder / "everything"


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The shards that are tokenized, in order, as it happens."""
    shards: list[Path] = []
    real = tokens._tokenize_shard

    def counted(shard: Path, *rest: Any) -> Any:
        shards.append(shard)
        return real(shard, *rest)

    monkeypatch.setattr(tokens, "_tokenize_shard", counted)
    return shards


def test_batches_of_mapped_shards_are_those_of_one_table_in_memory(tmp_path: Path, sharded: Path) -> None:
    data = Path(shutil.copytree(sharded, tmp_path / "data"))
    whole, split = read_split(data, "train"), read_train(data)
    assert isinstance(split, ShardedSplit) and len(split.shards) == 2
    assert list(split.texts) == whole.texts
    tokenizer, _ = build("scratch", split, 64, 1)
    mapped = load_or_tokenize(data, "train", split, tokenizer, 64)
    plain = tokens.tokenize(tokenizer, whole.texts, whole.labels, 64, show=False)
    assert len(mapped) == len(plain) == len(whole)
    rng = random.Random(1)
    for _ in range(30):
        indices = rng.sample(range(len(plain)), rng.randint(1, 20))
        ours, theirs = (each.batch(indices, Padding.of(tokenizer), "cpu") for each in (mapped, plain))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_tokens_of_shards_are_kept_and_never_believed_when_damaged(
    tmp_path: Path, sharded: Path, made: list[Path]
) -> None:
    data = Path(shutil.copytree(sharded, tmp_path / "data"))
    split = read_train(data)
    tokenizer, _ = build("scratch", split, 64, 1)
    load_or_tokenize(data, "train", split, tokenizer, 64)
    load_or_tokenize(data, "train", split, tokenizer, 64)
    assert [shard.stem for shard in made] == ["poetry-00000", "romance-00000"]
    path = data / "tokens" / "romance-00000.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    load_or_tokenize(data, "train", split, tokenizer, 64)
    load_or_tokenize(data, "train", split, tokenizer, 32)
    assert [shard.stem for shard in made[2:]] == ["romance-00000", "poetry-00000", "romance-00000"]


@pytest.mark.parametrize(("machines", "local"), [(1, 1), (1, 3), (2, 2), (3, 1)])
@pytest.mark.parametrize("one_disk", [True, False])
def test_processes_share_out_the_shards_on_one_disk_or_one_per_machine(
    tmp_path: Path,
    sharded: Path,
    made: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    machines: int,
    local: int,
    one_disk: bool,
) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(local))
    disks = [tmp_path / f"disk-{0 if one_disk else machine}" for machine in range(machines)]
    tokenizer, _ = build("scratch", read_train(sharded), 64, 1)
    splits = []
    for disk in disks:
        shutil.copytree(sharded, disk, dirs_exist_ok=True)
        split = read_train(disk)
        for number in range(5):
            more = disk / "train" / f"more-{number}.parquet"
            shutil.copyfile(disk / "train" / "poetry-00000.parquet", more)
            split.shards[more] = f"its hash {number}"
        splits.append(split)
    ranks = [(machine, place) for machine in range(machines) for place in range(local)]
    turns: list[list[int]] = [[], []]  # shards that each process makes
    for turn, counts in enumerate(turns):
        for rank, (machine, place) in enumerate(ranks):
            process = SimpleNamespace(world_size=len(ranks), process_index=rank, local_process_index=place)
            before = len(made)
            for share in shares(process)[turn : turn + 1]:
                tokenize_share(disks[machine], splits[machine], tokenizer, 64, *share)
            counts.append(len(made) - before)
    assert sum(turns[0]) == 7 and max(turns[0]) - min(turns[0]) <= 1
    assert sum(turns[1]) == 7 * (len(set(disks)) - 1)
    for disk, split in zip(disks, splits):
        found = load_or_tokenize(disk, "train", split, tokenizer, 64)
        assert len(found) == sum(pq.read_metadata(shard).num_rows for shard in split.shards)
    assert len(made) == len(set(made)) == 7 * len(set(disks))


@pytest.mark.parametrize("one_disk", [True, False])
def test_two_machines_train_to_the_weights_of_one(tmp_path: Path, sharded: Path, one_disk: bool) -> None:
    """Two launchers, each a machine of one process, in one folder or in two."""
    folders = [tmp_path / "both"] * 2 if one_disk else [tmp_path / "first", tmp_path / "second"]
    for folder in {*folders, tmp_path / "alone"}:
        shutil.copytree(sharded, folder / "data")
    options = (*QUICK, "--optim", "sgd", "--learning_rate", 0.5, "--effective_batch_size", 24)
    succeeded(run_script("train.py", *options, cwd=tmp_path / "alone"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank, folder in enumerate(folders):
        launcher = f"-m torch.distributed.run --nnodes 2 --node-rank {rank} --nproc-per-node 1"
        launcher += f" --master-addr 127.0.0.1 --master-port {port}"
        train = command("train.py", *options)
        processes.append(
            subprocess.Popen(
                [train[0], *launcher.split(), *train[1:]],
                cwd=folder,
                env=environment(folder, OMP_NUM_THREADS="1"),
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    for process in processes:
        _, log = process.communicate(timeout=280)
        assert process.returncode == 0, log[-8000:]
    weights, wanted = (
        load_file(folder / "model" / "model.safetensors") for folder in (folders[0], tmp_path / "alone")
    )
    for name, weight in wanted.items():
        assert (weights[name] - weight).norm() <= 1e-5 * weight.norm() + 1e-7, name
    logs = [
        json.loads((folder / "results" / "training_log.json").read_text())
        for folder in (folders[0], tmp_path / "alone")
    ]
    assert logs[0]["batch"]["devices"] == 2
    assert logs[0]["steps"] == logs[1]["steps"]
    for mine, theirs in zip(logs[0]["epochs"], logs[1]["epochs"], strict=True):
        assert mine == pytest.approx(theirs, rel=1e-5)
    for folder in folders:
        assert len(list((folder / "data" / "tokens").iterdir())) == 2
        assert not list((folder / "data").glob(".*"))
    if not one_disk:
        assert not (folders[1] / "model").exists()


def test_training_on_shards_gives_the_weights_of_training_on_one_table(tmp_path: Path, sharded: Path) -> None:
    shutil.copytree(sharded, tmp_path / "shards")
    table = pa.concat_tables([pq.read_table(path) for path in sorted((sharded / "train").glob("*.parquet"))])
    plain = tmp_path / "plain"
    plain.mkdir()
    shutil.copyfile(sharded / "test.parquet", plain / "test.parquet")
    pq.write_table(table, plain / "train.parquet")
    manifest = json.loads((sharded / "manifest.json").read_text())
    manifest["files"] = {
        name: {"rows": 0, "bytes": (plain / name).stat().st_size, "sha256": shards.sha256_file(plain / name)}
        for name in ("train.parquet", "test.parquet")
    }
    (plain / "manifest.json").write_text(json.dumps(manifest))
    weights = []
    for name in ("shards", "plain"):
        options = ("--data-dir", name, "--output_dir", f"model-{name}", "--results-dir", f"results-{name}")
        succeeded(run_script("train.py", *QUICK, *options, cwd=tmp_path))
        weights.append((tmp_path / f"model-{name}" / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]
    log = json.loads((tmp_path / "results-shards" / "training_log.json").read_text())
    assert log["steps"] == 2 * -(-table.num_rows // 32)
    options = ("--data-dir", "shards", "--validation-per-genre", 5)
    assert_one_line_error(run_script("train.py", *QUICK, *options, cwd=tmp_path), "not with shards")
