"""What a dataset's image fields can name, and what of it a judge may ever see."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.labeling.judges.rubric_judge import RubricJudge
from nemo_mm_align.labeling.stage import LabelSettings, label
from nemo_mm_align.llm.clients.gemini import Gemini
from nemo_mm_align.schema.attributes import AttributeSchema
from tests.judge_server import Files, JudgeServer, judge_server, make_files
from tests.unit.test_images import huge_png, noise

pytestmark = pytest.mark.e2e

Run = Callable[..., None]


@pytest.fixture
def run(helpsteer: AttributeSchema, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("GEMINI_API_KEY", "test-key-0123456789")

    def run(server: JudgeServer, files: Files, **changes: object) -> None:
        paths = {"prompts": files.prompts_path, "candidates": files.candidates_path, "out": files.folder / "out.jsonl"}
        settings = LabelSettings.model_validate({**paths, "attribute_schema": helpsteer, **changes})
        label(settings, RubricJudge(Gemini("gemini-test", api_endpoint=server.address, timeout_s=60)))

    return run


def with_image(files: Files, index: int, name: str) -> None:
    files.prompts[index] = files.prompts[index].model_copy(update={"images": (name,)})


def test_nothing_outside_the_image_root_is_read_or_sent(run: Run, tmp_path: Path) -> None:
    files, secret = make_files(tmp_path / "data", 6), tmp_path / "secret.png"
    Image.new("RGB", (9, 9), "red").save(secret)
    images = files.folder / "images"
    (images / "link.png").symlink_to(secret)
    (images / "folder").symlink_to(tmp_path)
    names = ["../secret.png", str(secret), "link.png", "folder/secret.png", "/etc/passwd"]
    for index, name in enumerate(names):
        with_image(files, index, name)
    with_image(files, 5, "5.webp")
    files.write()
    with judge_server() as server:
        with pytest.raises(UserError, match=r"5 faults in the input; nothing was asked") as caught:
            run(server, files, image_root=images)
        assert not server.exchanges
        for line, name in enumerate(names, start=1):
            assert f"{files.prompts_path}:{line}: image path" in str(caught.value) and name in str(caught.value)
        (images / "alias.png").symlink_to("0.png")  # a link whose target lies inside is no way out
        with_image(files, 0, "alias.png")
        kept = Files(files.folder, [files.prompts[0], files.prompts[5]], [files.candidates[0], files.candidates[5]])
        kept.write()
        run(server, kept, image_root=images)
        assert {exchange.images[0] for exchange in server.exchanges} == {
            (images / name).read_bytes() for name in ("0.png", "5.webp")
        }


def test_files_that_are_no_images_are_named_before_any_call(run: Run, tmp_path: Path) -> None:
    files = make_files(tmp_path, 6)
    os.mkfifo(tmp_path / "images/pipe.png")
    (tmp_path / "images/zero.png").symlink_to("/dev/zero")
    (tmp_path / "images/environment.png").symlink_to("/proc/self/environ")
    huge_png(tmp_path / "images/bomb.png", 60000, 60000)
    noise(64, 64).save(tmp_path / "images/cut.jpg")
    os.truncate(tmp_path / "images/cut.jpg", 1000)
    for index, name in enumerate(["pipe.png", "zero.png", "environment.png", "bomb.png", "cut.jpg"]):
        with_image(files, index, f"images/{name}")
    (tmp_path / "images/5.webp").rename(tmp_path / "images/wrong.gif")
    with_image(files, 5, "images/wrong.gif")  # a WebP by another name is what its bytes say
    files.write()
    with judge_server() as server:
        with pytest.raises(UserError, match=r"5 faults in the input; nothing was asked") as caught:
            run(server, files)
        assert not server.exchanges
        found = str(caught.value)
        assert found.count("a pipe, a socket or a device") == 2 and found.count("not an image of a known format") == 1
        assert found.count("decompression bomb") == 1 and found.count("damaged or cut off") == 1
        assert os.environ["GEMINI_API_KEY"] not in found
        kept = Files(files.folder, files.prompts[5:], files.candidates[5:])
        kept.write()
        run(server, kept)
    assert [exchange.mime_types for exchange in server.exchanges] == [["image/webp"]]
