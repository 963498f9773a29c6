"""What Dockerfile.eval runs: score the model of HF_REPO, compare it with a local result, print the verdict.

    HF_REPO=user/name python -m goodreads.evaluation.container   # any option of evaluate_model.py may follow

HF_REVISION names a branch, tag or commit; HF_TOKEN, or the file named by HF_TOKEN_FILE, holds the token of a
private repository. The split is the one that the repository names: data/ if it holds it, else rebuilt. A
folder mounted at .cache keeps the model. With results/eval_results_local.json there, the two are compared.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from goodreads.common.cli import Parser, run
from goodreads.common.errors import InputError
from goodreads.common.progress import log

SCRIPTS = Path(__file__).resolve().parents[2]
RESULTS, CACHE = Path("results"), Path(".cache")


def main() -> None:
    """Evaluate, compare if there is something to compare with, print one JSON line.

    Raises:
        InputError: HF_REPO is missing or no name of a repository.
        SystemExit: with the status of the step that failed, which has said why.
    """
    _, further = Parser(__doc__, prog="goodreads.evaluation.container").parse_known_args()
    repo, revision = (os.environ.get(name, "").strip() for name in ("HF_REPO", "HF_REVISION"))
    if not repo:
        raise InputError("HF_REPO is not set; name the repository: docker run -e HF_REPO=user/name ...")
    if repo.count("/") != 1:
        raise InputError(f"HF_REPO={repo} is not of the form user/name")
    arguments = ["--model", repo, "--name", "hub", "--split-from-hub"]
    arguments += ["--revision", revision] if revision else []
    arguments += ["--cache-dir", str(CACHE)] if CACHE.is_mount() else []
    document, status = step("evaluate_model.py", *arguments, *further)
    if document and (RESULTS / "eval_results_local.json").exists():
        comparison, status = step("plot_results.py", "--compare", "local,hub", "--no-plots")
        document["verdict"] = comparison.get("verdict")
    elif document:
        log.info("results/ holds no eval_results_local.json, so there is nothing to compare with")
        document["verdict"] = None
    if document:
        print(json.dumps(document))
    if status:
        raise SystemExit(status)


def step(script: str, *arguments: str) -> tuple[dict[str, Any], int]:
    """Run a script, pass on what it prints but for the closing JSON line.

    Returns:
        That line's document, empty if the script ended without one; and the exit status.
    """
    command = [sys.executable, str(SCRIPTS / script), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            output = process.communicate()[0]
        except BaseException:
            process.terminate()  # PID 1 alone is told to stop; the script cleans up and says so itself
            process.wait()
            raise
    *lines, last = output.splitlines() or [""]
    if not last.startswith("{"):
        print(output, end="")
        return {}, process.returncode
    print(*lines, sep="\n", flush=True)
    document: dict[str, Any] = json.loads(last)
    return document, process.returncode


if __name__ == "__main__":
    run(main, "goodreads.evaluation.container")
