"""Dropout that a review meets alike on any number of devices and in any micro-batch.

torch draws it from one stream per process, in the order in which reviews come, so that a run on two devices
differs from one on a single device as another seed would. Here what is dropped depends on the seed, the step,
the review, the module and the token's position, and on nothing else. Two things are not torch's own way:

- Each module has a table of ``ROWS`` random rows, new at each step; a review takes as many of them as it has
  tokens, from a place that is its own. Reviews may so share rows, each of which is as random as torch's.
- In attention a token's value is dropped per head and for all queries alike, not for each query by itself.
  A query on its own sees exactly what it would see otherwise, and attention keeps its fused kernel.
"""

import random
from collections.abc import Sequence
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import AttentionInterface

ROWS_BITS = 11
ROWS = 1 << ROWS_BITS  # four times as many as the longest review has tokens
GOLDEN = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio: its multiples lie apart (Knuth, TAOCP 3, 6.4)


class ReviewDropout:
    """The dropout of one model, whose ``nn.Dropout`` modules and sdpa attention it takes over.

    A module whose input is not of shape (b, width) or (b, n, width) keeps torch's dropout.
    """

    def __init__(self, model: torch.nn.Module, seed: int) -> None:
        """Take over; ``begin`` must come before each forward pass in training mode."""
        self._seed, self._step, self._base = seed, -1, 0
        self._tables: dict[int, torch.Tensor] = {}
        self._rows = torch.zeros(0, 0, dtype=torch.int64)
        for place, module in enumerate(model.modules()):
            _PLACES[module] = (self, place)
            if type(module) is torch.nn.Dropout:
                module.forward = partial(self._forward, place, module)  # type: ignore[method-assign]
        AttentionInterface.register("sdpa", _attend)

    def begin(self, step: int, reviews: Sequence[int], attention_mask: torch.Tensor) -> None:
        """Say what the next forward pass is of.

        Args:
            step: of the optimizer, counted from 0.
            reviews: numbers of b reviews in the training split.
            attention_mask: integers of shape (b, n), 0 for padding on either side.
        """
        if step != self._step:
            self._step, self._base = step, random.Random(f"{self._seed}/{step}").getrandbits(62)
            self._tables.clear()
        hashed = np.array(reviews, np.uint64) * np.uint64(GOLDEN) + np.uint64(self._base)  # modulo 2^64
        first = torch.from_numpy((hashed >> np.uint64(64 - ROWS_BITS)).astype(np.int64))
        if attention_mask.is_cuda:
            first = first.pin_memory()  # for a copy that nobody waits for
        first = first.to(attention_mask.device, non_blocking=True)
        self._rows = (first[:, None] + attention_mask.cumsum(1)) % ROWS

    def keep(self, place: int, p: float, width: int, tokens: int) -> torch.Tensor:
        """Whether each value is kept: booleans of shape (b, tokens, width), False with probability ``p``."""
        if place not in self._tables:
            device = self._rows.device
            generator = torch.Generator(device).manual_seed(self._base + place)
            self._tables[place] = torch.rand(ROWS, width, generator=generator, device=device) >= p
        return self._tables[place][self._rows[:, :tokens]]

    def _forward(self, place: int, module: torch.nn.Dropout, states: torch.Tensor) -> torch.Tensor:
        if not module.training or module.p == 0:
            return states
        b, n = self._rows.shape
        if states.dim() == 2 and len(states) == b:
            keep = self.keep(place, module.p, states.shape[1], 1)[:, 0]
        elif states.dim() == 3 and len(states) == b and states.shape[1] <= n:
            keep = self.keep(place, module.p, states.shape[2], states.shape[1])
        else:
            return torch.nn.functional.dropout(states, module.p)
        return states * keep * (1 / (1 - module.p))


_PLACES: WeakKeyDictionary[torch.nn.Module, tuple[ReviewDropout, int]] = WeakKeyDictionary()


def _attend(
    module: torch.nn.Module, query: Any, key: Any, value: torch.Tensor, mask: Any, dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """transformers' sdpa attention; value has shape (b, heads, n, size)."""
    if dropout and module in _PLACES:
        own, place = _PLACES[module]
        keep = own.keep(place, dropout, value.shape[1], value.shape[2])
        value = value * keep.transpose(1, 2)[..., None] * (1 / (1 - dropout))
        dropout = 0.0
    attended: tuple[torch.Tensor, None] = sdpa_attention_forward(
        module, query, key, value, mask, dropout=dropout, **kwargs
    )
    return attended
