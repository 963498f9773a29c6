"""Publish an evaluated model: check it, push one commit, tag it, verify every file, then make it public."""

import re
import shlex
import subprocess
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelInfo

from goodreads.common.errors import CheckFailed, InputError
from goodreads.common.files import read_json, sha256_file, write_json, write_text
from goodreads.common.progress import log
from goodreads.data.genres import match_labels
from goodreads.data.split_store import read_manifest, read_split
from goodreads.hub import model_card
from goodreads.hub.client import CHANGED, attempt, connect
from goodreads.model.checkpoint import OPTIONAL, REQUIRED, WEIGHTS, inspect

HUBS_OWN = ".gitattributes"  # made by the Hub with the repository: which files are stored as LFS
MESSAGE = "Genre classifier and its evaluation"
CONFUSION = "confusion_matrix_local.png"
PICTURES = {  # file in the results folder -> its name in the repository
    CONFUSION: "confusion_matrix.png",
    "per_class_metrics_local.png": "per_class_metrics.png",
    "training_loss.png": "training_loss.png",
}


@dataclass(frozen=True)
class Folders:
    """Where the model, its data and its results are."""

    model: Path
    data: Path
    results: Path

    def command(self, script: str) -> str:
        """A command of this project with these folders, for hints."""
        words = ["python", script]
        if script != "plot_results.py":
            model = "--output_dir" if script == "train.py" else "--model"
            words += [model, str(self.model), "--data-dir", str(self.data)]
        return shlex.join([*words, "--results-dir", str(self.results)])


def publish(folders: Folders, repo: str, tag: str | None, public: bool) -> dict[str, Any]:
    """Publish the model and its evaluation.

    Args:
        folders: of the model, the split and the results files; ``hub_push.json`` is written to the last.
        repo: ``user/name``.
        tag: name of this version; made from the hashes of split and weights if None.
        public: let everybody read it, once it has been verified.

    Returns:
        The document of ``hub_push.json``.

    Raises:
        InputError: the model or its evaluation is not fit to publish, the token cannot write, the Hub cannot
            be reached, or somebody else has pushed meanwhile.
        CheckFailed: the files on the Hub are not the local ones.
    """
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        staged = Path(name)
        made = stage(folders, repo, tag, staged)
        record = push(repo, staged, made, tag is not None, public)
    record["seconds"] = time.perf_counter() - started
    write_json(folders.results / "hub_push.json", record)
    log.info("wrote %s", folders.results / "hub_push.json")
    return record


def stage(folders: Folders, repo: str, tag: str | None, staged: Path) -> str:
    """Check the model and its evaluation, and put together the files to publish in the folder ``staged``.

    Returns:
        The tag.

    Raises:
        InputError: the model is incomplete or not the one that was evaluated, or a results file is missing.
    """
    results, evaluate = folders.results, folders.command("evaluate_model.py")
    labels = inspect(folders.model)
    result = read_json(results / "eval_results_local.json", evaluate)
    training = read_json(results / "training_log.json", folders.command("train.py"))
    manifest, test = read_manifest(folders.data), read_split(folders.data, "test")
    # a model of the whole corpus was trained on millions of reviews: all but the test split
    train_ids = None if "test_parameters" in manifest else read_split(folders.data, "train").review_ids
    match_labels(labels, test.label_names, str(folders.model))
    weights = sha256_file(folders.model / WEIGHTS)
    contents = {name: entry["content_sha256"] for name, entry in manifest["splits"].items()}
    tag = tag or f"v-{contents['test'][:8]}-{weights[:8]}"
    other = f"is of other weights than {folders.model} or another split than {folders.data}"
    pictures = {name: published for name, published in PICTURES.items() if (results / name).is_file()}
    if CONFUSION not in pictures:
        draw = folders.command("plot_results.py")
        raise InputError(f"{results / CONFUSION} is missing; draw it with: {draw}")
    try:
        log_of = training["model"]["files_sha256"][WEIGHTS], training["settings"]["train_content_sha256"]
        result_of = result["model"]["weights_sha256"], result["data"]["test_content_sha256"]
        if log_of != (weights, contents["train"]):
            raise InputError(f"training_log.json {other}; run: {folders.command('train.py')}")
        if result_of != (weights, contents["test"]):
            raise InputError(f"eval_results_local.json {other}; run: {evaluate}")
        extras = {
            "baseline": _baseline(results, contents["test"]),
            "pictures": pictures.values(),
            "code": _code(training["git_commit"]),
        }
        card = model_card.render(repo, tag, result, training, manifest, **extras)
    except (KeyError, TypeError, jinja2.UndefinedError) as error:
        raise InputError(f"a file in {results} is of another version ({error!r}); run: {evaluate}") from error
    write_text(staged / "README.md", card)
    write_json(staged / "eval_results.json", result)
    write_json(staged / "split_manifest.json", model_card.split_manifest(manifest, test, train_ids))
    model_files = [folders.model / name for name in (*REQUIRED, *OPTIONAL)]
    paths = {path.name: path for path in model_files if path.is_file()}
    for name, path in (paths | {name: results / picture for picture, name in pictures.items()}).items():
        (staged / name).symlink_to(path.resolve())
    return tag


def _baseline(results: Path, content: str) -> dict[str, Any] | None:
    """The baseline's results, if there are any on the same test split."""
    path = results / "eval_results_tfidf.json"
    baseline = read_json(path, "python evaluate_model.py --model tfidf") if path.is_file() else None
    return baseline if baseline and baseline["data"]["test_content_sha256"] == content else None


def _code(commit: str | None) -> str:
    """Where the code that trained the model is: the checkout's remote repository, if any, and the commit."""
    command = ["git", "-C", str(Path(__file__).parent), "remote", "get-url", "origin"]
    with suppress(OSError):
        remote = subprocess.run(command, capture_output=True, text=True).stdout.strip()
        if host := re.fullmatch(r"(?:https://(?:[^@/]*@)?|git@)([\w.-]+)[:/]([\w./-]+?)(?:\.git)?", remote):
            return f"https://{host[1]}/{host[2]}" + (f", commit `{commit}`" if commit else "")
    return f"commit `{commit}`" if commit else ""


def push(repo: str, staged: Path, tag: str, chosen: bool, public: bool) -> dict[str, Any]:
    """Make the repository hold exactly the staged files, tag the commit and verify it.

    Args:
        repo: ``user/name``; made, private, if it does not exist.
        staged: folder of the files.
        tag: name of the version; ``chosen`` by the user, or made from hashes.
        chosen: see ``tag``; such a tag is never moved.
        public: make it public in the end.

    Returns:
        The document of ``hub_push.json`` but for its duration.

    Raises:
        InputError, CheckFailed: as ``publish``.
    """
    api = connect()
    existing = _check_access(api, repo)
    if existing and not existing.private and not public:
        raise InputError(f"{repo} exists and is public; push to it with --public, or name another")
    if not existing:
        attempt(f"create {repo}", lambda: api.create_repo(repo, private=True, exist_ok=True))
    commit, changed = _commit(api, repo, staged)
    _set_tag(api, repo, tag, commit, chosen)

    wrong = _differences(api, repo, tag, staged)
    info = attempt(repo, lambda: api.model_info(repo, revision=tag))
    if info.sha != commit or wrong:
        raise CheckFailed(f"{repo} at {tag} is not what was pushed ({wrong or info.sha}); run again")
    log.info("%s: commit %s, tag %s, every file verified", repo, commit, tag)
    if public and info.private:
        attempt(f"make {repo} public", lambda: api.update_repo_settings(repo, private=False))
        log.info("%s is public from now on", repo)
    listed = attempt(repo, lambda: list(api.list_repo_tree(repo, revision=commit)), 1)
    return {
        "format": 1,
        "repo": repo,
        "url": f"{api.endpoint}/{repo}",
        "commit": commit,
        "tag": tag,
        "visibility": "public" if public else "private",
        "changed": changed,
        "files": {
            file.path: {
                "bytes": file.size,
                "sha256": sha256_file(staged / file.path),
                "git_blob_sha1": file.blob_id,
                "lfs": file.lfs is not None,
            }
            for file in listed
            if file.path != HUBS_OWN
        },
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _check_access(api: HfApi, repo: str) -> ModelInfo | None:
    """The repository, or None if it does not exist yet.

    Raises:
        InputError: the token cannot write to it or, where it does not exist, to its owner's namespace.
    """
    if not api.token:
        raise InputError(
            "no token: set HF_TOKEN, or HF_TOKEN_PATH to a file that holds one, or log in with: hf auth login"
        )
    if attempt(repo, lambda: api.repo_exists(repo)):
        attempt(f"the token cannot write to {repo}", lambda: api.auth_check(repo, write=True))
        return attempt(repo, lambda: api.model_info(repo))
    identity = attempt("checking the token", api.whoami)
    owner, user = repo.partition("/")[0], identity["name"]
    if owner not in (user, *(org["name"] for org in identity.get("orgs", []))):
        raise InputError(f"--repo {repo}: the token is of {user}, who cannot write to {owner}")
    if identity.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise InputError(f"the token of {user} cannot write; make one with write access to {owner}")
    return None  # a token with finer rights is judged by the Hub when the repository is made


def _differences(api: HfApi, repo: str, revision: str, staged: Path) -> list[str]:
    """Names of the files that the repository lacks, has with other content, or has and should not."""
    # one attempt: the library itself repeats the requests for this
    seen = attempt(repo, lambda: api.verify_repo_checksums(repo, revision=revision, local_dir=staged), 1)
    stale = [name for name in seen.missing_paths if name != HUBS_OWN]
    return [*(file["path"] for file in seen.mismatches), *seen.extra_paths, *stale]


def _commit(api: HfApi, repo: str, staged: Path) -> tuple[str, bool]:
    """One commit that leaves exactly the staged files; none if they are there already.

    Returns:
        The commit's id, and whether anything changed.

    Raises:
        InputError: it failed for good, or somebody else changed the repository meanwhile.
    """
    parents: list[str] = []

    def look_and_commit() -> str:
        # if the response to a commit is lost, the next attempt sees the commit and stops
        head = str(api.model_info(repo).sha)
        names = _differences(api, repo, head, staged)
        if not names:
            return head
        if parents and parents != [head]:
            raise InputError(f"{repo} {CHANGED}")
        parents[:] = [head]
        log.info("%s: pushing %s", repo, ", ".join(names))
        add = [CommitOperationAdd(name, staged / name) for name in names if (staged / name).exists()]
        delete = [CommitOperationDelete(name) for name in names if not (staged / name).exists()]
        return str(api.create_commit(repo, [*add, *delete], commit_message=MESSAGE, parent_commit=head).oid)

    commit = attempt(f"commit to {repo}", look_and_commit)
    if not parents:
        log.info("%s holds this already: nothing to push", repo)
    return commit, bool(parents)


def _set_tag(api: HfApi, repo: str, tag: str, commit: str, chosen: bool) -> None:
    """Let the tag point to the commit; raises InputError if the user chose it and it is another commit's."""
    refs = attempt(repo, lambda: api.list_repo_refs(repo))
    target = {ref.name: ref.target_commit for ref in refs.tags}.get(tag)
    if target == commit:
        return
    if target and chosen:
        raise InputError(f"--tag {tag} is on commit {target[:8]} of {repo} already; choose another")
    if target:  # the same model and split, with another card or evaluation
        attempt(f"tag {tag}", lambda: api.delete_tag(repo, tag=tag))
    attempt(f"tag {tag}", lambda: api.create_tag(repo, tag=tag, revision=commit, exist_ok=True))
