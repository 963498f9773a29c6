"""A small DistilBERT and a cased WordPiece tokenizer from scratch: ``--model_name_or_path scratch``.

For the sample run and the tests, where no pretrained weights can be had.
"""

from collections.abc import Sequence
from typing import Any

VOCABULARY = 4_000  # tokens
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")  # ids 0 to 4


def build_tokenizer(texts: Sequence[str], max_length: int) -> Any:
    """A WordPiece tokenizer (Wu et al. 2016) learnt from ``texts``, with BERT's special tokens."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    def untrained(vocabulary: dict[str, int] | None) -> Any:
        tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        return tokenizer

    # the trainer numbers the ## letters in the order of a hash table, and breaks ties by number: only
    # tokens that are named as special have a fixed place. The vocabulary then goes into a tokenizer
    # where the five true ones alone are special.
    letters = [f"##{letter}" for letter in sorted({c for text in texts for c in text if not c.isspace()})]
    learner = untrained(None)
    learner.train_from_iterator(
        texts,
        trainers.WordPieceTrainer(
            vocab_size=VOCABULARY, special_tokens=[*SPECIAL, *letters], show_progress=False
        ),
    )
    tokenizer = untrained(learner.get_vocab())
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        model_input_names=["input_ids", "attention_mask"],
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def build_config(vocabulary: int, max_length: int, label_names: Sequence[str]) -> Any:
    """The configuration of a two-layer DistilBERT, 128 wide."""
    from transformers import DistilBertConfig

    return DistilBertConfig(
        vocab_size=vocabulary,
        max_position_embeddings=max_length,
        dim=128,
        hidden_dim=512,
        n_layers=2,
        n_heads=4,
        pad_token_id=0,
        id2label=dict(enumerate(label_names)),
        label2id={name: i for i, name in enumerate(label_names)},
    )
