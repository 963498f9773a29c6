"""Publish an evaluated model: check it, push one commit, tag it, verify every file, then make it public."""

import re
import shlex
import shutil
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
from huggingface_hub.hf_api import RepoFile

from goodreads.common.errors import CheckFailed, InputError
from goodreads.common.files import read_json, sha256_file, write_json, write_text
from goodreads.common.progress import log
from goodreads.data.genres import match_labels
from goodreads.data.split_store import read_manifest, read_split
from goodreads.hub import model_card
from goodreads.hub.client import ATTEMPTS, attempt, connect, pause_before_retry, reason
from goodreads.model.checkpoint import OPTIONAL, REQUIRED, WEIGHTS, inspect

HUBS_OWN = ".gitattributes"  # made by the Hub with the repository: which files are stored as LFS
PICTURES = {  # file in the results folder -> its name in the repository
    "confusion_matrix_local.png": "confusion_matrix.png",
    "per_class_metrics_local.png": "per_class_metrics.png",
    "training_loss.png": "training_loss.png",
}


@dataclass(frozen=True)
class Folders:
    """Where the model, its data and its results are."""

    model: Path
    data: Path
    results: Path

    def command(self, script: str, *options: str) -> str:
        """A command of this project with these folders, for hints."""
        folders = {"--model": self.model, "--output_dir": self.model, "--data-dir": self.data}
        folders["--results-dir"] = self.results
        return shlex.join(
            ["python", script, *(part for name in options for part in (name, str(folders[name])))]
        )

    @property
    def evaluate(self) -> str:
        """The command that makes eval_results_local.json."""
        return self.command("evaluate_model.py", "--model", "--data-dir", "--results-dir")


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
    results, train = (
        folders.results,
        folders.command("train.py", "--data-dir", "--output_dir", "--results-dir"),
    )
    labels = inspect(folders.model)
    result = read_json(results / "eval_results_local.json", folders.evaluate)
    training = read_json(results / "training_log.json", train)
    manifest, test = read_manifest(folders.data), read_split(folders.data, "test")
    # a model of the whole corpus was trained on millions of reviews: all but the test split
    train_ids = None if "test_parameters" in manifest else read_split(folders.data, "train").review_ids
    match_labels(labels, test.label_names, str(folders.model))
    weights, content = sha256_file(folders.model / WEIGHTS), manifest["splits"]["test"]["content_sha256"]
    tag = tag or f"v-{content[:8]}-{weights[:8]}"
    try:
        if training["model"]["files_sha256"][WEIGHTS] != weights:
            raise InputError(
                f"training_log.json is of other weights than {folders.model}; train with: {train}"
            )
        if result["model"]["weights_sha256"] != weights:
            raise InputError(
                f"eval_results_local.json is of other weights than {folders.model}; run: {folders.evaluate}"
            )
        if result["data"]["test_content_sha256"] != content:
            raise InputError(
                f"eval_results_local.json is of another split than {folders.data}; run: {folders.evaluate}"
            )
        for name, published in PICTURES.items():
            if (results / name).is_file():
                shutil.copyfile(results / name, staged / published)
            elif name.startswith("confusion_matrix"):
                draw = folders.command("plot_results.py", "--results-dir")
                raise InputError(f"{results / name} is missing; draw it with: {draw}")
        baseline = _baseline(results / "eval_results_tfidf.json", content)
        pictures = frozenset(path.name for path in staged.iterdir())
        code = _code(training["git_commit"])
        card = model_card.render(
            repo, result, training, manifest, tag, baseline=baseline, pictures=pictures, code=code
        )
    except (KeyError, TypeError, jinja2.UndefinedError) as error:
        raise InputError(
            f"a results file in {results} is of another version ({type(error).__name__}: {error}); "
            f"make it again with: {folders.evaluate}"
        ) from error
    write_text(staged / "README.md", card)
    write_json(staged / "eval_results.json", result)
    write_json(staged / "split_manifest.json", model_card.split_manifest(manifest, test, train_ids))
    for name in (*REQUIRED, *OPTIONAL):
        if (folders.model / name).is_file():
            (staged / name).symlink_to((folders.model / name).resolve())
    return tag


def _baseline(path: Path, content: str) -> dict[str, Any] | None:
    """The baseline's results, if there are any on the same test split."""
    if not path.is_file():
        return None
    baseline = read_json(path, "python evaluate_model.py --model tfidf")
    return baseline if baseline["data"]["test_content_sha256"] == content else None


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

    info = attempt(repo, lambda: api.model_info(repo, revision=tag))
    wrong = _differences(api, repo, tag, staged)
    if info.sha != commit or wrong:
        raise CheckFailed(f"{repo} at {tag} is not what was pushed: {wrong or info.sha}; run again")
    log.info("%s: commit %s, tag %s, %d files verified", repo, commit, tag, len(list(staged.iterdir())))
    if public and info.private:
        attempt(f"make {repo} public", lambda: api.update_repo_settings(repo, private=False))
        info = attempt(repo, lambda: api.model_info(repo))
        log.info("%s is public from now on", repo)
    listed = attempt(repo, lambda: list(api.list_repo_tree(repo, revision=commit)), 1)
    remote = {file.path: file for file in listed if isinstance(file, RepoFile)}
    return {
        "format": 1,
        "repo": repo,
        "url": f"{api.endpoint}/{repo}",
        "commit": commit,
        "tag": tag,
        "visibility": "private" if info.private else "public",
        "changed": changed,
        "files": {
            path.name: {
                "bytes": path.stat().st_size,
                "sha256": sha256_file(path),
                "git_blob_sha1": remote[path.name].blob_id,
                "lfs": remote[path.name].lfs is not None,
            }
            for path in sorted(staged.iterdir())
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
    roles = {org["name"]: org.get("roleInOrg") for org in identity.get("orgs", [])} | {user: "admin"}
    if owner not in roles:
        raise InputError(f"--repo {repo}: the token is of {user}, who cannot write to {owner}")
    access = identity.get("auth", {}).get("accessToken", {})
    scopes = access.get("fineGrained", {}).get("scoped", [])
    may_write = any(
        scope.get("entity", {}).get("name") in (owner, repo) and "repo.write" in scope.get("permissions", [])
        for scope in scopes
    )
    if "read" in (access.get("role"), roles[owner]) or (
        access.get("role") == "fineGrained" and not may_write
    ):
        raise InputError(f"the token of {user} cannot write; make one with write access to {owner}")
    return None


def _differences(api: HfApi, repo: str, revision: str, staged: Path) -> list[str]:
    """Names of the files that the repository lacks, has with other content, or has and should not."""
    # one attempt: the library itself repeats the requests for this
    seen = attempt(repo, lambda: api.verify_repo_checksums(repo, revision=revision, local_dir=staged), 1)
    stale = [name for name in seen.missing_paths if name != HUBS_OWN]
    return [*(file["path"] for file in seen.mismatches), *seen.extra_paths, *stale]


def _commit(api: HfApi, repo: str, staged: Path) -> tuple[str, bool]:
    """One commit that leaves exactly the staged files; none if they are there already.

    If the response is lost, the next attempt sees the commit and stops.

    Returns:
        The commit's id, and whether anything changed.

    Raises:
        InputError: it failed for good, or somebody else changed the repository meanwhile.
    """
    parent, meddled = None, f"{repo} was changed by somebody else during the push; look at it and run again"
    for number in range(1, ATTEMPTS + 2):
        head = str(attempt(repo, lambda: api.model_info(repo)).sha)
        different = _differences(api, repo, head, staged)
        if not different:
            if parent is None:
                log.info("%s holds this already: nothing to push", repo)
            return head, parent is not None
        if parent not in (None, head):
            raise InputError(meddled)
        parent = head
        log.info("%s: pushing %s", repo, ", ".join(different))
        # made for each attempt, since an operation cannot be used twice
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            CommitOperationAdd(name, staged / name)
            if (staged / name).exists()
            else CommitOperationDelete(name)
            for name in different
        ]
        try:
            api.create_commit(
                repo, operations, commit_message="Genre classifier and its evaluation", parent_commit=parent
            )
        except Exception as error:
            if getattr(getattr(error, "response", None), "status_code", None) in (409, 412):
                raise InputError(meddled) from error
            pause = pause_before_retry(error, number)
            if pause is None or number >= ATTEMPTS:
                raise InputError(f"commit to {repo}: {reason(error)}; run again") from error
            log.warning("commit: %s; looking whether it arrived in %.1f s", reason(error), pause)
            time.sleep(pause)
    raise InputError(f"commit to {repo}: the Hub does not show it; run again")


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
