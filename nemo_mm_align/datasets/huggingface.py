"""Rows of a Hugging Face dataset, by name, folder or data file; images stored inside it become files of a cache folder."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.datasets.image_store import default_cache, store_image

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?|[\w-]+")
IMAGE_KEYS = ("image", "images")


def read_rows(source: str, split: str, cache: Path | None = None, kind: str | None = None) -> Iterator[dict[str, Any]]:
    """Yield a dataset's rows without their empty fields.

    Args:
        source: a folder written by ``save_to_disk``, a folder of data files, a data file, or a hub name (``owner/name``
            or ``owner/name:configuration``).
        split: which split of it.
        cache: folder for embedded images; their fields become `Path`s of files there, named by content, bytes kept.
        kind: of a data file (parquet, arrow, csv), whatever it is called; None for a folder or a name.

    Raises:
        UserError: no such dataset or split.
    """
    dataset = _with_undecoded_images(_load(source, split, kind))
    store = cache or default_cache()
    for row in dataset:
        yield {key: _materialise(value, store, key in IMAGE_KEYS) for key, value in row.items() if value is not None}


def _load(source: str, split: str, kind: str | None) -> Any:
    import datasets

    path = Path(source)
    try:
        if (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file():
            return _choose_split(datasets.load_from_disk(str(path)), source, split)
        if kind is not None:
            return datasets.load_dataset(kind, data_files=str(path), split="train")
        if path.is_dir():
            return datasets.load_dataset(str(path), split=split)
        return _load_from_hub(source, split)
    except UserError:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{source}: cannot be opened as a dataset ({reason}). Check the name and the split.") from error


def check_name(source: str) -> None:
    """Raise `UserError` where `source`, which is no file or folder, cannot be the name of a dataset either."""
    if not HUB_NAME.fullmatch(source):
        raise UserError(f"{source}: no such file or folder, and not a dataset's name (owner/name).")


def _load_from_hub(source: str, split: str) -> Any:
    import datasets

    check_name(source)
    name, _, configuration = source.partition(":")
    return datasets.load_dataset(name, configuration or None, split=split)


def _choose_split(dataset: Any, source: str, split: str) -> Any:
    if not isinstance(dataset, dict):
        return dataset
    if split not in dataset:
        raise UserError(f"{source}: no split {split!r}; there are {', '.join(dataset)}.")
    return dataset[split]


def _with_undecoded_images(dataset: Any) -> Any:
    """Ask for images as stored bytes, so that they are neither decoded nor encoded again."""
    import datasets

    for name, feature in dataset.features.items():
        if isinstance(feature, datasets.Image):
            dataset = dataset.cast_column(name, datasets.Image(decode=False))
        elif isinstance(getattr(feature, "feature", None), datasets.Image):
            dataset = dataset.cast_column(name, datasets.List(datasets.Image(decode=False)))
    return dataset


def _materialise(value: Any, cache: Path, is_image: bool = False) -> Any:
    """Replace stored images by paths and drop empty fields of structs (Arrow fills absent keys with None).

    A struct without bytes keeps its path, which is no more trusted than one in a column of paths.
    """
    if isinstance(value, dict):
        if set(value) <= {"bytes", "path"} and isinstance(value.get("bytes"), bytes):
            return store_image(value["bytes"], cache)
        return {key: _materialise(item, cache) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_materialise(item, cache, is_image) for item in value]
    return store_image(value, cache) if is_image and isinstance(value, bytes) else value
