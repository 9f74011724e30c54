"""A conversation in the terminal: what has been said, what is asked for, and the request that follows from it."""

from __future__ import annotations

import base64
import mimetypes
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.schema.images import read_file, verify_bytes
from nemo_mm_align.serving.asked_attributes import check_some
from nemo_mm_align.serving.errors import ApiError
from nemo_mm_align.serving.served_model import ServedModel

Body = dict[str, Any]


@dataclass
class Talk:
    """A conversation with a served model, as the body of a chat request.

    Args:
        served: the model.
        attributes: values named so far, over the server's defaults; None: nothing is asked for.
        sampling: fields of the request, as ``temperature``.
    """

    served: ServedModel
    attributes: dict[str, float] | None
    sampling: dict[str, Any] = field(default_factory=dict)
    system: str = ""
    messages: list[Body] = field(default_factory=list)
    pictures: list[tuple[Path, str]] = field(default_factory=list)  # shown with the next question; as data URLs

    @property
    def asked(self) -> dict[str, float] | None:
        """What the next answer is asked for, complete."""
        return None if self.attributes is None else {**self.served.defaults, **self.attributes}

    def body(self, question: str) -> Body:
        """Return the request that asks this next."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        messages = [*system, *self.messages, {"role": "user", "content": self._parts(question)}]
        return {"messages": messages, "attributes": self.attributes, **self.sampling}

    def _parts(self, question: str) -> list[Body]:
        shown = [{"type": "image_url", "image_url": {"url": url}} for _, url in self.pictures]
        return [*shown, {"type": "text", "text": question}]

    def add(self, question: str, answer: str) -> None:
        """Take a question and its answer into the conversation; pictures have been shown then."""
        self.messages += [
            {"role": "user", "content": self._parts(question)},
            {"role": "assistant", "content": answer},
        ]
        self.pictures.clear()

    def undo(self) -> str | None:
        """Forget the last question and its answer; return the question, whose pictures are shown again with the next one."""
        if not self.messages:
            return None
        parts = self.messages[-2]["content"]
        del self.messages[-2:]
        urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
        self.pictures = [(Path("picture"), url) for url in urls]
        return str(parts[-1]["text"])

    def show(self, path: Path) -> None:
        """Show a picture with the next question; raise `UserError` where there is none."""
        data = read_file(path, self.served.pictures.limits.max_bytes)
        verify_bytes(data, path, self.served.pictures.limits.max_pixels)
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        self.pictures.append((path, f"data:{kind};base64,{base64.b64encode(data).decode()}"))

    def ask_for(self, name: str, value: float | str) -> None:
        """Ask for a value of an attribute from now on; raise `UserError` where it cannot be asked for."""
        try:
            found = check_some(self.served.schema, {name: value}, "attributes")
        except ApiError as error:
            raise UserError(error.message) from None
        self.attributes = {**(self.attributes or {}), **found}
