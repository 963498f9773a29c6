"""A model by the name of a folder or of a Hub repository."""

from pathlib import Path
from typing import Any

from goodreads.common.errors import InputError
from goodreads.common.files import sha256_lines
from goodreads.hub.client import download
from goodreads.model.checkpoint import WEIGHTS, hashes


def find_model(
    model: str, revision: str | None, cache_dir: Path | None, scratch: Path
) -> tuple[Path, dict[str, Any]]:
    """The folder that holds a model, and its origin with the hashes of its files.

    Args:
        model: a folder, or a repository ``user/name``.
        revision: branch, tag or commit of the repository.
        cache_dir: where fetched files are kept for later runs; None keeps nothing.
        scratch: a repository is fetched into a folder here.

    Raises:
        InputError: no such folder or repository, or it cannot be fetched.
        CheckFailed: a fetched file is not what the Hub says it is.
    """
    folder, origin = Path(model), {"source": model}
    if folder.is_dir():
        if revision:
            raise InputError(f"--revision is for Hub repositories, and --model {model} is a folder")
    elif model.count("/") != 1 or model.startswith((".", "/", "~")) or model.endswith("/"):
        raise InputError(
            f"--model {model}: no such folder; make it with: python train.py --output_dir {model}, "
            "or name a Hub repository as user/name"
        )
    else:
        folder = scratch / "model"
        origin = download(model, revision, cache_dir, folder)
    files = hashes(folder)
    shards = [f"{name} {digest}" for name, digest in files.items() if name.endswith(".safetensors")]
    weights = files.get(WEIGHTS) or (sha256_lines(shards) if shards else None)
    return folder, origin | {"files_sha256": files, "weights_sha256": weights}
