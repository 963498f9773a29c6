"""A DistilBERT classifier without the part of its last layer that nothing reads.

The classifier reads the last layer's output for [CLS] alone. All tokens serve that layer as keys and values,
but query, attention output, feed-forward network and norms are needed for [CLS] only: of six layers' products
one seventh is saved, forward and backward. Logits and gradients are the same.
"""

from types import MethodType
from typing import Any

import torch
from transformers import DistilBertForSequenceClassification
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


def skip_unread(model: Any) -> bool:
    """Let a DistilBERT classifier's last layer compute the first token alone; other models stay as they are.

    Args:
        model: a sequence classifier; weights and their names do not change.

    Returns:
        Whether anything is saved.
    """
    known = type(model) is DistilBertForSequenceClassification and model.config._attn_implementation == "sdpa"
    if known:
        last = model.distilbert.transformer.layer[-1]
        last.forward = MethodType(_first_token, last)
    return known


def _first_token(
    block: Any, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any
) -> torch.Tensor:
    """transformers' TransformerBlock.forward for the first query; shape (b, 1, width)."""
    attention, first = block.attention, hidden_states[:, :1]
    query, key, value = (
        linear(states).unflatten(-1, (attention.n_heads, -1)).transpose(1, 2)
        for linear, states in (
            (attention.q_lin, first),
            (attention.k_lin, hidden_states),
            (attention.v_lin, hidden_states),
        )
    )
    attended, _ = ALL_ATTENTION_FUNCTIONS["sdpa"](
        attention,
        query,
        key,
        value,
        attention_mask if attention_mask is None else attention_mask[:, :, :1],
        dropout=attention.dropout.p if block.training else 0.0,
        scaling=attention.scaling,
    )
    first = block.sa_layer_norm(attention.out_lin(attended.flatten(2)) + first)
    output: torch.Tensor = block.output_layer_norm(block.ffn(first) + first)
    return output
