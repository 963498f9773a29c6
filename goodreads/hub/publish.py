"""Publish an evaluated model: check it, push one commit, tag it, verify every file, then make it public."""

import re
import shlex
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelInfo

from goodreads.common.errors import CheckFailed, InputError
from goodreads.common.files import read_json, sha256_file, write_json, write_text
from goodreads.common.progress import log
from goodreads.data.genres import match_labels
from goodreads.data.split_store import read_manifest
from goodreads.hub import model_card
from goodreads.hub.client import attempt, connect, differences
from goodreads.model.checkpoint import OPTIONAL, REQUIRED, WEIGHTS, inspect

CONFUSION = "confusion_matrix_local.png"
PICTURES = (CONFUSION, "per_class_metrics_local.png", "training_loss.png")  # in the results folder
HUBS_OWN = (".gitattributes",)  # made by the Hub with the repository: which files are stored as LFS


@dataclass(frozen=True)
class Folders:
    """Where the model, its data and its results are."""

    model: Path
    data: Path
    results: Path

    def command(self, script: str, model_option: str = "--model") -> str:
        """A command of this project with these folders, for hints."""
        words = ["python", script, model_option, self.model, "--data-dir", self.data]
        return shlex.join(map(str, [*words, "--results-dir", self.results]))


def publish(folders: Folders, repo: str, tag: str | None, public: bool) -> dict[str, Any]:
    """Make the repository hold exactly the model and its evaluation, tag the commit and verify it.

    Args:
        folders: of the model, the split and the results files; ``hub_push.json`` is written to the last.
        repo: ``user/name``; made, private, if it does not exist.
        tag: name of this version, never moved; None for one made from the hashes of split and weights.
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
        version = stage(folders, repo, tag, staged)
        api = connect()
        before = _open_repository(api, repo, public)
        commit = attempt(f"commit to {repo}", lambda: _commit(api, repo, staged, str(before.sha)))
        _set_tag(api, repo, version, commit, chosen=tag is not None)
        if wrong := attempt(repo, lambda: differences(api, repo, version, staged, HUBS_OWN)):
            raise CheckFailed(f"{repo} at {version} is not what was pushed ({', '.join(wrong)}); run again")
        paths = sorted(staged.iterdir())
        files = {path.name: {"bytes": path.stat().st_size, "sha256": sha256_file(path)} for path in paths}
    log.info("%s: commit %s, tag %s, every file verified", repo, commit, version)
    if public and before.private:
        attempt(f"make {repo} public", lambda: api.update_repo_settings(repo, private=False))
    record = {
        "repo": repo,
        "url": f"{api.endpoint}/{repo}",
        "commit": commit,
        "tag": version,
        "visibility": "public" if public else "private",
        "changed": commit != before.sha,
        "files": files,
        "seconds": time.perf_counter() - started,
    }
    write_json(folders.results / "hub_push.json", record)
    return record


def stage(folders: Folders, repo: str, tag: str | None, staged: Path) -> str:
    """Check the model and its evaluation, and put together the files to publish in the folder ``staged``.

    Returns:
        The tag.

    Raises:
        InputError: the model is incomplete or not the one that was evaluated, or a results file is missing.
    """
    results, evaluate = folders.results, folders.command("evaluate_model.py")
    train = folders.command("train.py", "--output_dir")
    labels, weights = inspect(folders.model), sha256_file(folders.model / WEIGHTS)
    result = read_json(results / "eval_results_local.json", evaluate)
    training = read_json(results / "training_log.json", train)
    tfidf = results / "eval_results_tfidf.json"
    baseline = read_json(tfidf, "python evaluate_model.py --model tfidf") if tfidf.is_file() else None
    manifest = read_manifest(folders.data)
    match_labels(labels, manifest["labels"], str(folders.model))
    contents = {name: entry["content_sha256"] for name, entry in manifest["splits"].items()}
    other = f"other weights or another split than {folders.model} and {folders.data}"
    tag = tag or f"v-{contents['test'][:8]}-{weights[:8]}"
    paths = {name.replace("_local", ""): results / name for name in PICTURES}
    pictures = [name for name, path in paths.items() if path.is_file()]
    if not (results / CONFUSION).is_file():
        draw = shlex.join(["python", "plot_results.py", "--results-dir", str(results)])
        raise InputError(f"{results / CONFUSION} is missing; draw it with: {draw}")
    try:
        trained = training["model"]["files_sha256"][WEIGHTS], training["settings"]["train_content_sha256"]
        scored = result["model"]["weights_sha256"], result["data"]["test_content_sha256"]
        if trained != (weights, contents["train"]):
            raise InputError(f"training_log.json is of {other}; run: {train}")
        if scored != (weights, contents["test"]):
            raise InputError(f"eval_results_local.json is of {other}; run: {evaluate}")
        documents = {"result": result, "training": training, "manifest": manifest, "baseline": baseline}
        card = model_card.render(repo, tag, documents, pictures, _code(training["git_commit"]))
    except (KeyError, TypeError, jinja2.UndefinedError) as error:
        raise InputError(f"a file in {results} is of another version ({error!r}); run: {evaluate}") from error
    write_text(staged / "README.md", card)
    write_json(staged / "eval_results.json", result)
    write_json(staged / "split_manifest.json", model_card.split_manifest(folders.data))
    for name, path in (paths | {name: folders.model / name for name in (*REQUIRED, *OPTIONAL)}).items():
        if path.is_file():
            (staged / name).symlink_to(path.resolve())
    return tag


def _code(commit: str | None) -> str:
    """Where the code that trained the model is: the checkout's remote repository, if any, and the commit."""
    command = shlex.join(["git", "-C", str(Path(__file__).parent), "remote", "get-url", "origin"])
    pattern = r"(?:https://(?:[^@/]*@)?|git@)([\w.-]+)[:/]([\w./-]+?)(?:\.git)?"
    remote = re.fullmatch(pattern, subprocess.getoutput(command))
    parts = [f"https://{remote[1]}/{remote[2]}"] if remote else []
    return ", ".join([*parts, f"commit `{commit}`"] if commit else parts)


def _open_repository(api: HfApi, repo: str, public: bool) -> ModelInfo:
    """The repository as it is, made if it does not exist; raises InputError if it cannot be written to."""
    if not api.token:
        raise InputError("no token: set HF_TOKEN or HF_TOKEN_PATH, or log in with: hf auth login")
    if attempt(repo, lambda: api.repo_exists(repo)):
        attempt(f"the token cannot write to {repo}", lambda: api.auth_check(repo, write=True))
    else:
        attempt(f"create {repo}", lambda: api.create_repo(repo, private=True, exist_ok=True))
    info = attempt(repo, lambda: api.model_info(repo))
    if not info.private and not public:
        raise InputError(f"{repo} exists and is public; push to it with --public, or name another")
    return info


def _commit(api: HfApi, repo: str, staged: Path, parent: str) -> str:
    """The id of the commit that holds exactly the staged files; made, on ``parent``, unless it is there."""
    # each attempt looks first: the response to the one before may have been lost
    head = str(api.model_info(repo).sha)
    names = differences(api, repo, head, staged, HUBS_OWN)
    if not names:
        log.info("%s holds this already: nothing to push", repo)
        return head
    log.info("%s: pushing %s", repo, ", ".join(names))
    add = [CommitOperationAdd(name, staged / name) for name in names if (staged / name).exists()]
    delete = [CommitOperationDelete(name) for name in names if not (staged / name).exists()]
    # the Hub refuses if somebody else has pushed since
    info = api.create_commit(repo, [*add, *delete], commit_message="Genre classifier", parent_commit=parent)
    return str(info.oid)


def _set_tag(api: HfApi, repo: str, tag: str, commit: str, chosen: bool) -> None:
    """Let the tag point to the commit; raises InputError if the user chose it and it is another commit's."""
    refs = attempt(repo, lambda: api.list_repo_refs(repo))
    target = {ref.name: ref.target_commit for ref in refs.tags}.get(tag, commit)
    if target != commit and chosen:
        raise InputError(f"--tag {tag} is on commit {target[:8]} of {repo} already; choose another")
    if target != commit:  # the same model and split, with another card or evaluation
        attempt(f"tag {tag}", lambda: api.delete_tag(repo, tag=tag))
    attempt(f"tag {tag}", lambda: api.create_tag(repo, tag=tag, revision=commit, exist_ok=True))
