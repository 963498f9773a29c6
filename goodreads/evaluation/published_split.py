"""The split that a published model was scored on, found or rebuilt from its ``split_manifest.json``."""

from pathlib import Path

from goodreads.common.errors import InputError
from goodreads.common.files import read_json
from goodreads.common.progress import log
from goodreads.data.review_files import UCSD
from goodreads.data.sampling import Parameters
from goodreads.data.split_builder import build_split
from goodreads.data.split_store import content_sha256, read_split

TRUSTED = (UCSD, "sample")  # a stranger's manifest may name no other place to read from


def published_split(model: Path, data_dir: Path, rebuilt: Path, source: str | None) -> Path:
    """The data folder with the split that a published model's ``split_manifest.json`` names.

    Args:
        model: folder of the fetched model.
        data_dir: used if it holds that split.
        rebuilt: made from the split's source otherwise.
        source: read instead of the source that the manifest names.

    Raises:
        InputError: the model has no usable split manifest, its source is not one to read from unasked, or
            that no longer has those reviews.
    """
    published = read_json(model / "split_manifest.json", "push_to_hub.py")
    try:
        parameters = published["parameters"] | ({"source": source} if source else {})
        wanted = Parameters.from_json(parameters, "split_manifest.json of the model")
        expected = published["content_sha256"]["test"]
    except (KeyError, TypeError, InputError) as error:
        raise InputError(f"split_manifest.json of the model cannot be used: {error}") from error
    if (data_dir / "manifest.json").exists():
        split = read_split(data_dir, "test")
        if content_sha256(split.review_ids, split.labels, split.texts) == expected:
            return data_dir
        log.warning("%s holds another split than the model's; rebuilding it from %s", data_dir, wanted.source)
    if not source and wanted.source not in TRUSTED:
        raise InputError(
            f"the model's split was made from {wanted.source}, which is not read because a repository says "
            "so; name a folder that holds the split (--data-dir) or where to read the reviews (--source)"
        )
    manifest = build_split(wanted, rebuilt)
    if manifest["splits"]["test"]["content_sha256"] != expected:
        raise InputError(f"{wanted.source} has changed: name a --data-dir that holds the model's test split")
    return rebuilt
