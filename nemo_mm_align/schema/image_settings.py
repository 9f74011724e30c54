"""The image processor of a Hugging Face folder: which of its settings are done as transformers does them, which are refused.

transformers 4 writes preprocessor_config.json, transformers 5 the section ``image_processor`` of processor_config.json. Every
key stands in one of the lists below (a test asks transformers' classes); docs/model_folders.md says the same in words.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.folder_files import file_fault, read_object

PREPROCESSOR, PROCESSOR = "preprocessor_config.json", "processor_config.json"
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

_USED = frozenset(
    {"size", "crop_size", "do_center_crop", "do_pad", "image_mean", "image_std", "image_processor_type"}
    | {"feature_extractor_type", "rescale_factor"}
)
_FIXED: dict[str, tuple[Any, ...]] = {
    "do_resize": (True,),
    "do_rescale": (True,),
    "do_normalize": (True,),
    "resample": (3,),
    "do_convert_rgb": (True, False, None),  # images are RGB by then; transformers fails on others without it
    "default_to_square": (False, None),
    "pad_size": (None,),
    "data_format": ("channels_first", None),
    "input_data_format": (None,),
}
_WORDS = {
    "do_normalize": "do_resize and do_normalize",
    "do_resize": "do_resize and do_normalize",
    "resample": "resample=3 (bicubic)",
}
_IDLE = frozenset(
    {"processor_class", "_processor_class", "_valid_processor_keys", "return_tensors", "device", "disable_grouping"}
    | {"image_seq_length", "num_additional_image_tokens", "patch_size", "vision_feature_select_strategy"}
)
KNOWN = _USED | _IDLE | _FIXED.keys()
"""Keys that an image processor's settings may have."""

_PROCESSOR_KEYS = frozenset(
    {"processor_class", "image_token", "patch_size", "vision_feature_select_strategy", "num_additional_image_tokens"}
    | {"image_processor", "chat_template", "image_seq_length"}
)


def has_image_settings(folder: str | Path) -> bool:
    """Whether a folder says how images become pixels."""
    folder = Path(folder)
    return (folder / PREPROCESSOR).exists() or _nested(folder) is not None


def read_image_settings(folder: str | Path) -> dict[str, Any]:
    """Return the arguments of an `ImageProcessor` that does what transformers does with a folder's settings.

    Raises:
        UserError: there are no settings, they are broken, ask for steps that `ImageProcessor` does not do, or stand twice and
            differ (versions of transformers read different ones).
    """
    folder = Path(folder)
    nested = _nested(folder)
    if not (folder / PREPROCESSOR).exists():
        if nested is None:
            raise UserError(
                f"{folder / PREPROCESSOR}: no such file, and no {PROCESSOR} with a section image_processor. "
                "Copy it from the model's repository."
            )
        return _settings(nested, f"{folder / PROCESSOR}: image_processor.")
    found = _settings(_read(folder / PREPROCESSOR), f"{folder / PREPROCESSOR}: ")
    if nested is not None and _settings(nested, f"{folder / PROCESSOR}: image_processor.") != found:
        raise UserError(
            f"{folder / PROCESSOR}: its section image_processor says something else than {PREPROCESSOR}; transformers 4 reads "
            "the latter, 5 the former. Remove the one that the model was not trained with."
        )
    return found


def check_processor(folder: str | Path, patch_size: int) -> None:
    """Check processor_config.json, which says how many tokens transformers puts for an image; raise `UserError`."""
    path = Path(folder) / PROCESSOR
    if not path.exists():
        return
    values = read_object(path, "a processor")
    allowed: dict[str, tuple[Any, ...]] = {
        "image_token": ("<image>", None),
        "patch_size": (patch_size, None),
        "vision_feature_select_strategy": ("default", None),
        "num_additional_image_tokens": (0, 1, None),
    }
    for key, value in values.items():
        if key not in _PROCESSOR_KEYS:
            raise UserError(f"{path}: {key}={value!r} is not known, so what it asks for would not be done. Remove it.")
        if key in allowed and value not in allowed[key]:
            raise UserError(
                f"{path}: {key}={value!r} does not fit the model; it has {key}={allowed[key][0]!r}. Edit the file."
            )


def _nested(folder: Path) -> Mapping[str, Any] | None:
    path = folder / PROCESSOR
    found = read_object(path, "a processor").get("image_processor") if path.exists() else None
    if found is not None and not isinstance(found, Mapping):
        raise UserError(f"{path}: image_processor={found!r} is no object. Copy it from the model's repository.")
    return found


def _read(path: Path) -> Mapping[str, Any]:
    if file_fault(path) is None:
        try:
            values = read_object(path, "an image processor")
        except UserError as error:
            reason = str(error).removeprefix(f"{path}: ")
            raise UserError(f"{path}: not readable as JSON: {reason}") from None
    else:
        values = read_object(path, "an image processor")  # raises
    nested = values.get("image_processor", values)
    return nested if isinstance(nested, Mapping) else values


def _settings(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    _check_keys(config, where)
    pad, crop = _pads(config, where), bool(config.get("do_center_crop", True))
    _require(pad or crop, where, "do_pad or do_center_crop")
    size = _edge(config.get("size", 224), where, "size", stretches=not pad)
    if crop:
        _require(_edge(config.get("crop_size", 224), where, "crop_size") == size, where, "crop_size = size")
    mean = _channels(config.get("image_mean"), CLIP_MEAN, f"{where}image_mean")
    std = _channels(config.get("image_std"), CLIP_STD, f"{where}image_std")
    if not all(std):
        raise UserError(f"{where}image_std={list(std)}: pixels would be divided by 0.")
    return {"image_size": size, "mean": mean, "std": std, "pad_to_square": pad}


def _check_keys(config: Mapping[str, Any], where: str) -> None:
    for key, value in config.items():
        if key not in KNOWN:
            raise UserError(f"{where}{key}={value!r} is not known, so what it asks for would not be done. Remove it.")
        if key in _FIXED and not any(value is allowed or (value == allowed and value != 1) for allowed in _FIXED[key]):
            _require(False, where, _WORDS.get(key, f"{key}={_FIXED[key][0]}"))
    factor = config.get("rescale_factor", 1 / 255)
    fits = isinstance(factor, int | float) and abs(factor - 1 / 255) < 1e-9
    _require(fits, where, "rescale_factor=1/255")


def _pads(config: Mapping[str, Any], where: str) -> bool:
    """Whether images are padded: by LLaVA's processor; CLIP's does not know do_pad."""
    kind = config.get("image_processor_type") or config.get("feature_extractor_type") or "LlavaImageProcessor"
    name = str(kind).removesuffix("Fast").replace("FeatureExtractor", "ImageProcessor")
    if name not in ("LlavaImageProcessor", "CLIPImageProcessor"):
        raise UserError(
            f"{where}image_processor_type={kind!r} is not supported; LlavaImageProcessor and CLIPImageProcessor are."
        )
    pad = bool(config.get("do_pad"))
    if pad and name == "CLIPImageProcessor":
        raise UserError(
            f"{where}do_pad=true with image_processor_type={kind!r}: transformers crops then and pads nothing. Set "
            "image_processor_type to LlavaImageProcessor if the model was trained on padded images, else do_pad to false."
        )
    return pad


def _require(holds: bool, where: str, what: str) -> None:
    if not holds:
        raise UserError(
            f"{where.removesuffix('image_processor.').removesuffix(': ')}: only image processors with {what} are supported. "
            "Give the settings that the model was trained with, or another model."
        )


def _edge(size: Any, where: str, what: str, stretches: bool = False) -> int:
    """The edge of a square size: an int, ``{shortest_edge: n}`` or ``{height: n, width: n}``."""
    sides = dict(size) if isinstance(size, Mapping) else {"shortest_edge": size}
    known = [{"shortest_edge"}, {"height", "width"}]
    values = set(map(str, sides.values()))
    square = (
        set(sides) in known and len(values) == 1 and all(type(value) is int and value > 0 for value in sides.values())
    )
    _require(square, where, f"a square {what}, not {size}")
    if stretches and "height" in sides:
        raise UserError(
            f"{where}{what}={size}: transformers stretches images to it, which changes their proportions; only shortest_edge "
            "with a centre crop, or LlavaImageProcessor with do_pad, are supported."
        )
    return int(next(iter(sides.values())))


def _channels(given: Any, default: tuple[float, float, float], where: str) -> tuple[float, float, float]:
    """Three numbers; one stands for all channels."""
    values: Any = default if given is None else given
    if type(values) in (int, float):
        values = [values] * 3
    whole = isinstance(values, list | tuple) and len(values) == 3
    if not whole or not all(type(value) in (int, float) and math.isfinite(value) for value in values):
        raise UserError(f"{where}={given!r}: three finite numbers belong there, one for each channel.")
    red, green, blue = values
    return red, green, blue
