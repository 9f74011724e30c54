"""What a client gets wrong, or cannot have now, as OpenAI's clients read it."""

from __future__ import annotations

from typing import Any

_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """An answer with an error status.

    Args:
        status: of HTTP, 400 to 599.
        message: what is wrong and what to do; characters that UTF-8 lacks are written out.
        param: the field of the body that is at fault, as ``messages[0].content[1]``.
        code: OpenAI's word for it, as ``context_length_exceeded``.
    """

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        self.status, self.message, self.code = status, _printable(message), code
        self.param = None if param is None else _printable(param)
        super().__init__(self.message)

    @property
    def type(self) -> str:
        """OpenAI's name of the kind of error."""
        return _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")

    @property
    def body(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
