"""A model by the name of a folder, or of a Hub repository, which is fetched and checked by hash."""

import re
import shutil
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi

from goodreads.common.errors import CheckFailed, InputError
from goodreads.common.files import locked, sha256_lines
from goodreads.common.progress import log
from goodreads.hub.client import attempt, differences
from goodreads.model.checkpoint import WEIGHTS, hashes, inspect

SCORING_READS = (".json", ".txt", ".safetensors")


def find_model(
    model: str, revision: str | None, cache_dir: Path | None, scratch: Path
) -> tuple[Path, dict[str, Any]]:
    """The folder that holds a model, and its origin with the hashes of its files.

    Args:
        model: a folder, or a repository ``user/name``.
        revision: branch, tag or commit of the repository.
        cache_dir: where fetched files are kept for later runs; None keeps nothing.
        scratch: a repository is fetched into a folder here unless it is kept.

    Raises:
        InputError: no such folder or repository, or it cannot be fetched or is not a whole model.
        CheckFailed: a fetched file is not what the Hub says it is.
    """
    folder, origin = Path(model), {"source": model}
    if folder.is_dir():
        if revision:
            raise InputError(f"--revision is for Hub repositories, and --model {model} is a folder")
    elif re.fullmatch(r"\w[\w.-]*/[\w.-]+", model):
        what = f"--model {model}" + (f" --revision {revision}" if revision else "")
        folder, origin = attempt(what, lambda api: download(api, model, revision, cache_dir or scratch))
        try:
            inspect(folder)
        except InputError as error:  # the user knows the repository, not where it has been put
            raise InputError(str(error).replace(str(folder), model)) from error
    else:
        raise InputError(
            f"--model {model}: no such folder; make it with: python train.py --output_dir {model}"
        )
    files = hashes(folder)
    shards = [f"{name} {digest}" for name, digest in files.items() if name.endswith(".safetensors")]
    weights = files.get(WEIGHTS) or (sha256_lines(shards) if shards else None)
    return folder, origin | {"files_sha256": files, "weights_sha256": weights}


def download(api: HfApi, repo: str, revision: str | None, cache_dir: Path) -> tuple[Path, dict[str, Any]]:
    """Fetch a model's files at one commit, and check each against the Hub's hash.

    Args:
        api: the client.
        repo: ``user/name``.
        revision: branch, tag or commit, resolved by the Hub; None for its main branch.
        cache_dir: the files go to a folder per commit in it. Those that are there already are checked in the
            same way; where one is not the Hub's, all are fetched again.

    Returns:
        The folder, and what is known of the files' origin, for the results file.

    Raises:
        InputError: the repository has no safetensors.
        CheckFailed: a fetched file is not what the Hub says it is.
    """
    info = api.model_info(repo, revision=revision)
    commit, names = str(info.sha), {sibling.rfilename for sibling in info.siblings or []}
    wanted = {name for name in names if "/" not in name and name.endswith(SCORING_READS)}
    if not any(name.endswith(".safetensors") for name in wanted):
        raise InputError(f"{repo} has no weights as safetensors, and pickles are never loaded: convert them")
    folder = cache_dir / f"{repo.replace('/', '--')}--{commit}"
    damaged: list[str] = []
    with locked(cache_dir):
        for _ in range(2):  # files that an earlier run has kept may have been changed since
            api.snapshot_download(repo, revision=commit, local_dir=folder, allow_patterns=[*wanted])
            if not (damaged := differences(api, repo, commit, folder, names - wanted)):
                break
            shutil.rmtree(folder)
    if damaged:
        raise CheckFailed(f"{repo}: {damaged[0]} was damaged on the way (its hash is not the Hub's)")
    log.info("--model %s: commit %s, %d files, all checked", repo, commit, len(wanted))
    return folder, {"source": repo, "revision": revision, "commit": commit}
