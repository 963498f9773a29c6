"""Reviews without padding: a micro-batch is one row of concatenated reviews. For DistilBERT.

Attention runs within each review: on a GPU through jagged nested tensors (fused kernels, with dropout, in
float32 too), on a CPU in a loop over the reviews. The last layer computes [CLS] alone, since the classifier
reads nothing else. Logits and gradients are those of padded batches; on a GPU ``choose_layout`` checks that
before the packed path is used.
"""

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from types import MethodType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface, DistilBertForSequenceClassification

from goodreads.common.progress import log
from goodreads.model.batching import Lengths, Sizes, split_evenly
from goodreads.model.padded import IGNORED, Layout, Padded, to_device
from goodreads.model.tokenized import TokenizedReviews

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

NAME = "packed_reviews"  # of the attention function
PROOF_REVIEWS = 8
TOLERANCE = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}  # of TF32 or the named format


@dataclass(frozen=True)
class Reviews:
    """Where reviews begin and end in a row of tokens.

    Attributes:
        lengths: tokens per review.
        offsets: for jagged attention, int64 of shape (reviews + 1,) on the device.
    """

    lengths: list[int]
    offsets: torch.Tensor

    def first(self, n: int) -> "Reviews":
        """The first n of them."""
        return Reviews(self.lengths[:n], self.offsets[: n + 1])


@dataclass(frozen=True)
class Packing:
    """The layout of one micro-batch, handed through the model to its attention.

    Attributes:
        reviews: n of them; the filler is cut into further ones behind them.
        n: number of true reviews.
        cls: int64 of shape (rows,), the place of each [CLS]; rows above n repeat the first.
        cls_rows: the n [CLS] as reviews of one token.
        jagged: whether attention uses jagged nested tensors.
    """

    reviews: Reviews
    n: int
    cls: torch.Tensor
    cls_rows: Reviews
    jagged: bool


class Packed:
    """The layout of packed micro-batches, for a model that ``enable`` was called with."""

    def __init__(self, filler: int, jagged: bool) -> None:
        self.filler, self.jagged = filler, jagged

    def split(self, lengths: Lengths, sizes: Sizes) -> list[list[int]]:
        """Micro-batches of about the same number of tokens."""
        return split_evenly(lengths, sizes.most_tokens, sizes.most_reviews)

    def inputs(
        self, reviews: TokenizedReviews, indices: Sequence[int], sizes: Sizes, device: torch.device | str
    ) -> dict[str, Any]:
        """``input_ids`` and ``position_ids`` of shape (1, tokens), ``labels`` (rows,), and ``packing``."""
        rows, n = reviews.rows("input_ids", indices), len(indices)
        lengths = [len(row) for row in rows]
        used, longest = sum(lengths), max(lengths)
        spare = sizes.fill(used) - used
        full, rest = divmod(spare, longest)
        lengths += [longest] * full + [rest] * (rest > 0)  # no piece of filler sets the longest length
        offsets = np.cumsum([0, *lengths])
        extra = max(0, sizes.reviews - n)
        parts = [
            np.concatenate([*rows, np.full(spare, self.filler, np.int32)]),
            np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths),
            offsets,
            np.arange(n + 1),
            np.concatenate([offsets[:n], np.zeros(extra, np.int64)]),
            np.concatenate([reviews.labels[indices], np.full(extra, IGNORED)]),
        ]
        # one copy to the device for all of them
        flat = to_device(torch.from_numpy(np.concatenate(parts, dtype=np.int64)), device)
        ids, positions, ends, ones, cls, labels = flat.split([len(part) for part in parts])
        packing = Packing(Reviews(lengths, ends), n, cls, Reviews([1] * n, ones), self.jagged)
        return {"input_ids": ids[None], "position_ids": positions[None], "labels": labels, "packing": packing}


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    packing: Packing | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface: within each review of packed ones; padded batches as "sdpa" does.

    Args:
        module: the attention layer.
        query, key, value: of shape (b, heads, tokens, width); b is 1 for packed reviews.
        attention_mask: of padded batches.
        packing: of packed reviews.
        dropout, scaling: of the attention weights.
        kwargs: for "sdpa".

    Returns:
        Shape (b, tokens, heads, width); and no weights.
    """
    if packing is None:
        padded: tuple[torch.Tensor, None] = AttentionInterface()["sdpa"](
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return padded
    query, key, value = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    reviews, jagged = packing.reviews, packing.jagged
    return _attend(query, key, value, reviews, reviews, dropout, scaling, jagged)[None], None


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    queries: Reviews,
    keys: Reviews,
    dropout: float,
    scaling: float | None,
    jagged: bool,
) -> torch.Tensor:
    """Attention of each review's queries to its own keys; tensors of shape (tokens, heads, width)."""
    attend = partial(functional.scaled_dot_product_attention, dropout_p=dropout, scale=scaling)
    if jagged:
        nested = [
            torch.nested.nested_tensor_from_jagged(
                tensor, reviews.offsets, min_seqlen=1, max_seqlen=max(reviews.lengths)
            ).transpose(1, 2)
            for tensor, reviews in ((query, queries), (key, keys), (value, keys))
        ]
        return attend(*nested).transpose(1, 2).values()
    parts = [
        attend(*(tensor.transpose(0, 1)[None] for tensor in review))
        for review in zip(query.split(queries.lengths), key.split(keys.lengths), value.split(keys.lengths))
    ]
    return torch.cat(parts, dim=2)[0].transpose(0, 1)


def _last_layer(
    block: Any,
    hidden_states: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    packing: Packing | None = None,
    **kwargs: Any,
) -> torch.Tensor:
    """DistilBERT's TransformerBlock.forward; of packed reviews for [CLS] alone, of shape (rows, 1, width)."""
    if packing is None:
        padded: torch.Tensor = type(block).forward(block, hidden_states, attention_mask, **kwargs)
        return padded
    layer, n = block.attention, packing.n
    used = sum(packing.reviews.lengths[:n])
    first = hidden_states[0].index_select(0, packing.cls)
    heads = (layer.n_heads, -1)
    attended = _attend(
        layer.q_lin(first)[:n].unflatten(-1, heads),
        layer.k_lin(hidden_states)[0, :used].unflatten(-1, heads),
        layer.v_lin(hidden_states)[0, :used].unflatten(-1, heads),
        packing.cls_rows,
        packing.reviews.first(n),
        layer.dropout.p if block.training else 0.0,
        layer.scaling,
        packing.jagged,
    ).flatten(1)
    attended = functional.pad(attended, (0, 0, 0, len(first) - n))
    first = block.sa_layer_norm(layer.out_lin(attended) + first)
    output: torch.Tensor = block.output_layer_norm(block.ffn(first) + first)
    return output[:, None]


def enable(model: "PreTrainedModel") -> None:
    """Let a DistilBERT classifier take packed reviews besides padded ones; its weights stay the same."""
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, AttentionMaskInterface()["sdpa"])
    model.set_attn_implementation(NAME)
    block = model.distilbert.transformer.layer[-1]
    block.forward = MethodType(_last_layer, block)


def disable(model: "PreTrainedModel") -> None:
    """Undo ``enable``."""
    model.set_attn_implementation("sdpa")
    del model.distilbert.transformer.layer[-1].forward


def choose_layout(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerFast",
    reviews: TokenizedReviews,
    autocast: torch.dtype | None = None,
    check: bool | None = None,
) -> Layout:
    """Packed batches for DistilBERT, padded ones for other models and where packed ones do not work.

    Args:
        model: on its device; packed batches are enabled in it.
        tokenizer: the model's.
        reviews: some of them are scored both ways.
        autocast: number format of autocast, if it is used.
        check: whether to compare both ways first; None: on any device but a CPU, where the tests do.
    """
    padded = Padded(tokenizer)
    if type(model) is not DistilBertForSequenceClassification:
        return padded
    cpu = model.device.type == "cpu"
    packed = Packed(padded.values["input_ids"], jagged=not cpu)
    enable(model)
    if (not cpu if check is None else check) and len(reviews):
        # torch 2.13 warns at each first use of nested tensors that one of its own functions was renamed
        logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
        if problem := find_problem(model, padded, packed, reviews, autocast):
            log.warning("packed batches do not work here (%s): reviews are padded instead", problem)
            disable(model)
            return padded
        log.info("packed batches give the model's own logits and gradients on this device")
    return packed


def find_problem(
    model: "PreTrainedModel",
    padded: Layout,
    packed: Layout,
    reviews: TokenizedReviews,
    autocast: torch.dtype | None,
) -> str | None:
    """What is wrong with packed batches on this device, or None.

    A few reviews, short and long, are scored both ways; logits and a gradient must agree within the number
    format's tolerance, and a pass with dropout must run. Leaves the model in evaluation mode.
    """
    some = np.argsort(reviews.lengths[:1_000], kind="stable")
    indices = some[np.linspace(0, len(some) - 1, PROOF_REVIEWS).astype(int)].tolist()
    tokens = int(reviews.lengths[indices].sum())
    sizes = Sizes(tokens, len(indices), (tokens + 100,), len(indices) + 1)
    weight = model.distilbert.embeddings.LayerNorm.weight
    device, found = model.device.type, []
    try:
        for layout, training in ((padded, False), (packed, False), (packed, True)):
            inputs = layout.inputs(reviews, indices, sizes, model.device)
            inputs.pop("labels")
            with torch.autocast(device, autocast) if autocast else nullcontext():
                logits = model.train(training)(**inputs).logits[: len(indices)].float()
            found.append((logits.detach(), torch.autograd.grad(logits.pow(2).sum(), weight)[0].float()))
    except Exception as error:  # a kernel may fail in any way
        return f"{type(error).__name__}: {error}".partition("\n")[0]
    finally:
        model.eval()
    tolerance = TOLERANCE[autocast or model.dtype]
    for what, own, other in zip(("logits", "gradients"), *found[:2]):
        difference = ((own - other).norm() / own.norm()).item()
        if not difference <= tolerance:
            return f"{what} differ by {difference:.1e}, more than {tolerance:.0e}"
    return None
