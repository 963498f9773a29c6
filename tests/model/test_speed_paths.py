"""What makes it fast changes nothing: padding, kept tokens, batches, threads."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, DistilBertConfig

from goodreads.common import machine as runtime
from goodreads.data.split_store import Split
from goodreads.evaluation import scoring
from goodreads.model import tokenized as tokens
from goodreads.model.batching import LengthGroupedBatches, token_budget_batches
from goodreads.model.first_token import skip_unread
from goodreads.model.scratch_model import build_tokenizer
from goodreads.training.trainer import SDPA, mean_loss, square_mask

WORDS = "the a book of dragons poems war love murder school king and with very dull great end".split()


def sentences(n: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=int(rng.lognormvariate(3, 1)) + 1)) for _ in range(n)]


def some_split(n: int = 60) -> Split:
    return Split([f"r{i}" for i in range(n)], sentences(n), [i % 3 for i in range(n)], ["a", "b", "c"])


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return build_tokenizer(sentences(200), 128)


def small_model(vocabulary: int = 500, labels: int = 8) -> Any:
    torch.manual_seed(1)
    config = DistilBertConfig(
        vocab_size=vocabulary, dim=64, hidden_dim=128, n_layers=2, n_heads=4, num_labels=labels
    )
    return AutoModelForSequenceClassification.from_config(config).eval()  # no dropout


def gradients(model: Any) -> dict[str, torch.Tensor]:
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("budget", [600, 2048])
def test_logits_and_gradients_are_those_of_plain_padding(budget: int) -> None:
    """Reviews of 2 to 512 tokens, all padded to 512 in one batch, against length-sorted micro-batches."""
    rng = np.random.default_rng(budget)
    lengths = np.concatenate([[2, 512], rng.integers(2, 513, 22)])
    ids = rng.integers(5, 500, lengths.sum()).astype(np.int32)
    labels = rng.integers(0, 8, len(lengths))
    reviews = tokens.TokenizedReviews({"input_ids": ids}, lengths, labels)
    padding, model = tokens.Padding({"input_ids": 0}, left=False), small_model()

    rows = np.split(ids, np.cumsum(lengths)[:-1])
    plain = torch.zeros(len(lengths), 512, dtype=torch.int64)
    mask = torch.zeros_like(plain)
    for i, row in enumerate(rows):
        plain[i, : len(row)], mask[i, : len(row)] = torch.from_numpy(row), 1
    expected = model(input_ids=plain, attention_mask=mask).logits
    torch.nn.functional.cross_entropy(expected, torch.from_numpy(labels)).backward()
    wanted = gradients(model)

    model.zero_grad()
    assert skip_unread(model)
    found = torch.empty_like(expected)
    parts = token_budget_batches(reviews.lengths, budget)
    assert len(parts) > 3
    for part in parts:
        inputs = reviews.batch(part, padding, "cpu")
        wanted_labels = inputs.pop("labels")
        outputs = model(**inputs)
        mean_loss(outputs, wanted_labels, num_items_in_batch=len(lengths)).backward()
        found[part] = outputs.logits.detach()

    assert (found - expected).norm() <= 1e-5 * expected.norm()
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    # a key's bias has no gradient but rounding, since softmax takes away what all scores share
    scale = torch.cat([gradient.flatten() for gradient in wanted.values()]).norm()
    for name, gradient in gradients(model).items():
        size = wanted[name].norm()
        assert (gradient - wanted[name]).norm() <= 1e-5 * max(size, 1e-2 * scale), name


def test_the_mask_made_without_waiting_is_transformers_own() -> None:
    model, ids = small_model(), torch.randint(5, 500, (3, 20))
    mask = (torch.arange(20) < torch.tensor([[20], [11], [2]])).long()
    assert (model.config.model_type, model.config._attn_implementation) == SDPA
    plain = model(input_ids=ids, attention_mask=mask).logits
    assert torch.equal(model(input_ids=ids, attention_mask=square_mask(mask)).logits, plain)
    assert not torch.equal(model(input_ids=ids).logits, plain)


def test_padding_is_little_on_real_lengths(shared: Path) -> None:
    import gzip
    import json

    lengths = []
    for path in sorted((shared / "goodreads").glob("*.json.gz")):
        with gzip.open(path, "rt") as file:
            lengths += [min(512, len(json.loads(line)["review_text"].split()) * 4 // 3 + 2) for line in file]
    order = LengthGroupedBatches(lengths, 16, seed=42)
    assert order.padding_share(1, 2_048, 16) < 0.05
    assert LengthGroupedBatches(lengths, 128, seed=42).padding_share(1, 16_384, 128) < 0.05


@pytest.mark.parametrize("left", [False, True])
def test_a_batch_is_what_the_tokenizer_pads(tokenizer: Any, left: bool) -> None:
    texts = [*sentences(20, seed=3), ""]
    tokenizer.padding_side = "left" if left else "right"
    try:
        reviews = tokens.tokenize(tokenizer, texts, list(range(21)), 64, show=False)
        chosen = [3, 20, 7, 0]
        batch = reviews.batch(chosen, tokens.Padding.of(tokenizer), "cpu")
        expected = tokenizer(
            [texts[i] for i in chosen], truncation=True, max_length=64, padding=True, return_tensors="pt"
        )
    finally:
        tokenizer.padding_side = "right"
    assert batch.pop("labels").tolist() == chosen
    assert batch.keys() == expected.keys()
    for name in batch:
        assert torch.equal(batch[name], expected[name])


def load(folder: Path, split: Split, tokenizer: Any, max_length: int = 64) -> tokens.TokenizedReviews:
    return tokens.load_or_tokenize(folder, "train", split, tokenizer, max_length)


def assert_equal(found: tokens.TokenizedReviews, expected: tokens.TokenizedReviews) -> None:
    assert found.lengths == expected.lengths
    assert (found.labels == expected.labels).all()
    assert found.columns.keys() == expected.columns.keys()
    for name, values in expected.columns.items():
        assert (found.columns[name] == values).all()


def test_kept_tokens_are_used_again(tmp_path: Path, tokenizer: Any, caplog: Any) -> None:
    caplog.set_level("INFO", "goodreads")
    first = load(tmp_path, some_split(), tokenizer)
    (kept,) = tmp_path.iterdir()
    before = kept.stat().st_mtime_ns
    assert "earlier run" not in caplog.text
    assert_equal(load(tmp_path, some_split(), tokenizer), first)
    assert "earlier run" in caplog.text
    assert kept.stat().st_mtime_ns == before


@pytest.mark.parametrize("change", ["text", "label", "length", "tokenizer"])
def test_tokens_of_something_else_are_never_used(tmp_path: Path, tokenizer: Any, change: str) -> None:
    load(tmp_path, some_split(), tokenizer)
    split, length, other = some_split(), 64, tokenizer
    if change == "text":
        split.texts[7] += " dragons"
    elif change == "label":
        split.labels[7] += 1
    elif change == "length":
        length = 8
    else:
        other = build_tokenizer(["entirely other words make another vocabulary"] * 3, 128)
    found = load(tmp_path, split, other, length)
    assert_equal(found, tokens.tokenize(other, split.texts, split.labels, length, show=False))
    assert_equal(load(tmp_path, split, other, length), found)  # the new ones are kept instead
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("damage", ["bit", "cut", "empty"])
def test_damaged_tokens_are_made_again(tmp_path: Path, tokenizer: Any, damage: str) -> None:
    expected = load(tmp_path, some_split(), tokenizer)
    (kept,) = tmp_path.iterdir()
    content = bytearray(kept.read_bytes())
    content[-20] ^= 1
    kept.write_bytes({"bit": bytes(content), "cut": bytes(content[:-100]), "empty": b""}[damage])
    assert_equal(load(tmp_path, some_split(), tokenizer), expected)
    assert kept.read_bytes()[-100:] != bytes(content)[-100:]


def test_a_data_folder_that_cannot_be_written_to_is_no_obstacle(
    tmp_path: Path, tokenizer: Any, caplog: Any
) -> None:
    (tmp_path / "data").write_text("a file, no folder")
    found = load(tmp_path / "data", some_split(), tokenizer)
    assert_equal(found, tokens.tokenize(tokenizer, some_split().texts, some_split().labels, 64, show=False))
    assert "the tokens are not kept: cannot write" in caplog.text
    caplog.clear()
    # a folder in the way of the temporary file: the library reports it in an error of its own
    (tmp_path / "other" / ".tokens_train.safetensors.tmp" / "x").mkdir(parents=True)
    found = load(tmp_path / "other", some_split(), tokenizer)
    assert_equal(found, tokens.tokenize(tokenizer, some_split().texts, some_split().labels, 64, show=False))
    assert "the tokens are not kept: cannot write" in caplog.text


def test_scores_do_not_depend_on_order_or_company(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = sentences(100, seed=9)
    classifier = scoring.Classifier(small_model(len(tokenizer), 3), tokenizer, ["a", "b", "c"], 64)
    logits, count = scoring.score(classifier, texts)
    again, _ = scoring.score(classifier, texts)
    assert (logits == again).all()  # bit for bit
    monkeypatch.setattr(scoring, "CHUNK", 7)
    turned, same_count = scoring.score(classifier, texts[::-1])
    np.testing.assert_allclose(turned[::-1], logits, rtol=1e-4, atol=1e-6)
    one, _ = scoring.score(classifier, texts[40:41])
    np.testing.assert_allclose(one[0], logits[40], rtol=1e-4, atol=1e-6)
    assert (
        count
        == same_count
        == sum(len(ids) for ids in tokenizer(texts, truncation=True, max_length=64)["input_ids"])
    )


def cgroup(folder: Path, own: str, files: dict[str, str]) -> tuple[Path, Path]:
    for name, content in files.items():
        (folder / "fs" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "fs" / name).write_text(content + "\n")
    (folder / "fs").mkdir(exist_ok=True)
    (folder / "own").write_text(own)
    return folder / "fs", folder / "own"


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "200000 100000"}, 2),
        ("0::/\n", {"cpu.max": "max 100000"}, 64),
        ("0::/\n", {}, 64),
        ("0::/\n", {"cpu.max": "rubbish"}, 64),
        ("0::/\n", {"cpu.max": "150000 100000"}, 2),
        ("0::/\n", {"cpu.max": "5000 100000"}, 1),
        # not in a namespace: the limit of a group above counts too
        ("0::/a/b\n", {"a/cpu.max": "300000 100000", "a/b/cpu.max": "max 100000"}, 3),
        # in one: the path is the host's, the root the container's
        ("0::/docker/1234\n", {"cpu.max": "400000 100000"}, 4),
        (
            "8:pids:/\n3:cpu,cpuacct:/docker/1234\n",
            {"cpu,cpuacct/cpu.cfs_quota_us": "200000", "cpu,cpuacct/cpu.cfs_period_us": "100000"},
            2,
        ),
        (
            "3:cpu:/x\n",
            {"cpu/x/cpu.cfs_quota_us": "-1", "cpu/x/cpu.cfs_period_us": "100000"},
            64,
        ),
    ],
)
def test_a_containers_cpu_limit_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str, files: dict[str, str], expected: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(64)), raising=False)
    assert runtime.cpu_limit(*cgroup(tmp_path, own, files)) == expected


def test_affinity_limits_threads_and_fewer_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = torch.get_num_threads()
    try:
        monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0}, raising=False)
        assert runtime.cpu_limit(Path("/nowhere"), Path("/nowhere")) == 1
        torch.set_num_threads(2)
        runtime.limit_threads()
        assert torch.get_num_threads() == 1
        monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)), raising=False)
        runtime.limit_threads()
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)
