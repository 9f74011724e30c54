"""Settings of a folder's image processor: pixels as transformers makes them, or a refusal that names file, key and value."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers import CLIPImageProcessor, LlavaProcessor
from transformers.image_processing_utils_fast import DefaultFastImageProcessorKwargs
from transformers.models.llava.image_processing_llava import LlavaImageProcessor

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.schema.image_settings import KNOWN, check_processor, has_image_settings
from nemo_mm_align.schema.images import ImageProcessor
from tests.unit.toy_tokenizers import byte_level

SQUARE = {"height": 32, "width": 32}
CLIP = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=SQUARE)
LLAVA = LlavaImageProcessor(do_pad=True, size={"shortest_edge": 32}, crop_size=SQUARE)
IMAGE = Image.fromarray(np.random.default_rng(3).integers(0, 256, (45, 110, 3), dtype=np.uint8))


def write(folder: Path, kind: Any, name: str = "preprocessor_config.json", **changes: Any) -> Path:
    (folder / name).write_text(json.dumps({**json.loads(kind.to_json_string()), **changes}))
    return folder


def difference(folder: Path, reference: Any) -> float:
    expected = reference(IMAGE, return_tensors="np")["pixel_values"][0]
    return float(np.abs(ImageProcessor.from_hf(folder)(IMAGE) - expected).max())


@pytest.mark.parametrize("kind", [CLIPImageProcessor, LlavaImageProcessor])
def test_every_setting_of_transformers_stands_in_a_list(kind: type) -> None:
    fields = {*vars(kind()), *json.loads(kind().to_json_string()), *DefaultFastImageProcessorKwargs.__annotations__}
    assert fields - KNOWN == set()
    assert {"do_pad", "pad_size", "default_to_square", "rescale_factor"} <= fields | {"do_pad"}


@pytest.mark.parametrize(
    ("reference", "changes"),
    [
        (CLIP, {}),
        (LLAVA, {}),
        (CLIP, {"image_processor_type": "CLIPImageProcessorFast", "data_format": "channels_first", "pad_size": None}),
        (
            CLIP,
            {
                "image_processor_type": None,
                "feature_extractor_type": "CLIPFeatureExtractor",
                "size": 32,
                "crop_size": 32,
            },
        ),
        (LLAVA, {"size": SQUARE}),
        (LLAVA, {"do_center_crop": False}),
    ],
)
def test_pixels_are_transformers(tmp_path: Path, reference: Any, changes: dict[str, Any]) -> None:
    assert difference(write(tmp_path, reference, **changes), reference) < 1e-5


def test_one_mean_for_all_channels(tmp_path: Path) -> None:
    reference = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=SQUARE, image_mean=0.5, image_std=0.25)
    assert difference(write(tmp_path, reference), reference) < 1e-5


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (CLIP, {"do_rescale": False}, "do_rescale=True"),
        (CLIP, {"do_rescale": 1}, "do_rescale=True"),
        (CLIP, {"size": SQUARE}, "transformers stretches images"),
        (CLIP, {"size": {"shortest_edge": 32, "longest_edge": 64}}, "a square size"),
        (CLIP, {"do_pad": True}, "crops then and pads nothing"),
        (LLAVA, {"do_pad": True, "pad_size": SQUARE}, "pad_size"),
        (CLIP, {"image_processor_type": "SiglipImageProcessor"}, "SiglipImageProcessor"),
        (CLIP, {"image_mean": [0.5, 0.5]}, "image_mean=.*three finite numbers"),
        (CLIP, {"image_std": [0.5, 0.0, 0.5]}, "divided by 0"),
        (CLIP, {"image_grid_pinpoints": [[336, 672]]}, "image_grid_pinpoints=.*is not known"),
        (CLIP, {"crop_size": {"height": 24, "width": 24}}, "crop_size = size"),
        (CLIP, {"resample": 0}, "bicubic"),
        (CLIP, {"rescale_factor": "1/255"}, "rescale_factor"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_would_be_done_differently_is_refused(
    tmp_path: Path, kind: Any, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=rf"preprocessor_config\.json.*{message}"):
        ImageProcessor.from_hf(write(tmp_path, kind, **changes))


def test_transformers_5_writes_it_into_the_processors_file(tmp_path: Path) -> None:
    nested = {"processor_class": "LlavaProcessor", "image_processor": json.loads(LLAVA.to_json_string())}
    (tmp_path / "processor_config.json").write_text(json.dumps(nested))
    assert has_image_settings(tmp_path)
    assert difference(tmp_path, LLAVA) < 1e-5
    write(tmp_path, LLAVA)
    assert difference(tmp_path, LLAVA) < 1e-5
    write(tmp_path, CLIP)
    with pytest.raises(UserError, match="transformers 4 reads"):
        ImageProcessor.from_hf(tmp_path)


def test_a_processor_without_image_settings_is_none(tmp_path: Path) -> None:
    (tmp_path / "processor_config.json").write_text('{"patch_size": 14}')
    assert not has_image_settings(tmp_path)
    with pytest.raises(UserError, match=r"preprocessor_config.json: no such file, and no processor_config.json with"):
        ImageProcessor.from_hf(tmp_path)


@pytest.mark.parametrize("text", ["", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "[]", "{"])
def test_files_that_are_none_are_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "preprocessor_config.json").write_text(text)
    with pytest.raises(
        UserError, match=r"preprocessor_config\.json: (is empty|is a Git LFS pointer|not readable as JSON)"
    ):
        ImageProcessor.from_hf(tmp_path)


def test_the_processors_file_is_held_against_the_model(tmp_path: Path) -> None:
    check_processor(tmp_path, 14)  # none there
    given = json.loads(
        LlavaProcessor(CLIP, byte_level(), patch_size=14, vision_feature_select_strategy="default").to_json_string()
    )
    path = tmp_path / "processor_config.json"
    path.write_text(json.dumps(given))
    check_processor(tmp_path, 14)
    for change, message in (
        ({"patch_size": 16}, "patch_size=16 does not fit the model; it has patch_size=14"),
        ({"image_token": "<img>"}, "image_token='<img>'"),
        ({"vision_feature_select_strategy": "full"}, "'full'"),
        ({"do_tile": True}, "do_tile=True is not known"),
    ):
        path.write_text(json.dumps(given | change))
        with pytest.raises(UserError, match=rf"processor_config\.json: .*{message}"):
            check_processor(tmp_path, 14)
