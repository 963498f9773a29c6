"""Padded batches, which any model of transformers takes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from goodreads.model.batching import Lengths, Sizes
from goodreads.model.tokenized import TokenizedReviews

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

IGNORED = -100  # a label that the loss leaves out
NARROWEST = 64  # with fixed sizes a batch is 64, 128, 256 ... tokens wide


class Padded:
    """How reviews are laid out as the model's input: padded to the longest of a micro-batch."""

    def __init__(self, tokenizer: "PreTrainedTokenizerFast") -> None:
        self.fillers = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}
        self.left = tokenizer.padding_side == "left"
        self.widest: int = tokenizer.model_max_length

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
        columns = {name: reviews.rows(name, indices) for name in reviews.names}
        columns["attention_mask"] = [np.ones_like(row) for row in columns["input_ids"]]
        width = self._width(int(reviews.lengths[indices].max()), sizes)
        made = {name: self._pad(rows, self.fillers.get(name, 0), width) for name, rows in columns.items()}
        made["labels"] = torch.from_numpy(reviews.labels[indices])
        return {name: to_device(tensor, device) for name, tensor in made.items()}

    def _width(self, longest: int, sizes: Sizes) -> int:
        width = max(NARROWEST, 1 << (longest - 1).bit_length()) if sizes.tokens else longest
        return max(longest, min(width, self.widest))

    def _pad(self, rows: list[NDArray[np.int32]], filler: int, width: int) -> torch.Tensor:
        padded = np.full((len(rows), width), filler, np.int64)
        for line, row in zip(padded, rows):
            line[slice(width - len(row), width) if self.left else slice(len(row))] = row
        return torch.from_numpy(padded)


def to_device(tensor: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """Copy a tensor to the device; a copy to a GPU does not wait for what that is still busy with."""
    if torch.device(device).type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
