"""Model folders and Hub models: load, check, save, hash.

``transformers`` loads torch only when a class of its models is first used: ``inspect`` does without.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import transformers
from safetensors import safe_open

from goodreads.common.errors import CheckFailed, InputError
from goodreads.common.files import LOCK, SUFFIX, atomic_files, read_json, sha256_file
from goodreads.model import scratch_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

transformers.logging.set_verbosity_error()  # what it would warn of is judged here
transformers.logging.disable_progress_bar()
SCRATCH = "scratch"  # as --model_name_or_path: a small new model
WEIGHTS = "model.safetensors"
SHARDS = "model*.safetensors"  # of a large model, in several files
REQUIRED = ("config.json", WEIGHTS, "tokenizer.json", "tokenizer_config.json")
OPTIONAL = """
    model.safetensors.index.json special_tokens_map.json vocab.txt vocab.json merges.txt added_tokens.json
    spiece.model sentencepiece.bpe.model chat_template.jinja
""".split()
WHOLE = "make one with train.py (or merge an adapter into its base model, save a pickle with save_pretrained)"
CLONE = "after a git clone: git lfs pull"  # without it the files are pointers to the true ones
NO_LIMIT = 1_000_000  # tokens of a review, for models without a limit of positions


@dataclass(frozen=True)
class Classifier:
    """A loaded model.

    Attributes:
        model: in evaluation mode, on its device.
        tokenizer: the fast tokenizer saved with it.
        labels: names by the model's own label ids.
        max_length: tokens of a review it takes at most.
    """

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerFast"
    labels: list[str]
    max_length: int


def inspect(folder: Path) -> list[str]:
    """Labels of a trained sequence classifier by label id, without loading it.

    Raises:
        InputError: the folder is not a complete model in safetensors, or not a trained classifier.
    """
    weights = sorted(folder.glob(SHARDS))
    for name in REQUIRED:
        if not (weights if name == WEIGHTS else (folder / name).is_file()):
            raise InputError(f"{folder} is not a complete model: it has no {name}; {WHOLE}")
    config = read_json(damaged := folder / "config.json", "train.py")
    try:
        labels = [config["id2label"][str(i)] for i in range(len(config["id2label"]))]
        trained = config["architectures"][0].endswith("ForSequenceClassification")
        shapes = []
        for damaged in weights:
            with safe_open(damaged, framework="np") as file:
                shapes += [file.get_slice(key).get_shape() for key in file.keys()]  # noqa: SIM118
    except Exception as error:  # what a damaged file may hold has no end
        raise InputError(f"{damaged} is damaged ({error!r}); copy it again ({CLONE})") from error
    if not trained or not any(shape[:1] == [len(labels)] for shape in shapes):
        raise InputError(f"{folder} has no trained classifier; fine-tune it with train.py")
    return labels


def check_replaceable(folder: Path) -> None:
    """Raise InputError if saving to ``folder`` would replace anything but a model."""
    known = {*REQUIRED, *OPTIONAL, *(path.name for path in folder.glob(SHARDS)), LOCK}
    names = {path.name for path in folder.glob("*") if path.suffix != SUFFIX}  # that is of a killed run
    if foreign := sorted(names - known):
        raise InputError(f"--output_dir {folder} holds {foreign[0]}, not a model file; name another folder")


def save(folder: Path, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerFast") -> dict[str, str]:
    """Save model and tokenizer as the only files of the folder.

    Returns:
        File name -> SHA-256.

    Raises:
        CheckFailed: a weight is not a finite number.
        InputError: the folder cannot be written.
    """
    if bad := [name for name, weight in model.named_parameters() if not weight.isfinite().all()]:
        raise CheckFailed(f"training diverged: {bad[0]} is not finite; lower --learning_rate")
    with atomic_files(folder, alone=True) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        for path in temporary.iterdir():
            path.chmod(0o644)  # safetensors makes it private, and another user may evaluate it
    return hashes(folder)


def hashes(folder: Path) -> dict[str, str]:
    """File name -> SHA-256 of the files in a model folder, in order of name."""
    return {path.name: sha256_file(path) for path in sorted(folder.iterdir()) if path.is_file()}


def load_for_training(
    name: str | Path, label_names: Sequence[str], max_length: int, seed: int, texts: Iterable[str]
) -> tuple["PreTrainedTokenizerFast", "PreTrainedModel"]:
    """Load or make the tokenizer and the model to fine-tune.

    Args:
        name: model id, folder, or ``scratch`` for goodreads.model.scratch_model.
        label_names: genres by label id; they go into the model's config.
        max_length: tokens of a review at most; saved with the tokenizer, so that scoring cuts the same.
        seed: of the new weights.
        texts: of the training split; ``scratch`` learns its vocabulary from them.

    Returns:
        A fast tokenizer and a sequence classifier with float32 weights.

    Raises:
        InputError: the model cannot be loaded, or cannot take ``max_length`` tokens.
    """
    transformers.set_seed(seed)
    names = dict(enumerate(label_names))
    labels = {"id2label": names, "label2id": {label: i for i, label in names.items()}}
    if name == SCRATCH:
        tokenizer = scratch_model.build_tokenizer(texts, max_length)
        sizes: dict[str, Any] = scratch_model.SIZES | labels | {"vocab_size": len(tokenizer)}
        config = transformers.DistilBertConfig(max_position_embeddings=max_length, **sizes)
        return tokenizer, transformers.AutoModelForSequenceClassification.from_config(config)
    tokenizer, model, lacking = _load(name, "float32", **labels)
    encoder = f"{model.base_model_prefix}."
    if broken := [key for key in lacking if key.startswith(encoder) and "pooler" not in key]:
        raise InputError(f"{name} cannot be used: its weights lack {broken[0]} or have it in another shape")
    if max_length > (limit := position_limit(model)):
        raise InputError(f"--max_length {max_length} is more than the {limit} tokens that {name} can take")
    tokenizer.model_max_length = max_length
    return tokenizer, model


def load_classifier(folder: Path, dtype: str, device: str) -> Classifier:
    """Load a sequence classifier from a folder, from safetensors only and without any network.

    Args:
        folder: config.json, the weights and the tokenizer's files.
        dtype: ``float32`` or ``bfloat16``, of the weights and the arithmetic.
        device: a torch device.

    Raises:
        InputError: the folder is not a complete model, or one whose classifier was never trained.
    """
    labels = inspect(folder)
    tokenizer, model, lacking = _load(folder, dtype)
    if lacking:
        raise InputError(f"{folder} has no trained classifier: its weights lack {', '.join(lacking[:3])}")
    max_length = min(tokenizer.model_max_length, position_limit(model))
    return Classifier(model.eval().to(device), tokenizer, labels, max_length)  # type: ignore[arg-type]


def position_limit(model: "PreTrainedModel") -> int:
    """Tokens that a model takes at most; ``NO_LIMIT`` if its positions have no limit.

    A table of positions with a padding index loses the rows up to it: RoBERTa takes two tokens fewer than its
    config says.
    """
    limits = [getattr(model.config, "max_position_embeddings", 0)]
    for name, module in model.named_modules():
        if name.endswith(("position_embeddings", "wpe")) and hasattr(module, "num_embeddings"):
            unused = 0 if module.padding_idx is None else module.padding_idx + 1
            limits.append(module.num_embeddings - unused)
    return min((limit for limit in limits if limit > 0), default=NO_LIMIT)


def _load(name: str | Path, dtype: str, **labels: Any) -> tuple[Any, "PreTrainedModel", list[str]]:
    """Tokenizer, model, and the weights that it lacks or has in another shape.

    Args:
        name: folder, or model id on the Hub.
        dtype: of the weights.
        labels: of a new classifier, where there is none for them.
    """
    local = Path(name).is_dir()
    safe: dict[str, Any] = {"trust_remote_code": False, "local_files_only": local}
    options = {"use_safetensors": True, "ignore_mismatched_sizes": True, "output_loading_info": True}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, **safe)
        kind = transformers.AutoModelForSequenceClassification
        model, report = kind.from_pretrained(name, dtype=dtype, **safe, **options, **labels)
    except Exception as error:  # transformers, safetensors and tokenizers share no base class
        reason = " ".join(str(error).split()) or type(error).__name__
        if "trust_remote_code" in reason:
            reason = "it needs code from its own repository, which is never run"
        hint = f" ({CLONE})" if local else ""
        raise InputError(f"{name} cannot be loaded: {reason[:400]}{hint}") from error
    if not tokenizer.is_fast:
        raise InputError(f"{name} has no fast tokenizer (tokenizer.json)")
    rows, largest = model.get_input_embeddings().num_embeddings, max(tokenizer.get_vocab().values())
    if largest >= rows:
        raise InputError(f"{name}: tokenizer and model do not fit: token {largest:,} of {rows:,}")
    if tokenizer.pad_token_id is None:  # GPT-2, for example
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token or tokenizer.convert_ids_to_tokens(0)
    model.config.pad_token_id = tokenizer.pad_token_id
    lacking = {*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])}
    return tokenizer, model, sorted(lacking)
