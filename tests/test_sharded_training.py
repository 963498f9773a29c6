"""Training on the shards of ``data_loader.py --per-genre all``."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from goodreads import shards, tokens
from goodreads.modelling import build
from goodreads.splits import ShardedSplit, read_split, read_train
from goodreads.tokens import Padding, load_or_tokenize
from tests.conftest import QUICK
from tests.helpers import assert_one_line_error, run_script, succeeded
from tests.test_data_loader import TWO, load
from tests.test_whole_files import everything

SIZES = ("--head", 200, "--per-genre", 60, "--train-per-genre", 40)


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory, files: Path) -> Path:
    """Two genres of 200 reviews but 40 test reviews, as shards; not to be changed."""
    folder = tmp_path_factory.mktemp("sharded")
    succeeded(load(files, *TWO, *SIZES, cwd=folder))
    succeeded(everything(files, "--head", 200, cwd=folder))
    return folder / "everything"


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
    tmp_path: Path, sharded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Path(shutil.copytree(sharded, tmp_path / "data"))
    split = read_train(data)
    tokenizer, _ = build("scratch", split, 64, 1)
    made: list[str] = []
    real = tokens._tokenize_shard

    def counted(shard: Path, *rest: Any) -> Any:
        made.append(shard.stem)
        return real(shard, *rest)

    monkeypatch.setattr(tokens, "_tokenize_shard", counted)
    load_or_tokenize(data, "train", split, tokenizer, 64)
    load_or_tokenize(data, "train", split, tokenizer, 64)
    assert made == ["poetry-00000", "romance-00000"]
    path = data / "tokens" / "romance-00000.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    load_or_tokenize(data, "train", split, tokenizer, 64)
    load_or_tokenize(data, "train", split, tokenizer, 32)
    assert made[2:] == ["romance-00000", "poetry-00000", "romance-00000"]


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
