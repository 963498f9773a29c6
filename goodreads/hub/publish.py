"""Publish an evaluated model: check it, push one commit, tag it, verify every file, then make it public."""

import shlex
import tempfile
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelInfo

from goodreads.common.errors import CheckFailed, InputError
from goodreads.common.files import read_json, sha256_file, sha256_lines, write_json, write_text
from goodreads.common.progress import log
from goodreads.data.split_store import read_manifest
from goodreads.hub import model_card
from goodreads.hub.client import attempt, differences
from goodreads.model.checkpoint import OPTIONAL, REQUIRED, WEIGHTS, inspect

PICTURES = ("confusion_matrix_local.png", "per_class_metrics_local.png", "training_loss.png")
HUBS_OWN = (".gitattributes",)  # made by the Hub with the repository: which files are stored as LFS


def publish(model: Path, data: Path, results: Path, repo: str, public: bool) -> dict[str, Any]:
    """Make the repository hold exactly the model and its evaluation, tag the commit and verify it.

    Args:
        model, data, results: folders of the model, its split and its results files; ``hub_push.json`` is
            written to the last.
        repo: ``user/name``; made, private, if it does not exist.
        public: let everybody read it, once it has been verified.

    Returns:
        The document of ``hub_push.json``.

    Raises:
        InputError: the model or its evaluation is not fit to publish, the token cannot write, the Hub cannot
            be reached, or somebody else has pushed meanwhile.
        CheckFailed: the files on the Hub are not the local ones.
    """
    with tempfile.TemporaryDirectory() as name:
        staged = Path(name)
        tag = stage(model, data, results, repo, staged)
        before = attempt(repo, lambda api: _open(api, repo, public))
        # each step finds what an earlier try has done, so after a passing fault all of them are repeated
        record = attempt(repo, lambda api: _push(api, repo, tag, staged, before, public))
    write_json(results / "hub_push.json", record)
    return record


def _open(api: HfApi, repo: str, public: bool) -> ModelInfo:
    """The repository as it is, made if it does not exist; raises InputError if it is public unasked."""
    api.create_repo(repo, private=True, exist_ok=True)
    api.auth_check(repo, write=True)
    info = api.model_info(repo)
    if not info.private and not public:
        raise InputError(f"{repo} exists and is public; push to it with --public, or name another")
    return info


def _push(api: HfApi, repo: str, tag: str, staged: Path, before: ModelInfo, public: bool) -> dict[str, Any]:
    """Commit exactly the staged files, tag the commit, verify it, and make it public if asked."""
    commit = str(api.model_info(repo).sha)
    names = differences(api, repo, commit, staged, HUBS_OWN)
    log.info("%s: pushing %s", repo, ", ".join(names) or "nothing, it holds this already")
    add = [CommitOperationAdd(name, staged / name) for name in names if (staged / name).exists()]
    delete = [CommitOperationDelete(name) for name in names if not (staged / name).exists()]
    if names:  # the Hub refuses the commit if somebody else has pushed since the repository was opened
        options = {"commit_message": "Genre classifier", "parent_commit": before.sha}
        commit = str(api.create_commit(repo, [*add, *delete], **options).oid)
    api.create_tag(repo, tag=tag, revision=commit, exist_ok=True)
    if wrong := differences(api, repo, tag, staged, HUBS_OWN):
        raise CheckFailed(f"{repo} at {tag} is not what was pushed ({', '.join(wrong)}); run again")
    log.info("%s: commit %s, tag %s, every file verified", repo, commit, tag)
    if before.private and public:
        api.update_repo_settings(repo, private=False)
    visibility = "public" if public else "private"
    return {"url": f"{api.endpoint}/{repo}", "commit": commit, "tag": tag, "visibility": visibility}


def stage(model: Path, data: Path, results: Path, repo: str, staged: Path) -> str:
    """Check the model and its evaluation, and put together the files to publish in the folder ``staged``.

    Returns:
        The tag: the name of this version, made from the hashes of the weights and of all.

    Raises:
        InputError: the model is incomplete or not the one that was evaluated, or a results file is missing.
    """
    words = ["--data-dir", str(data), "--results-dir", str(results)]
    train = shlex.join(["python", "train.py", "--output_dir", str(model), *words])
    evaluate = shlex.join(["python", "evaluate_model.py", "--model", str(model), *words])
    inspect(model)
    files = [path for name in (*REQUIRED, *OPTIONAL) if (path := model / name).is_file()]
    hashes = {path.name: sha256_file(path) for path in files}
    result = read_json(results / "eval_results_local.json", evaluate)
    training = read_json(results / "training_log.json", train)
    manifest, tfidf = read_manifest(data), results / "eval_results_tfidf.json"
    baseline = read_json(tfidf, "python evaluate_model.py --model tfidf") if tfidf.is_file() else None
    pictures = [results / name for name in PICTURES]
    if missing := [path for path in pictures if not path.is_file()]:
        draw = shlex.join(["python", "plot_results.py", "--results-dir", str(results)])
        raise InputError(f"{missing[0]} is missing; draw it with: {draw}")
    documents = {"result": result, "training": training, "manifest": manifest, "baseline": baseline}
    other = f"is of another model or split than those in {model} and {data}"
    try:
        for name, entry, content, split, command in (
            ("training_log.json", training, training["settings"]["train_content_sha256"], "train", train),
            ("eval_results_local.json", result, result["data"]["test_content_sha256"], "test", evaluate),
        ):
            same_model = hashes.items() <= entry["model"]["files_sha256"].items()
            if not same_model or content != manifest["splits"][split]["content_sha256"]:
                raise InputError(f"{results / name} {other}; run: {command}")
        draft = model_card.render(repo, "", documents)
    except (KeyError, TypeError, jinja2.UndefinedError) as error:
        raise InputError(f"a file in {results} is of another version ({error!r}); run: {evaluate}") from error
    write_json(staged / "eval_results.json", result)
    write_json(staged / "split_manifest.json", model_card.split_manifest(data))
    for path in (*files, *pictures):
        (staged / path.name.replace("_local", "")).symlink_to(path.resolve())
    # a tag that names its content never has to move; the card holds the tag, so its draft counts instead
    content = sha256_lines([draft, *map(sha256_file, sorted(staged.iterdir()))])
    tag = f"v-{hashes[WEIGHTS][:8]}-{content[:8]}"
    write_text(staged / "README.md", model_card.render(repo, tag, documents))
    return tag
