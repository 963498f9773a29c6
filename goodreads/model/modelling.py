"""Tokenizer and classifier to fine-tune: from a checkpoint, from scratch, from a folder or the Hub."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from goodreads.common.errors import InputError
from goodreads.data.split_store import ShardedSplit, Split
from goodreads.model import scratch_model as tiny_model

SCRATCH = "scratch"


def build(name: str | Path, split: Split | ShardedSplit, max_length: int, seed: int) -> tuple[Any, Any]:
    """Load or make what train.py fine-tunes.

    Args:
        name: model id, folder, or ``scratch`` for goodreads.model.scratch_model.
        split: the training split: its labels go into the config, and ``scratch`` learns its vocabulary.
        max_length: tokens of a review at most; saved with the tokenizer, so that scoring cuts the same.
        seed: of the new weights.

    Returns:
        A fast tokenizer and a sequence classifier with float32 weights.

    Raises:
        InputError: the model cannot be loaded, or cannot take ``max_length`` tokens.
    """
    from transformers import AutoModelForSequenceClassification, set_seed

    set_seed(seed)
    if name == SCRATCH:
        tokenizer = tiny_model.build_tokenizer(list(split.texts), max_length)
        config = tiny_model.build_config(len(tokenizer), max_length, split.label_names)
        return tokenizer, AutoModelForSequenceClassification.from_config(config)
    tokenizer, model = _pretrained(name, split.label_names)
    limit = getattr(model.config, "max_position_embeddings", max_length)
    if max_length > limit:
        raise InputError(f"--max_length {max_length} is more than the {limit} tokens that {name} can take")
    tokenizer.model_max_length = max_length
    return tokenizer, model


def _pretrained(name: str | Path, labels: Sequence[str]) -> tuple[Any, Any]:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        model = AutoModelForSequenceClassification.from_pretrained(
            name,
            id2label=dict(enumerate(labels)),
            label2id={label: i for i, label in enumerate(labels)},
            dtype="float32",
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"--model_name_or_path {name} cannot be loaded: {error}") from error
    if not tokenizer.is_fast:
        raise InputError(f"--model_name_or_path {name} has no fast tokenizer (tokenizer.json)")
    return tokenizer, model
