"""Model folders and Hub models: load, check, save, hash.

``transformers`` loads torch only when a class of its models is first used: ``inspect`` does without.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import transformers
from safetensors import SafetensorError, safe_open

from goodreads.common.errors import CheckFailed, InputError
from goodreads.common.files import LOCK, SUFFIX, atomic_files, read_json, sha256_file
from goodreads.common.progress import log
from goodreads.model import scratch_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

SCRATCH = "scratch"  # as --model_name_or_path: a small new model
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"  # of weights in several files
REQUIRED = ("config.json", WEIGHTS, "tokenizer.json", "tokenizer_config.json")
OPTIONAL = (
    *(INDEX, "special_tokens_map.json", "vocab.txt", "vocab.json", "merges.txt", "added_tokens.json"),
    *("spiece.model", "sentencepiece.bpe.model", "chat_template.jinja"),
)
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


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder: one, or the shards that its index names.

    Raises:
        InputError: the index is damaged.
    """
    if (folder / WEIGHTS).is_file() or not (folder / INDEX).is_file():
        return [folder / WEIGHTS]
    names = read_json(folder / INDEX, "train.py").get("weight_map")
    if not isinstance(names, dict) or not names:
        raise InputError(f"{folder / INDEX} names no files of weights")
    return [folder / Path(str(name)).name for name in sorted(set(names.values()))]


def check_complete(folder: Path) -> None:
    """Check that a folder is a whole safetensors model, without torch.

    Raises:
        InputError: a file is missing, or the weights are damaged; the message says which.
    """
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if "adapter_config.json" in names and not names & {WEIGHTS, INDEX}:
        raise InputError(f"{folder} holds an adapter alone; merge it with its base model (merge_and_unload)")
    pickles = sorted(name for name in names if name.startswith("pytorch_model"))
    if pickles and not names & {WEIGHTS, INDEX}:
        raise InputError(
            f"{folder} has its weights as a pickle ({pickles[0]}), which can run code when it is loaded; "
            "save them as safetensors with model.save_pretrained"
        )
    for path in (folder / "config.json", *weight_files(folder), *(folder / name for name in REQUIRED[2:])):
        if not path.is_file():
            raise InputError(
                f"{folder} is not a complete model: it has no {path.name}; make one with train.py"
            )
    for path in weight_files(folder):
        tensor_shapes(path)


def tensor_shapes(path: Path) -> dict[str, list[int]]:
    """Name -> shape of the tensors in a safetensors file, from its header.

    Raises:
        InputError: it is a git-lfs pointer, truncated or otherwise damaged.
    """
    with path.open("rb") as file:
        if file.read(20).startswith(b"version https://git"):
            raise InputError(f"{path} is a git-lfs pointer, not the weights; fetch them with: git lfs pull")
    try:
        with safe_open(path, framework="np") as weights:
            return {name: weights.get_slice(name).get_shape() for name in weights.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is damaged ({error}); copy or download it again") from error


def inspect(folder: Path) -> list[str]:
    """Labels of a trained sequence classifier by label id, without loading it.

    Raises:
        InputError: the folder is not a complete model, or not a trained classifier.
    """
    check_complete(folder)
    config = read_json(folder / "config.json", "train.py")
    try:
        labels = [config["id2label"][str(i)] for i in range(len(config["id2label"]))]
    except (KeyError, TypeError) as error:
        raise InputError(f"{folder / 'config.json'} names no labels; fine-tune it with train.py") from error
    shapes = [shape for path in weight_files(folder) for shape in tensor_shapes(path).values()]
    kinds = config.get("architectures") or [""]
    if not kinds[0].endswith("ForSequenceClassification") or not any(s[:1] == [len(labels)] for s in shapes):
        raise InputError(f"{folder} has no trained classifier ({kinds[0]}); fine-tune it with train.py")
    return labels


def check_replaceable(folder: Path) -> None:
    """Raise InputError if saving to ``folder`` would replace anything but a model."""
    if folder.is_dir():
        shards = {path.name for path in folder.glob("model-*-of-*.safetensors")}
        names = {path.name for path in folder.iterdir() if path.suffix != SUFFIX}  # of a killed run
        foreign = sorted(names - {*REQUIRED, *OPTIONAL, *shards, LOCK})
        if foreign:
            raise InputError(
                f"--output_dir {folder} holds {foreign[0]}, not a model file; name another folder"
            )
    elif folder.exists():
        raise InputError(f"--output_dir {folder} is a file; name a folder")


def save(folder: Path, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerFast") -> dict[str, str]:
    """Save model and tokenizer as the only files of the folder.

    Returns:
        File name -> SHA-256.

    Raises:
        CheckFailed: a weight is not a finite number.
        InputError: the folder cannot be written.
    """
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            raise CheckFailed(
                f"training diverged: {name} is not finite; nothing is saved; lower --learning_rate"
            )
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
    if name == SCRATCH:
        tokenizer = scratch_model.build_tokenizer(texts, max_length)
        config = scratch_model.build_config(len(tokenizer), max_length, label_names)
        return tokenizer, transformers.AutoModelForSequenceClassification.from_config(config)
    what = f"--model_name_or_path {name}"
    if Path(name).is_dir():
        for path in Path(name).glob("*.safetensors"):
            tensor_shapes(path)
    tokenizer, model, report = _load(
        name,
        what,
        id2label=dict(enumerate(label_names)),
        label2id={label: i for i, label in enumerate(label_names)},
        dtype="float32",
        ignore_mismatched_sizes=True,  # a classifier for other labels is replaced, see below
    )
    mismatched = [key if isinstance(key, str) else key[0] for key in report["mismatched_keys"]]
    encoder = f"{model.base_model_prefix}."
    broken = [
        key
        for key in (*report["missing_keys"], *mismatched)
        if key.startswith(encoder) and "pooler" not in key
    ]
    if broken:
        raise InputError(f"{what} cannot be loaded: its weights lack {broken[0]} or have it in another shape")
    if mismatched:
        log.info("%s: the classifier has other labels and is replaced by a new one", name)
    limit = position_limit(model)
    if max_length > limit:
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
    transformers.logging.set_verbosity_error()  # what it would warn of is refused below
    transformers.logging.disable_progress_bar()
    check_complete(folder)
    tokenizer, model, report = _load(
        folder, str(folder), dtype=dtype, use_safetensors=True, local_files_only=True
    )
    if report["missing_keys"]:
        missing = ", ".join(sorted(report["missing_keys"])[:3])
        raise InputError(f"{folder} has no trained classifier (no {missing}); fine-tune it with train.py")
    config: Any = model.config
    labels = [config.id2label[i] for i in range(config.num_labels)]
    max_length = min(tokenizer.model_max_length, position_limit(model))
    return Classifier(model.eval().to(device), tokenizer, labels, max_length)


def position_limit(model: "PreTrainedModel") -> int:
    """Tokens that a model takes at most; ``NO_LIMIT`` if its positions have no limit.

    A table of positions with a padding index loses the rows up to it: RoBERTa takes two tokens fewer than its
    config says.
    """
    said = getattr(model.config, "max_position_embeddings", None)
    limits = [said] if isinstance(said, int) and said > 0 else []
    for name, module in model.named_modules():
        if name.endswith(("position_embeddings", "wpe")) and hasattr(module, "num_embeddings"):
            unused = 0 if module.padding_idx is None else module.padding_idx + 1
            limits.append(module.num_embeddings - unused)
    return min(limits, default=NO_LIMIT)


def _load(
    name: str | Path, what: str, **options: Any
) -> tuple["PreTrainedTokenizerFast", "PreTrainedModel", dict[str, Any]]:
    """Tokenizer, model and transformers' loading report; ``what`` names the model in errors."""
    tokenizer: Any
    common: dict[str, Any] = {
        "trust_remote_code": False,
        "local_files_only": options.pop("local_files_only", False),
    }
    try:
        part = "tokenizer"
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, **common)
        part = "model"
        model, report = transformers.AutoModelForSequenceClassification.from_pretrained(
            name, output_loading_info=True, **common, **options
        )
    except Exception as error:  # transformers, safetensors and tokenizers share no base class
        if "trust_remote_code" in str(error):
            raise InputError(f"{what} needs code from its own repository, which is never run") from error
        raise InputError(f"{what} cannot be loaded: {part}: {_first_lines(error)}") from error
    if not tokenizer.is_fast:
        raise InputError(f"{what} has no fast tokenizer (tokenizer.json)")
    rows = model.get_input_embeddings().num_embeddings
    largest = max(tokenizer.get_vocab().values(), default=0)
    if largest >= rows:
        raise InputError(
            f"{what}: tokenizer and model do not fit: token {largest:,} of a vocabulary of {rows:,}"
        )
    if tokenizer.pad_token_id is None:  # GPT-2, for example
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token or tokenizer.convert_ids_to_tokens(0)
    if getattr(model.config, "pad_token_id", None) is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    return tokenizer, model, report


def _first_lines(error: Exception) -> str:
    """An error's text, without the long advice that some libraries add."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 400 else text[:397] + "..."
