"""The model folder: what train.py saves, evaluate_model.py loads and push_to_hub.py publishes."""

from pathlib import Path
from typing import Any

from goodreads.common.errors import InputError
from goodreads.common.files import atomic_folder, sha256_file

WEIGHTS = "model.safetensors"
REQUIRED = ("config.json", WEIGHTS, "tokenizer.json", "tokenizer_config.json")
OPTIONAL = ("special_tokens_map.json", "vocab.txt", "vocab.json", "merges.txt", "added_tokens.json")


def check_complete(folder: Path) -> None:
    """Raise InputError, naming the first missing file, unless the folder is a whole safetensors model."""
    for name in REQUIRED:
        if not (folder / name).is_file():
            raise InputError(f"{folder} is not a complete model: it has no {name}; make one with train.py")


def check_replaceable(folder: Path) -> None:
    """Raise InputError if saving to ``folder`` would replace anything but a model."""
    if folder.is_dir():
        foreign = sorted({path.name for path in folder.iterdir()} - {*REQUIRED, *OPTIONAL})
        if foreign:
            raise InputError(
                f"--output_dir {folder} holds {foreign[0]}, which is no model file; name another"
            )
    elif folder.exists():
        raise InputError(f"--output_dir {folder} is a file; name a folder")


def save(folder: Path, model: Any, tokenizer: Any) -> dict[str, str]:
    """Save model and tokenizer, replacing the folder as a whole.

    Returns:
        File name -> SHA-256.

    Raises:
        InputError: the folder cannot be written.
    """
    with atomic_folder(folder) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        for path in temporary.iterdir():
            path.chmod(0o644)  # safetensors makes it private, and another user may evaluate it
    return hashes(folder)


def hashes(folder: Path) -> dict[str, str]:
    """File name -> SHA-256 of the files in a model folder, in order of name."""
    return {path.name: sha256_file(path) for path in sorted(folder.iterdir()) if path.is_file()}
