"""A model by the name of a folder or of a Hub repository."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from goodreads.common.errors import InputError
from goodreads.common.files import sha256_lines
from goodreads.hub.client import download
from goodreads.model.checkpoint import WEIGHTS, hashes


def is_repository(model: str) -> bool:
    """Whether ``model``, which is no folder, has the form ``user/name``."""
    return model.count("/") == 1 and not model.startswith((".", "/", "~")) and not model.endswith("/")


@contextmanager
def open_model(
    model: str, revision: str | None, cache_dir: Path | None, repository: bool = False
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the folder that holds a model, and its origin with the hashes of its files.

    Args:
        model: a folder, or a repository, which is fetched into a temporary folder.
        revision: branch, tag or commit of the repository.
        cache_dir: where fetched files are kept for later runs; None keeps nothing.
        repository: take it for a repository even if there is a folder of that name.

    Raises:
        InputError: no such folder or repository, or it cannot be fetched.
        CheckFailed: a fetched file is not what the Hub says it is.
    """
    folder = Path(model)
    with tempfile.TemporaryDirectory() as scratch:
        origin: dict[str, Any] = {"source": model}
        if repository or not folder.is_dir():
            if not is_repository(model):
                raise InputError(
                    f"--model {model}: no such folder; make it with: python train.py --output_dir {model}, "
                    "or name a Hub repository as user/name"
                )
            folder = Path(scratch, "model")
            origin = download(model, revision, cache_dir, folder)
        elif revision:
            raise InputError(f"--revision is for Hub repositories, and --model {model} is a folder")
        files = hashes(folder)
        yield folder, origin | {"files_sha256": files, "weights_sha256": weights_sha256(files)}


def weights_sha256(files: dict[str, str]) -> str | None:
    """The hash of ``model.safetensors``, or one of all its shards, from the hashes of a model's files."""
    shards = [f"{name} {digest}" for name, digest in sorted(files.items()) if name.endswith(".safetensors")]
    return files.get(WEIGHTS) or (sha256_lines(shards) if shards else None)
