"""Run by test_cli.py under torchrun: every rank meets the same bad input."""

from nemo_mm_align.cli.entry_point import user_errors
from nemo_mm_align.core.errors import UserError


@user_errors
def main() -> None:
    raise UserError("answers.jsonl:3: no such prompt.")


if __name__ == "__main__":
    main()
