"""Reviews without padding: a micro-batch is one row of concatenated reviews. For DistilBERT.

Attention runs within each review: on a GPU in one fused kernel for all of them, on a CPU in a loop. The last
layer computes [CLS] alone, since the classifier reads nothing else. Logits and gradients are those of padded
batches; on a GPU ``choose_layout`` checks that before packed batches are used.
"""

from collections.abc import Sequence
from functools import partial
from types import MethodType
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from goodreads.common.progress import log
from goodreads.model.batching import Lengths, Sizes, split_evenly
from goodreads.model.padded import IGNORED, Padded, to_device
from goodreads.model.tokenized import TokenizedReviews

NAME = "packed_reviews"  # of the attention function
PROOF_REVIEWS = 8
TOLERANCE = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}  # of TF32 or the named format


class Spans(NamedTuple):
    """Where reviews begin and end in a row of tokens: their lengths, and int32 offsets on the device."""

    lengths: list[int]
    offsets: Tensor


class Packing(NamedTuple):
    """The layout of one micro-batch, handed through the model to its attention.

    Attributes:
        everything: the n reviews, and the filler behind them cut into pieces.
        reviews: the n reviews alone.
        firsts: the n [CLS], each a review of one token.
        places: int64 of shape (rows,), where each [CLS] stands; rows above n repeat the first.
    """

    everything: Spans
    reviews: Spans
    firsts: Spans
    places: Tensor


class Packed(Padded):
    """The layout of packed micro-batches, for a model that ``enable`` was called with."""

    def split(self, lengths: Lengths, sizes: Sizes) -> list[list[int]]:
        """Micro-batches of about the same number of tokens."""
        return split_evenly(lengths, sizes.most_tokens, sizes.most_reviews)

    def inputs(
        self, reviews: TokenizedReviews, indices: Sequence[int], sizes: Sizes, device: torch.device | str
    ) -> dict[str, Any]:
        """``input_ids`` and ``position_ids`` of shape (1, tokens), ``labels`` (rows,), and ``packing``."""
        rows, n = reviews.rows("input_ids", indices), len(indices)
        lengths = [len(row) for row in rows]
        spare, longest = sizes.fill(sum(lengths)) - sum(lengths), max(lengths)
        full, rest = divmod(spare, longest)
        lengths += [longest] * full + [rest] * (rest > 0)  # no piece of filler sets the longest length
        offsets = np.cumsum([0, *lengths])
        extra = max(0, sizes.reviews - n)
        parts = [
            np.concatenate([*rows, np.full(spare, self.tokenizer.pad_token_id)]),
            np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths),
            np.concatenate([reviews.labels[indices], np.full(extra, IGNORED)]),
            np.concatenate([offsets[:n], np.zeros(extra, np.int64)]),
            offsets,
            np.arange(n + 1),
        ]
        # one copy to the device for all of them
        flat = to_device(torch.from_numpy(np.concatenate(parts, dtype=np.int64)), device)
        ids, positions, labels, places, ends, ones = flat.split([len(part) for part in parts])
        ends = ends.int()
        own = Spans(lengths[:n], ends[: n + 1])
        packing = Packing(Spans(lengths, ends), own, Spans([1] * n, ones.int()), places)
        return {"input_ids": ids[None], "position_ids": positions[None], "labels": labels, "packing": packing}


def attention(module: torch.nn.Module, *tensors: Any, packing: Packing | None = None, **options: Any) -> Any:
    """transformers' attention interface: within each review of packed ones; padded batches as "sdpa" does.

    Args:
        module: the attention layer.
        tensors: queries, keys and values of shape (b, heads, tokens, width), where b is 1 for packed reviews;
            and the mask of padded batches.
        packing: of packed reviews.
        options: ``dropout`` and ``scaling`` of the attention weights, and others for "sdpa".

    Returns:
        Shape (b, tokens, heads, width); and no weights.
    """
    if packing is None:
        return transformers.AttentionInterface()["sdpa"](module, *tensors, **options)
    rows, spans = [tensor[0].transpose(0, 1) for tensor in tensors[:3]], packing.everything
    return _attend(rows, spans, spans, options["dropout"], options["scaling"])[None], None


def _attend(rows: list[Tensor], queries: Spans, keys: Spans, dropout: float, scaling: float) -> Any:
    """Attention of each review's queries to its own keys: on a CPU in a loop, elsewhere in one kernel.

    torch's public ways to these kernels do not serve: ``torch.nn.attention.varlen`` has no dropout, and
    jagged nested tensors, which call the kernels as here, cost the host about 4 ms per layer and step.

    Args:
        rows: queries, keys and values of shape (tokens, heads, width).
        queries, keys: where the reviews begin and end in them.
        dropout, scaling: of the attention weights.
    """
    query, kernels = rows[0], torch.ops.aten
    if query.device.type == "cpu":
        attend = partial(functional.scaled_dot_product_attention, dropout_p=dropout, scale=scaling)
        split = zip(*(row.split(spans.lengths) for row, spans in zip(rows, (queries, keys, keys))))
        parts = [attend(*(tensor.transpose(0, 1)[None] for tensor in review)) for review in split]
        return torch.cat(parts, dim=2)[0].transpose(0, 1)
    spans = queries.offsets, keys.offsets, max(queries.lengths), max(keys.lengths)
    flash = not query.is_cuda or torch.cuda.get_device_capability(query.device) >= (8, 0)
    if flash and query.dtype != torch.float32:
        return kernels._flash_attention_forward(*rows, *spans, dropout, False, False, scale=scaling)[0]  # noqa: SLF001
    batch, options = [row[None] for row in rows], (dropout, 0, query.requires_grad)
    return kernels._efficient_attention_forward(*batch, None, *spans, *options, scale=scaling)[0][0]  # noqa: SLF001


def _last_layer(block: Any, hidden: Tensor, *mask: Any, packing: Packing | None = None, **other: Any) -> Any:
    """DistilBERT's TransformerBlock.forward; of packed reviews for [CLS] alone, of shape (rows, 1, width)."""
    if packing is None:
        return type(block).forward(block, hidden, *mask, **other)
    layer, reviews, tokens = block.attention, packing.reviews, hidden[0]
    n, used = len(reviews.lengths), sum(reviews.lengths)
    first = tokens.index_select(0, packing.places)
    projected = layer.q_lin(first)[:n], layer.k_lin(tokens)[:used], layer.v_lin(tokens)[:used]
    rows = [tensor.unflatten(-1, (layer.n_heads, -1)) for tensor in projected]
    dropout = layer.dropout.p if block.training else 0.0
    attended = _attend(rows, packing.firsts, reviews, dropout, layer.scaling).flatten(1)
    attended = functional.pad(attended, (0, 0, 0, len(first) - n))
    first = block.sa_layer_norm(layer.out_lin(attended) + first)
    return block.output_layer_norm(block.ffn(first) + first)[:, None]


def enable(model: Any) -> None:
    """Let a DistilBERT classifier take packed reviews besides padded ones; its weights stay the same."""
    transformers.AttentionInterface.register(NAME, attention)
    transformers.AttentionMaskInterface.register(NAME, transformers.AttentionMaskInterface()["sdpa"])
    model.set_attn_implementation(NAME)
    block = model.distilbert.transformer.layer[-1]
    block.forward = MethodType(_last_layer, block)


def disable(model: Any) -> None:
    """Undo ``enable``."""
    model.set_attn_implementation("sdpa")
    del model.distilbert.transformer.layer[-1].forward


def choose_layout(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, reviews: TokenizedReviews, check: bool = False
) -> Padded:
    """Packed batches for DistilBERT, padded ones for other models and where packed ones do not work.

    Args:
        model: on its device; packed batches are enabled in it.
        tokenizer: the model's.
        reviews: some of them are scored both ways, in the number format of the caller's autocast.
        check: whether to compare both ways even on a CPU, where the tests do.
    """
    padded, packed, device = Padded(tokenizer), Packed(tokenizer), model.device.type
    if type(model) is not transformers.DistilBertForSequenceClassification or device not in ("cpu", "cuda"):
        return padded
    enable(model)
    if (check or device != "cpu") and len(reviews):
        if problem := find_problem(model, padded, packed, reviews):
            log.warning("packed batches do not work here (%s): reviews are padded instead", problem)
            disable(model)
            return padded
        log.info("packed batches give the model's own logits and gradients on this device")
    return packed


def find_problem(model: Any, padded: Padded, packed: Packed, reviews: TokenizedReviews) -> str | None:
    """What is wrong with packed batches on this device, or None.

    A few reviews, short and long, are scored both ways; logits and a gradient must agree within the number
    format's tolerance, and a pass with dropout must run. Leaves the model in evaluation mode.
    """
    some = np.argsort(reviews.lengths[:1_000], kind="stable")
    indices = some[np.linspace(0, len(some) - 1, PROOF_REVIEWS).astype(int)].tolist()
    tokens = int(reviews.lengths[indices].sum())
    sizes = Sizes(tokens, PROOF_REVIEWS, (tokens + 100,), PROOF_REVIEWS + 1)
    weight = model.get_parameter("distilbert.embeddings.LayerNorm.weight")
    found = []
    try:
        for layout, training in ((padded, False), (packed, False), (packed, True)):
            inputs = layout.inputs(reviews, indices, sizes, model.device)
            inputs.pop("labels")
            logits = model.train(training)(**inputs).logits[:PROOF_REVIEWS]
            with torch.autocast(model.device.type, enabled=False):  # as the backward pass in training
                found.append((logits.detach(), torch.autograd.grad(logits.float().pow(2).sum(), weight)[0]))
    except Exception as error:  # a kernel may fail in any way
        return f"{type(error).__name__}: {error}".partition("\n")[0]
    finally:
        model.eval()
    tolerance = TOLERANCE[logits.dtype]
    for what, own, other in zip(("logits", "gradients"), *found[:2]):
        difference = ((own.float() - other.float()).norm() / own.float().norm()).item()
        if not difference <= tolerance:
            return f"{what} differ by {difference:.1e}, more than {tolerance:.0e}"
    return None
