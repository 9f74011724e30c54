"""API keys of a server's clients: where they are read from."""

from __future__ import annotations

import os
from pathlib import Path

from nemo_mm_align.core.errors import UserError


def read_keys(file: Path | None, variable: str | None) -> tuple[str, ...]:
    """Return the keys, separated by white space, that a file or an environment variable holds; none where neither is named.

    Raises:
        UserError: it is not there, or holds none.
    """
    texts = []
    if file is not None:
        try:
            texts.append((f"api_key_file={file}", file.read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"api_key_file={file}: cannot be read ({type(error).__name__}). Give another file."
            ) from None
    if variable is not None:
        texts.append((f"api_key_variable={variable}", os.environ.get(variable, "")))
    for where, text in texts:
        if not text.split():
            raise UserError(f"{where}: holds no key. Put one there, or give null for a server that asks for none.")
    return tuple(key for _, text in texts for key in text.split())
