"""Publish the evaluated model to the Hugging Face Hub, in one commit that is then verified file by file.

    HF_TOKEN=... python push_to_hub.py --repo user/name      # private
    python push_to_hub.py --repo user/name --public          # with the saved login (hf auth login)

The token comes from HF_TOKEN, from the file that HF_TOKEN_PATH names, or from the saved login; it must be
able to write. Nothing is created before the model, its evaluation and the token have been checked, and
nothing becomes public before the commit has been verified. Pushing what is there already changes nothing, so
a push that broke off is simply run again. Writes hub_push.json.
"""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # for python -I and PYTHONSAFEPATH

from goodreads.common.cli import Parser, run


def main() -> None:
    """Check, push, verify; print one JSON line."""
    parser = Parser(__doc__, prog="push_to_hub.py")
    add = parser.add_argument
    add("--repo", default=os.environ.get("HF_REPO"), help="user/name; HF_REPO if not given")
    add("--public", action="store_true", help="let everybody read it; private if not given")
    add("--model", type=Path, default=Path("model"), help="model folder")
    add("--data-dir", type=Path, default=Path("data"), help="folder of the split and its manifest")
    add("--results-dir", type=Path, default=Path("results"), help="folder of the results files")
    options = parser.parse_args()
    if (options.repo or "").count("/") != 1:
        parser.error(f"no repository {options.repo or ''}: give --repo user/name or set HF_REPO")
    from goodreads.hub.publish import publish

    record = publish(options.model, options.data_dir, options.results_dir, options.repo, options.public)
    print(json.dumps(record))


if __name__ == "__main__":
    run(main, "push_to_hub.py")
