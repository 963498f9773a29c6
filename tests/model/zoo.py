"""A tiny random model of each kind that is promised to work, with a small tokenizer of its style."""

from pathlib import Path
from typing import Any
from unittest import mock

import torch
import transformers
from tokenizers import processors

from goodreads.model import scratch_model

TEXTS = [f"the {a} book of {b} was {c}" for a in ("first", "great") for b in ("love", "war") for c in "abc"]
BERT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
POSITIONS = {"max_position_embeddings": 40}
MODERN = {"global_attn_every_n_layers": 2, "local_attention": 8, "cls_token_id": 2}
KINDS: dict[str, dict[str, Any]] = {  # model type -> its configuration
    "distilbert": {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 4, **POSITIONS},
    "bert": {**BERT, **POSITIONS},
    "roberta": {**BERT, "max_position_embeddings": 42},
    "modernbert": {**BERT, **POSITIONS, **MODERN},
    "deberta-v2": {**BERT, **POSITIONS, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    "electra": {**BERT, **POSITIONS, "embedding_size": 16},
    "albert": {**BERT, **POSITIONS, "embedding_size": 16},
    "mpnet": {**BERT, "max_position_embeddings": 42},
    "xlnet": {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 40},
}
SEGMENTS = ("bert", "electra", "albert", "deberta-v2", "xlnet")  # which take token_type_ids


def save_base_model(kind: str, folder: Path) -> Path:
    """A pretrained model as the Hub has it, for other labels than ours, with words of ``TEXTS``.

    GPT-2's tokenizer adds no special tokens and has none for padding, XLNet's pads on the left.
    """
    torch.manual_seed(0)
    with mock.patch.object(scratch_model, "SPECIAL", ["[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]"]):
        words = scratch_model.build_tokenizer(TEXTS, 1_000).backend_tokenizer  # 1 is MPNet's padding
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "pad", "cls", "sep")}
    if kind == "gpt2":
        words.post_processor, names = processors.Sequence([]), {"unk_token": "[UNK]", "eos_token": "[SEP]"}
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words,
        padding_side="left" if kind == "xlnet" else "right",
        model_input_names=["input_ids", "attention_mask", *["token_type_ids"] * (kind in SEGMENTS)],
        **names,
    )
    sizes = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, "num_labels": 2}
    config = transformers.AutoConfig.for_model(kind, **sizes | KINDS[kind])
    transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
