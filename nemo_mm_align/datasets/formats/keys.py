"""Which keys of other people's records are read, kept as metadata, or refused; docs/records.md shows the same lists.

A key that a format uses is read. One that would change the training if it were obeyed, and is not, refuses its record by
name. One of the well-known harmless ones is kept in `metadata` without a word, any other with one warning. Empty values
(null, "", [], {}) say nothing and never count, nor does a weight of 1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nemo_mm_align.core.errors import shorten
from nemo_mm_align.datasets.faults import Problem


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


METADATA = _words(
    "id idx index uid uuid hash source sources data_source dataset dataset_name ds_name subset split origin origin_dataset "
    "origin_split prompt_id question_id sample_id image_id conversation_id task task_type category type topic tags language "
    "lang model models chosen_model rejected_model judge annotator annotations license url date timestamp created version "
    "width height width_list height_list image_size num_tokens num_turns difficulty title metadata meta info "
    "score_chosen score_rejected chosen_rating rejected_rating"
)
"""Harmless: where a record comes from and what it is about. Scores of other names count for the order of a pair."""

IMAGE_NAMES = _words(
    "image_path image_paths image_file image_files image_url image_urls img img_path imgs pictures picture"
)
"""Other people's names of pictures: harmless beside ``image`` or ``images``, where they say the same once more."""

WEIGHTS = _words("weight weights loss_weight loss_weights sample_weight sample_weights importance")
LOSS_MASKS = _words(
    "mask masks masked loss loss_mask loss_masks train trainable train_on_turn completion_mask assistant_masks label labels "
    "input_ids attention_mask"
)
MEDIA = _words("video videos audio audios sound speech frames file files document documents pdf")
TOOLS = _words("tool tools tool_calls tool_call_id functions function_call available_tools")
CONTEXT = _words(
    "system system_prompt instruction input context history chat_template_kwargs thinking reasoning_content attributes"
)
OTHER_FORMATS = _words(
    "turns conversations messages prompt completion chosen rejected chosen_response rejected_response chosen_reward "
    "rejected_reward"
)

REFUSED = {
    **dict.fromkeys(WEIGHTS, ("every record and answer weighs the same here.", "repeat or remove records instead.")),
    **dict.fromkeys(LOSS_MASKS, ("all answers are trained on.", "split the record, or remove the key.")),
    **dict.fromkeys(
        MEDIA, ("only images and text are trained on.", "remove the record, or the key if it is not needed.")
    ),
    **dict.fromkeys(TOOLS, ("tools and their calls do not come into the prompt.", "write them into the turns.")),
    **dict.fromkeys(CONTEXT, ("it would not come into the prompt.", "write it into a turn, or remove the key.")),
    **dict.fromkeys(
        OTHER_FORMATS, ("it belongs to another format.", "remove it, or say with data.format=... how to read the file.")
    ),
}
"""What would change the training and is not obeyed: why, and the remedy."""


def says_nothing(key: str, value: Any) -> bool:
    """Whether a key's value is empty, or a weight of 1."""
    return (
        value is None or (isinstance(value, str | list | dict | tuple) and not value) or (key in WEIGHTS and value == 1)
    )


def as_listed(key: str) -> str:
    """A key as the lists have it: lower case, with underscores."""
    return key.lower().replace("-", "_")


class KeyCheck:
    """Looks at the keys that a format does not use, and counts those that nobody knows.

    Args:
        chosen_format: the user has said how the file is to be read: keys of other formats are left out then.
    """

    def __init__(self, chosen_format: bool = False) -> None:
        self.chosen_format, self.unknown = chosen_format, Counter[str]()

    def record(self, record: Mapping[str, Any], used: Sequence[str], has_images: bool) -> Iterator[Problem]:
        """Yield a problem for every key of a record that is refused."""
        for key, value in record.items():
            if key in used or says_nothing(key, value):
                continue
            name = as_listed(key)
            if name in IMAGE_NAMES and not has_images:
                why = "names a picture, but the record has no image or images."
                yield Problem("unread_key", f"key {shorten(key)!r} {why}", "call it image.")
            elif name in REFUSED and not (self.chosen_format and name in OTHER_FORMATS):
                yield _refusal(key, name)
            elif name not in METADATA and name not in IMAGE_NAMES:
                self.unknown[key] += 1

    def messages(self, where: str, messages: Any, used: Sequence[str]) -> Iterator[Problem]:
        """Yield a problem for every key of a list of messages, or of one message, that is refused."""
        for message in messages if isinstance(messages, list) else [messages]:
            if not isinstance(message, Mapping):
                continue  # text, or a fault of its own
            for key, value in message.items():
                if key in used or says_nothing(key, value):
                    continue
                name = as_listed(key)
                if name in REFUSED or name in IMAGE_NAMES or name in ("image", "images"):
                    yield _refusal(f"{where}[].{key}", name)
                elif name not in METADATA:
                    self.unknown[f"{where}[].{key}"] += 1


def _refusal(key: str, name: str) -> Problem:
    default = ("images stand beside the messages.", "list them in images, in the order of their <image> placeholders.")
    why, remedy = REFUSED.get(name, default)
    return Problem("unread_key", f"key {shorten(key)!r} is not read: {why}", remedy)
