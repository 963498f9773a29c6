"""What the benchmarks share: a model, reviews, the limit of matrix products, the report.

The model has distilbert-base-cased's shape and random weights, which are as fast as trained ones. The
reviews are words of one token each, as many as the real reviews in ../shared/goodreads have tokens; without
those, lengths come from a log-normal that was fitted to them (``LOG_NORMAL``).
"""

import argparse
import gzip
import json
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from goodreads.common.cli import positive_int
from goodreads.common.progress import log
from goodreads.data.genres import GENRES, file_name

REAL = Path(__file__).resolve().parent.parent.parent / "shared"
LOG_NORMAL = (4.14, 1.2)  # of the tokens of the genuine UCSD reviews, cut at 512: median 63, mean 118
MAX_LENGTH = 512
SHAPES = {  # name: width, inner width, layers, heads, vocabulary
    "base": (768, 3072, 6, 12, 28_996),
    "tiny": (64, 128, 2, 4, 1_000),
}


def save_model(shape: str, folder: Path) -> None:
    """Write a classifier of 8 genres with random weights, and a tokenizer of the words w0, w1 and so on."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import (
        AutoModelForSequenceClassification,
        DistilBertConfig,
        PreTrainedTokenizerFast,
        set_seed,
    )

    width, inner, layers, heads, vocabulary = SHAPES[shape]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    words = special + [f"w{i}" for i in range(vocabulary - len(special))]
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=MAX_LENGTH,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "attention_mask"],
    ).save_pretrained(folder)
    labels = sorted(GENRES)
    config = DistilBertConfig(
        vocab_size=vocabulary,
        dim=width,
        hidden_dim=inner,
        n_layers=layers,
        n_heads=heads,
        pad_token_id=0,
        id2label=dict(enumerate(labels)),
        label2id={name: i for i, name in enumerate(labels)},
    )
    set_seed(0)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)


def load_plain(folder: Path, device: str) -> tuple[Any, Any]:
    """The model and tokenizer as transformers loads them, in float32."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype="float32")
    return model.to(device), AutoTokenizer.from_pretrained(folder)


def review_lengths(n: int) -> tuple[list[int], str]:
    """Tokens of n reviews at even quantiles, shuffled, so that few stand for all; and where from."""
    kept = REAL / "models" / "distil-mini"
    if kept.is_dir():
        from transformers import AutoTokenizer

        texts = []
        for genre in ("children", "comics_graphic"):  # genuine UCSD reviews
            path = REAL / "goodreads" / file_name(genre)
            with gzip.open(path, "rt", encoding="utf-8") as file:
                texts += [json.loads(line)["review_text"] for line in file]
        encoded = AutoTokenizer.from_pretrained(kept)(texts, truncation=True, max_length=MAX_LENGTH)
        drawn, source = np.array([len(ids) for ids in encoded["input_ids"]]), "real reviews"
    else:
        drawn = np.random.default_rng(0).lognormal(*LOG_NORMAL, 100_000)
        source = "log-normal ({}, {})".format(*LOG_NORMAL)
    quantiles = np.quantile(drawn, (np.arange(n) + 0.5) / n)
    chosen = np.clip(quantiles.round(), 3, MAX_LENGTH).astype(int)
    np.random.default_rng(1).shuffle(chosen)
    return chosen.tolist(), source


def typical_draw(lengths: Sequence[int], n: int, batch: int) -> list[int]:
    """n of the lengths in a random order that pads as much as most do, in batches as they come.

    Of 101 draws the one whose padded batches have the median number of FLOPs: a few batches differ much.
    """
    rng = np.random.default_rng(5)
    draws: list[list[int]] = [rng.choice(lengths, n).tolist() for _ in range(101)]

    def work(draw: list[int]) -> float:
        parts = [draw[i : i + batch] for i in range(0, n, batch)]
        return sum(forward_flops("base", [max(part)] * len(part), whole=True) for part in parts)

    return sorted(draws, key=work)[50]


def texts_of(lengths: Sequence[int], shape: str) -> list[str]:
    """Texts with that many tokens each, [CLS] and [SEP] included."""
    rng = np.random.default_rng(2)
    vocabulary = SHAPES[shape][-1] - 4
    return [" ".join(f"w{i}" for i in rng.integers(0, vocabulary, n - 2)) for n in lengths]


def forward_flops(shape: str, lengths: Sequence[int], whole: bool = False) -> float:
    """Floating-point operations of the matrix products that a forward pass needs, without any padding.

    2 for each weight of the encoder and token, 4 x width x length^2 for the attention's two products. In the
    last layer, of which the classifier reads [CLS] alone, keys and values of all tokens and the rest once.

    Args:
        shape: of the model.
        lengths: tokens of the reviews.
        whole: count the last layer as the others are, for what computes it so.
    """
    width, inner, layers, _, _ = SHAPES[shape]
    linear, keys = 2 * (4 * width * width + 2 * width * inner), 2 * 2 * width * width
    total = 0.0
    for n in lengths:
        layer = linear * n + 4 * width * n * n
        last = layer if whole else keys * n + 4 * width * n + (linear - keys)
        total += (layers - 1) * layer + last
    return total


def matmul_rate(dtype: torch.dtype, device: str, size: int = 2048) -> float:
    """FLOP/s of a square matrix product, the median of 7."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    repeats = 50 if device == "cuda" else 1

    def products() -> None:
        for _ in range(repeats):
            a @ b

    products()
    return repeats * 2 * size**3 / median(seconds(products, device) for _ in range(7))


class Clock:
    """What is measured: wall time, or the processor time of one thread."""

    now = staticmethod(time.perf_counter)

    @classmethod
    def use_cpu_time(cls) -> None:
        """From now on one thread and its processor time, which other users of the machine hardly change."""
        torch.set_num_threads(1)
        cls.now = staticmethod(time.thread_time)


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """How often to measure, and the option for machines that others use too."""
    parser.add_argument("--repeats", type=positive_int, default=3, help="times that all ways are run")
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="one thread, and its processor time instead of wall time: for a machine that others use too",
    )


def seconds(work: Callable[[], Any], device: str) -> float:
    """Time of ``work``, until the device has done it too."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = Clock.now()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return Clock.now() - start


def summarize(runs: list[dict[str, float]]) -> dict[str, float]:
    """The median of each figure over the repeats; ratios have been taken within a repeat."""
    return {name: median(run[name] for run in runs) for name in runs[0]}


def report(title: str, rows: list[tuple[str, float, str]], document: dict[str, Any]) -> None:
    """Print rows of (what, value, bar) as a table, then the document as one line of JSON."""
    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else platform.processor() or "CPU"
    print(f"{title}; {device}, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    width = max(len(name) for name, _, _ in rows)
    for name, value, bar in rows:
        print(f"{name:<{width}} {value:>12,.4g}   {bar}")
    print(json.dumps(document))


def note(text: str, *values: Any) -> None:
    """Progress, to the log."""
    log.info(text, *values)
