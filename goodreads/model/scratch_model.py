"""A small DistilBERT and a tokenizer of whole words from scratch: ``--model_name_or_path scratch``.

For the sample run and the tests, where no pretrained weights can be had.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

VOCABULARY = 4_000  # tokens
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]  # ids 0 to 4
SIZES: dict[str, Any] = {"dim": 128, "hidden_dim": 512, "n_layers": 2, "n_heads": 4, "pad_token_id": 0}


def build_tokenizer(texts: Iterable[str], max_length: int) -> "PreTrainedTokenizerFast":
    """A tokenizer of the most frequent words of ``texts``, cased, with BERT's special tokens."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    options: dict[str, Any] = {"special_tokens": SPECIAL, "show_progress": False}
    tokenizer.train_from_iterator(texts, trainers.WordLevelTrainer(vocab_size=VOCABULARY, **options))
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        model_input_names=["input_ids", "attention_mask"],
        **{f"{token[1:-1].lower()}_token": token for token in SPECIAL},
    )
