"""Publish the evaluated model to the Hugging Face Hub, in one commit that is then checked file by file.

    HF_TOKEN=... python push_to_hub.py --repo user/name      # private
    python push_to_hub.py --repo user/name --public          # with the saved login (hf auth login)

The token comes from HF_TOKEN, from the file that HF_TOKEN_FILE names, or from the saved login; it must be
able to write. Nothing is created before the model, its evaluation and the token have been checked. A push of
what is there already changes nothing, so a push that broke off is simply run again. Writes hub_push.json.
"""

import argparse
import json
import os
import shutil
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from goodreads.common.cli import Parser, run
from goodreads.common.errors import CheckFailed, InputError
from goodreads.common.progress import log

KEEP = ".gitattributes"  # the Hub's own file: which names are stored as LFS


def main() -> None:
    """Check, push, verify; print one JSON line."""
    options = _options()
    if not options.repo:
        raise InputError("no repository: give --repo user/name or set HF_REPO")
    if options.repo.count("/") != 1:
        raise InputError(f"--repo {options.repo} is not of the form user/name")
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        tag, files = stage(options, Path(folder))
        record = push(options, tag, files)
    from goodreads.common.files import write_json

    record["seconds"] = time.perf_counter() - started
    write_json(options.results_dir / "hub_push.json", record)
    log.info("wrote %s", options.results_dir / "hub_push.json")
    print(json.dumps({key: record[key] for key in ("repo", "commit", "tag", "visibility", "changed")}))


def stage(options: argparse.Namespace, folder: Path) -> tuple[str, dict[str, Path]]:
    """Check the model and its evaluation, and put together the files to publish.

    Returns:
        The tag; and file name in the repository -> local file.

    Raises:
        InputError: the model is not complete or not the one that was evaluated, or a results file is missing.
    """
    from goodreads.common.files import read_json, sha256_file, write_json, write_text
    from goodreads.data.genres import match_labels
    from goodreads.data.split_store import read_manifest, read_split
    from goodreads.hub import model_card as card
    from goodreads.model.checkpoint import OPTIONAL, REQUIRED, WEIGHTS, inspect

    result = read_json(options.results_dir / "eval_results_local.json", "python evaluate_model.py")
    training = read_json(options.results_dir / "training_log.json", "python train.py")
    manifest = read_manifest(options.data_dir)
    test = read_split(options.data_dir, "test")
    # trained on everything else: millions of reviews are named by what they are not
    everything = "test_parameters" in manifest
    train_ids = None if everything else read_split(options.data_dir, "train").review_ids
    match_labels(inspect(options.model), test.label_names, str(options.model))
    weights = sha256_file(options.model / WEIGHTS)
    for what, found in (
        ("eval_results_local.json", result["model"]["weights_sha256"]),
        ("training_log.json", training["model"]["files_sha256"][WEIGHTS]),
    ):
        if found != weights:
            raise InputError(
                f"{what} is of other weights than {options.model}; run python evaluate_model.py again"
            )
    content = manifest["splits"]["test"]["content_sha256"]
    if result["data"]["test_content_sha256"] != content:
        raise InputError(f"eval_results_local.json is of another test split than {options.data_dir}")
    picture = options.results_dir / "confusion_matrix_local.png"
    if not picture.is_file():
        raise InputError(f"{picture} is missing; draw it with: python plot_results.py")

    tag = options.tag or f"v-{content[:8]}-{weights[:8]}"
    write_text(folder / "README.md", card.render(options.repo, result, training, manifest, tag))
    write_json(folder / "eval_results.json", result)
    write_json(folder / "split_manifest.json", card.split_manifest(manifest, test, train_ids))
    shutil.copyfile(picture, folder / "confusion_matrix.png")
    files = {path.name: path for path in sorted(folder.iterdir())}
    names = [name for name in (*REQUIRED, *OPTIONAL) if (options.model / name).is_file()]
    return tag, files | {name: options.model / name for name in names}


def push(options: argparse.Namespace, tag: str, files: dict[str, Path]) -> dict[str, Any]:
    """Bring the repository to exactly these files, tag the commit and check it.

    Returns:
        The document of hub_push.json.

    Raises:
        InputError: the token cannot write, the Hub cannot be reached, or somebody else has pushed meanwhile.
        CheckFailed: the files on the Hub are not the local ones.
    """
    from huggingface_hub import ModelCard

    from goodreads.common.files import sha256_file
    from goodreads.hub import client as hub

    api = hub.connect()
    check_token(api, options.repo)
    exists = hub.attempt(options.repo, lambda: api.repo_exists(options.repo))
    hub.attempt(
        f"create {options.repo}",
        lambda: api.create_repo(options.repo, private=not options.public, exist_ok=True),
    )
    model_card = ModelCard(files["README.md"].read_text(encoding="utf-8"))
    try:
        hub.attempt("card validation", lambda: model_card.validate(repo_type="model"))
    except ValueError as error:
        raise InputError(f"the Hub refuses the model card: {error}") from None
    set_visibility(api, options, exists)
    commit, changed = make_commit(api, options.repo, files)
    set_tag(api, options.repo, tag, commit, bool(options.tag))

    info = hub.attempt(options.repo, lambda: api.model_info(options.repo, revision=tag, files_metadata=True))
    remote = hub.remote_files(info)
    wrong, stale = differences(remote, files)
    if info.sha != commit or wrong or stale:
        raise CheckFailed(f"{options.repo} at {tag} is not what was pushed: {wrong or sorted(remote)}")
    log.info(
        "%s: commit %s, tag %s, %d files checked against the Hub's hashes",
        options.repo,
        commit,
        tag,
        len(files),
    )
    return {
        "format": 1,
        "repo": options.repo,
        "commit": commit,
        "tag": tag,
        "visibility": "private" if info.private else "public",
        "changed": changed,
        "files": {
            name: {
                "bytes": remote[name].size,
                "sha256": sha256_file(path),
                "git_blob_sha1": remote[name].blob,
                "lfs": remote[name].sha256 is not None,
            }
            for name, path in files.items()
        },
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def check_token(api: Any, repo: str) -> None:
    """Raise InputError unless the token can write to the repository's owner.

    A read token passes ``create_repo(exist_ok=True)`` on an existing repository, so that proves nothing.
    """
    from goodreads.hub import client as hub

    if not api.token:
        raise InputError("no token: set HF_TOKEN or HF_TOKEN_FILE, or log in with: hf auth login")
    identity = hub.attempt("checking the token", lambda: api.whoami(cache=False))
    owner = repo.partition("/")[0]
    owners = {identity["name"], *(org["name"] for org in identity.get("orgs", []))}
    if owner not in owners:
        raise InputError(f"--repo {repo}: the token is of {identity['name']}, who cannot write to {owner}")
    access = identity.get("auth", {}).get("accessToken", {})
    scopes = access.get("fineGrained", {}).get("scoped", [])
    can_write = access.get("role") == "write" or any(
        scope.get("entity", {}).get("name") in (owner, repo) and "repo.write" in scope.get("permissions", [])
        for scope in scopes
    )
    if not can_write:
        raise InputError(
            f"the token of {identity['name']} cannot write; make one with write access to {repo}"
        )


def set_visibility(api: Any, options: argparse.Namespace, existed: bool) -> None:
    """Publish on request; refuse to push unasked to a repository that everybody can read."""
    from goodreads.hub import client as hub

    private = hub.attempt(options.repo, lambda: api.model_info(options.repo)).private
    if options.public and private:
        hub.attempt("publish", lambda: api.update_repo_settings(options.repo, private=False))
        log.info("%s is public from now on", options.repo)
    elif existed and not private and not options.public:
        raise InputError(f"{options.repo} exists and is public; push to it with --public, or name another")


def differences(remote: dict[str, Any], files: dict[str, Path]) -> tuple[list[str], list[str]]:
    """Local files that the repository lacks or has otherwise, and its files that are not local, by name."""
    wrong = [name for name, path in files.items() if name not in remote or not remote[name].is_same_as(path)]
    return wrong, sorted(set(remote) - {*files, KEEP})


def make_commit(api: Any, repo: str, files: dict[str, Path]) -> tuple[str, bool]:
    """One commit that leaves exactly these files; none if they are there already.

    A commit whose answer was lost is recognised by its content on the next look and not repeated.

    Returns:
        The commit's id, and whether this call or a lost one of it changed anything.

    Raises:
        InputError: it failed for good, or the repository changed meanwhile.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    from goodreads.hub import client as hub

    parent = None
    for number in range(1, hub.ATTEMPTS + 1):
        info = hub.attempt(repo, lambda: api.model_info(repo, files_metadata=True))
        add, stale = differences(hub.remote_files(info), files)
        if not add and not stale:
            if parent is None:
                log.info("%s holds this already: nothing to push", repo)
            return str(info.sha), parent is not None
        if parent not in (None, info.sha):
            raise InputError(f"{repo} was changed by somebody else during the push; look at it and run again")
        parent = info.sha
        log.info("%s: %d files to upload, %d to delete", repo, len(add), len(stale))
        operations = [CommitOperationAdd(name, files[name]) for name in add]
        operations += [CommitOperationDelete(name) for name in stale]
        try:
            api.create_commit(
                repo, operations, commit_message="Genre classifier and its evaluation", parent_commit=parent
            )
        except hub.ERRORS as error:
            if getattr(getattr(error, "response", None), "status_code", None) in (409, 412):
                raise InputError(f"{repo} was changed by somebody else during the push; run again") from None
            if number == hub.ATTEMPTS or not hub.is_passing(error):
                raise InputError(f"commit to {repo}: {hub.reason(error)}; run again") from None
            log.warning("commit: %s; looking whether it arrived", hub.reason(error))
            time.sleep(hub.FIRST_PAUSE * 2 ** (number - 1))
    raise InputError(f"commit to {repo}: the Hub does not show it; run again")


def set_tag(api: Any, repo: str, tag: str, commit: str, chosen: bool) -> None:
    """Let the tag point at the commit; one that the user chose is never moved.

    Raises:
        InputError: the chosen tag stands on another commit.
    """
    from goodreads.hub import client as hub

    refs = hub.attempt(repo, lambda: api.list_repo_refs(repo))
    target = {ref.name: ref.target_commit for ref in refs.tags}.get(tag)
    if target == commit:
        return
    if target and chosen:
        raise InputError(f"--tag {tag} stands on commit {target[:8]} of {repo} already; choose another")
    if target:  # the same model and split, with another card or evaluation
        hub.attempt(f"tag {tag}", lambda: api.delete_tag(repo, tag=tag))
    hub.attempt(f"tag {tag}", lambda: api.create_tag(repo, tag=tag, revision=commit, exist_ok=True))


def _options() -> argparse.Namespace:
    parser = Parser(__doc__, prog="push_to_hub.py")
    add = parser.add_argument
    add("--repo", default=os.environ.get("HF_REPO"), help="user/name; HF_REPO if not given")
    add("--public", action="store_true", help="let everybody read it; private if not given")
    add("--tag", help="name of this version; made from the hashes of split and weights if not given")
    add("--model", type=Path, default=Path("model"), help="model folder")
    add("--data-dir", type=Path, default=Path("data"), help="folder of the split and its manifest")
    add("--results-dir", type=Path, default=Path("results"), help="folder of the results files")
    return parser.parse_args()


if __name__ == "__main__":
    run(main, "push_to_hub.py")
