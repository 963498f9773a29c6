"""What a model's labels stand for: slugs, the genres' human names, or names that --label-map explains."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from goodreads.common.errors import InputError
from goodreads.data.genres import GENRES


def parse_label_map(text: str) -> dict[str, str]:
    """``LABEL_0=children,LABEL_1=poetry``, or the path of a JSON file (``.json``) with such pairs.

    Raises:
        InputError: it is neither.
    """
    try:
        if text.endswith(".json"):
            return {name: str(genre) for name, genre in json.loads(Path(text).read_bytes()).items()}
        return dict(pair.split("=") for pair in text.split(","))
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"--label-map {text}: no LABEL_0=children,... or JSON file: {error}") from error


def renamed(model_labels: Sequence[str], label_map: Mapping[str, str] | None) -> list[str]:
    """The genre slug that each label of a model stands for; a label that names no genre stays as it is.

    ``History & Biography`` and the like are known without a map.

    Raises:
        InputError: the map names a label that the model has not.
    """
    label_map = label_map or {}
    if unknown := label_map.keys() - set(model_labels):
        raise InputError(f"--label-map: no label {min(unknown)!r} in the model's: {', '.join(model_labels)}")
    names = [label_map.get(label, label) for label in model_labels]
    slugs = [re.sub(r"[^a-z0-9]+", "_", name.casefold()).strip("_") for name in names]
    return [slug if slug in GENRES else name for slug, name in zip(slugs, names)]
