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
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # for python -I and PYTHONSAFEPATH

from goodreads.common.cli import Parser, run
from goodreads.common.errors import InputError


def main() -> None:
    """Check, push, verify; print one JSON line."""
    parser = Parser(__doc__, prog="push_to_hub.py")
    add = parser.add_argument
    add("--repo", default=os.environ.get("HF_REPO"), help="user/name; HF_REPO if not given")
    add("--public", action="store_true", help="let everybody read it; private if not given")
    add("--tag", help="name of this version; made from the hashes of split and weights if not given")
    add("--model", type=Path, default=Path("model"), help="model folder")
    add("--data-dir", type=Path, default=Path("data"), help="folder of the split and its manifest")
    add("--results-dir", type=Path, default=Path("results"), help="folder of the results files")
    options = parser.parse_args()
    if not re.fullmatch(r"\w[\w.-]*/[\w.-]+", options.repo or ""):
        raise InputError(f"no repository {options.repo or ''}: give --repo user/name or set HF_REPO")
    if options.tag and not re.fullmatch(r"\w[\w.+-]*", options.tag):
        raise InputError(f"--tag {options.tag!r}: a tag is made of letters, digits, '.', '_', '+' and '-'")
    from goodreads.hub.publish import Folders, publish

    folders = Folders(options.model, options.data_dir, options.results_dir)
    record = publish(folders, options.repo, options.tag, options.public)
    print(f"{record['url']} ({record['visibility']})")
    print(json.dumps({key: record[key] for key in ("repo", "url", "commit", "tag", "visibility", "changed")}))


if __name__ == "__main__":
    run(main, "push_to_hub.py")
