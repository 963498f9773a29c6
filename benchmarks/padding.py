"""What padding costs: length-sorted padded batches, as kept, against unpadded ones, forward and backward.

    python -m benchmarks.padding                # 2 minutes on two CPU cores
    python -m benchmarks.padding --shape tiny   # whether it runs at all

Unpadded, the reviews of a batch are concatenated: the linear layers see no padding, attention takes review
by review (``torch.nn.attention.varlen`` on a GPU, which has no CPU kernel; there a loop), registered in
transformers' attention interface, and the classifier reads each review's [CLS]. Both ways take the same
micro-batches of an epoch one after another. The last stdout line is one JSON document.
"""

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy, scaled_dot_product_attention
from transformers import AttentionInterface

from benchmarks import encoder
from goodreads.common import machine as runtime
from goodreads.common.cli import Parser, positive_int, run
from goodreads.model.batching import LengthGroupedBatches, token_budget_batches
from goodreads.model.tokenized import Padding, TokenizedReviews
from goodreads.training.options import MICRO_TOKENS

BATCH, EPOCH = {"cpu": 16, "cuda": 128}, 50


def main() -> None:
    """Run the benchmark."""
    options = _options()
    device = runtime.choose_device().type
    if options.cpu_time:
        encoder.Clock.use_cpu_time()
    lengths, source = encoder.review_lengths(BATCH[device] * EPOCH)
    vocabulary = encoder.SHAPES[options.shape][-1]
    ids = np.random.default_rng(4).integers(5, vocabulary, sum(lengths)).astype(np.int32)
    reviews = TokenizedReviews({"input_ids": ids}, np.array(lengths), np.arange(len(lengths)) % 8)
    AttentionInterface.register("unpadded", attend_unpadded)
    with tempfile.TemporaryDirectory() as temporary:
        encoder.save_model(options.shape, Path(temporary))
        model = encoder.load_plain(Path(temporary), device)[0].eval()
    batches = LengthGroupedBatches(lengths, BATCH[device], seed=42)
    parts = [
        [batch[i] for i in part]
        for batch in islice(batches, options.steps)
        for part in token_budget_batches([lengths[i] for i in batch], MICRO_TOKENS[device])
    ]
    difference = max(greatest_difference(model, reviews, part) for part in parts[:10])
    runs = []
    for _ in range(options.repeats):
        ways: dict[str, Callable[..., Any]] = {"padded": padded_logits, "unpadded": unpadded_logits}
        rates = {
            name: sum(map(len, parts)) / encoder.seconds(partial(epoch, model, reviews, parts, way), device)
            for name, way in ways.items()
        }
        runs.append({f"{name}_reviews_per_second": rate for name, rate in rates.items()})
        runs[-1]["unpadded_per_padded"] = rates["unpadded"] / rates["padded"]
        encoder.note("%s", runs[-1])
    figures = encoder.summarize(runs) | {
        "padding_share": batches.padding_share(1, MICRO_TOKENS[device], BATCH[device]),
        "relative_difference": difference,
    }
    rows = [
        (name, value, "bar 1.2 on a GPU" if name == "unpadded_per_padded" else "")
        for name, value in figures.items()
    ]
    title = f"padding, {options.shape} shape, {len(parts)} micro-batches, lengths: {source}"
    encoder.report(title, rows, {"benchmark": "padding", "device": device, "runs": runs} | figures)


def attend_unpadded(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any, ends: list[int], **kwargs: Any
) -> tuple[torch.Tensor, None]:
    """Attention within each review; query, key and value have shape (1, heads, tokens, size)."""
    if query.device.type == "cuda":
        from torch.nn.attention.varlen import varlen_attn

        starts = torch.tensor([0, *ends], dtype=torch.int32).to(query.device, non_blocking=True)
        longest = max(b - a for a, b in zip([0, *ends], ends))
        q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
        attended: Any = varlen_attn(q, k, v, starts, starts, longest, longest)
        return attended[None], None
    spans = [slice(a, b) for a, b in zip([0, *ends], ends)]
    parts = [
        scaled_dot_product_attention(query[:, :, span], key[:, :, span], value[:, :, span]) for span in spans
    ]
    return torch.cat(parts, dim=2).transpose(1, 2), None


def padded_logits(model: Any, reviews: TokenizedReviews, part: list[int]) -> torch.Tensor:
    """Logits of some reviews, padded to the longest of them."""
    model.config._attn_implementation = "sdpa"
    inputs = reviews.batch(part, Padding({}, left=False), model.device)
    del inputs["labels"]
    logits: torch.Tensor = model(**inputs).logits
    return logits


def unpadded_logits(model: Any, reviews: TokenizedReviews, part: list[int]) -> torch.Tensor:
    """Logits of some reviews, one after the other without padding; of a DistilBERT classifier."""
    model.config._attn_implementation = "unpadded"
    rows = [
        reviews.batch([i], Padding({}, left=False), "cpu")["input_ids"][0, : reviews.lengths[i]] for i in part
    ]
    ends = np.cumsum([len(row) for row in rows]).tolist()
    places = torch.cat([torch.arange(len(row)) for row in rows])[None].to(model.device)
    ids = torch.cat(rows)[None].to(model.device)
    hidden = model.distilbert(ids, position_ids=places, ends=ends).last_hidden_state[0]
    first = hidden[[0, *ends[:-1]]]
    logits: torch.Tensor = model.classifier(torch.relu(model.pre_classifier(first)))
    return logits


def epoch(model: Any, reviews: TokenizedReviews, parts: list[list[int]], way: Callable[..., Any]) -> None:
    """Forward and backward of all micro-batches; in bfloat16 on a GPU, as train.py."""
    device = model.device.type
    for part in parts:
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            loss = cross_entropy(way(model, reviews, part), torch.from_numpy(reviews.labels[part]).to(device))
        loss.backward()
        model.zero_grad()


def greatest_difference(model: Any, reviews: TokenizedReviews, part: list[int]) -> float:
    """Of the two ways' logits in float32, relative to the greatest logit."""
    if model.device.type == "cuda":
        return 0.0  # not compared: varlen has no float32 kernel
    with torch.no_grad():
        a, b = (way(model, reviews, part) for way in (padded_logits, unpadded_logits))
    return float((a - b).abs().max() / a.abs().max())


def _options() -> argparse.Namespace:
    parser = Parser(__doc__, prog="benchmarks.padding")
    parser.add_argument("--steps", type=positive_int, default=8, help="effective batches in a run")
    parser.add_argument("--shape", choices=encoder.SHAPES, default="base", help="of the model")
    encoder.add_common_options(parser)
    return parser.parse_args()


if __name__ == "__main__":
    run(main, "benchmarks.padding")
