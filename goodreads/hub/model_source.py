"""A model by the name of a folder, or of a Hub repository, which is fetched and checked by hash."""

import re
from pathlib import Path
from typing import Any

from goodreads.common.errors import CheckFailed, InputError
from goodreads.common.files import locked, sha256_lines
from goodreads.common.progress import log
from goodreads.hub.client import attempt, connect, differences
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
        folder, origin = download(model, revision, cache_dir or scratch)
        try:
            inspect(folder)
        except InputError as error:  # the user knows the repository, not where it has been put
            raise InputError(str(error).replace(str(folder), model)) from error
    else:
        raise InputError(
            f"--model {model}: no such folder; make it with: python train.py --output_dir {model}, "
            "or name a Hub repository as user/name"
        )
    files = hashes(folder)
    shards = [f"{name} {digest}" for name, digest in files.items() if name.endswith(".safetensors")]
    weights = files.get(WEIGHTS) or (sha256_lines(shards) if shards else None)
    return folder, origin | {"files_sha256": files, "weights_sha256": weights}


def download(repo: str, revision: str | None, cache_dir: Path) -> tuple[Path, dict[str, Any]]:
    """Fetch a model's files at one commit, and check each against the Hub's hash.

    Args:
        repo: ``user/name``.
        revision: branch, tag or commit, resolved by the Hub; None for its main branch.
        cache_dir: the files go to a folder per commit in it. Those that are there already are checked in the
            same way, and fetched again where the hash is not the Hub's.

    Returns:
        The folder, and what is known of the files' origin, for the results file.

    Raises:
        InputError: no such repository or revision, no access, the Hub is down, no safetensors.
        CheckFailed: a fetched file is not what the Hub says it is.
    """
    api, what = connect(), f"--model {repo}" + (f" --revision {revision}" if revision else "")
    info = attempt(what, lambda: api.model_info(repo, revision=revision))
    commit, names = str(info.sha), {sibling.rfilename for sibling in info.siblings or []}
    wanted = {name for name in names if "/" not in name and name.endswith(SCORING_READS)}
    if not any(name.endswith(".safetensors") for name in wanted):
        raise InputError(f"{what} has no weights as safetensors, and pickles are never loaded: convert them")
    folder = cache_dir / f"{repo.replace('/', '--')}--{commit}"

    def wrong() -> list[str]:
        return attempt(what, lambda: differences(api, repo, commit, folder, names - wanted))

    kept = folder.is_dir() and not wrong()
    if not kept:
        options: dict[str, Any] = {"revision": commit, "local_dir": folder, "allow_patterns": [*wanted]}
        with locked(cache_dir):
            folder.mkdir(exist_ok=True)
            for name in wrong():
                (folder / name).unlink(missing_ok=True)
            attempt(what, lambda: api.snapshot_download(repo, **options))
            if damaged := wrong():
                raise CheckFailed(f"{what}: {damaged[0]} was damaged on the way (its hash is not the Hub's)")
    log.info("%s: commit %s, %d files, all checked%s", what, commit, len(wanted), " (kept)" * kept)
    cache = f"{len(wanted)} of {len(wanted)} files, checked" if kept else "fresh"
    return folder, {"source": repo, "revision": revision, "commit": commit, "cache": cache}
