"""A tiny random model of each kind that is promised to work, with a small tokenizer of its style."""

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

TEXTS = [f"the {a} book of {b} was {c}" for a in ("first", "great") for b in ("love", "war") for c in "abc"]
BERT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
POSITIONS = {"max_position_embeddings": 40}
MODERN = {"global_attn_every_n_layers": 2, "local_attention": 8, "pad_token_id": 0, "cls_token_id": 2}
KINDS: dict[str, dict[str, Any]] = {  # model type -> its configuration
    "distilbert": {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 4, **POSITIONS},
    "bert": {**BERT, **POSITIONS},
    "roberta": {**BERT, "max_position_embeddings": 42, "pad_token_id": 1},
    "modernbert": {**BERT, **POSITIONS, **MODERN},
    "deberta-v2": {**BERT, **POSITIONS, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    "electra": {**BERT, **POSITIONS, "embedding_size": 16},
    "albert": {**BERT, **POSITIONS, "embedding_size": 16},
    "mpnet": {**BERT, "max_position_embeddings": 42, "pad_token_id": 1},
    "xlnet": {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64, "pad_token_id": 0},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 40},
}
SEGMENTS = ("bert", "electra", "albert", "deberta-v2", "xlnet")  # which take token_type_ids


def small_tokenizer(kind: str) -> Any:
    """Words of ``TEXTS``; GPT-2's has no padding token and adds no tokens, XLNet's pads on the left."""
    special = ["<pad>", "<unk>", "<s>", "</s>", "<mask>"]
    if kind in ("roberta", "mpnet"):
        special[:2] = ["<s>", "<pad>"]
        special[2] = "<unk>"
    elif kind == "gpt2":
        special = ["<unk>", "<|endoftext|>"]
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(
        TEXTS, trainers.WordLevelTrainer(special_tokens=special, show_progress=False)
    )
    ids = {token: tokenizer.token_to_id(token) for token in special}
    names: dict[str, Any] = {"unk_token": "<unk>", "eos_token": "<|endoftext|>"}
    if kind != "gpt2":
        template = "$A </s> <s>" if kind == "xlnet" else "<s> $A </s>"
        ends = [("<s>", ids["<s>"]), ("</s>", ids["</s>"])]
        tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=ends)
        names = {"pad_token": "<pad>", "unk_token": "<unk>", "cls_token": "<s>", "sep_token": "</s>"}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        padding_side="left" if kind == "xlnet" else "right",
        model_input_names=["input_ids", "attention_mask", *["token_type_ids"] * (kind in SEGMENTS)],
        **names,
    )


def save_base_model(kind: str, folder: Path) -> Path:
    """A pretrained model as the Hub has it, for other labels than ours."""
    torch.manual_seed(0)
    tokenizer = small_tokenizer(kind)
    config = transformers.AutoConfig.for_model(kind, vocab_size=len(tokenizer), num_labels=2, **KINDS[kind])
    transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
