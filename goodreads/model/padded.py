"""Padded batches, which any model of transformers takes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from goodreads.model.batching import Lengths, Sizes
from goodreads.model.tokenized import TokenizedReviews

IGNORED = -100  # a label that the loss leaves out
NARROWEST = 64  # with fixed sizes a batch is 64, 128, 256 ... tokens wide


class Padded:
    """How reviews are laid out as the model's input: padded to the longest of a micro-batch."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer

    def split(self, lengths: Lengths, sizes: Sizes) -> list[list[int]]:
        """Indices of the reviews in micro-batches within the limits, padding included, longest first."""
        batches: list[list[int]] = []
        width = 0
        for i in np.argsort(-np.asarray(lengths), kind="stable").tolist():
            rows = len(batches[-1]) + 1 if batches else 0
            if not batches or rows * width > sizes.most_tokens or rows > sizes.most_reviews:
                batches.append([])
                width = self._width(int(lengths[i]), sizes)
            batches[-1].append(i)
        return batches

    def inputs(
        self, reviews: TokenizedReviews, indices: Sequence[int], sizes: Sizes, device: torch.device | str
    ) -> dict[str, Any]:
        """The model's keyword arguments for one micro-batch of b reviews, on the device.

        Here token columns and ``attention_mask`` of shape (b, width), int64, and ``labels`` of shape (b,). A
        layout may have more rows than reviews: the logits of the first b rows count, and the labels of the
        others are ``IGNORED``.
        """
        rows = {name: [ids.tolist() for ids in reviews.rows(name, indices)] for name in reviews.names}
        width = self._width(int(reviews.lengths[indices].max()), sizes)
        options: dict[str, Any] = {
            "padding": "max_length",
            "max_length": width,
            "return_attention_mask": True,
        }
        made = self.tokenizer.pad(rows, return_tensors="pt", **options)
        made["labels"] = torch.from_numpy(reviews.labels[indices])
        return {name: to_device(tensor, device) for name, tensor in made.items()}

    def _width(self, longest: int, sizes: Sizes) -> int:
        width = max(NARROWEST, 1 << (longest - 1).bit_length()) if sizes.tokens else longest
        return max(longest, min(width, self.tokenizer.model_max_length))


def to_device(tensor: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """Copy a tensor to the device; a copy to a GPU does not wait for what that is still busy with."""
    if torch.device(device).type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
