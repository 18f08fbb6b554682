"""``draw``: the contact sheet of the twenty looks, ten drawn datasets in studio and in field."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from craft_lightning.errors import CraftError
from craft_lightning.io import fresh_file
from data_modules.twins.contact_sheet import contact_sheet


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        raise CraftError(f"draw: {message}")


def main(argv: Sequence[str]) -> int:
    """The verb; returns the exit code.

    Raises:
        CraftError: a wrong argument.
    """
    parser = _Parser(prog="python -m craft_lightning draw", description=__doc__, allow_abbrev=False)
    parser.add_argument("--output", type=Path, required=True, help="picture file to write, for example sheet.png")
    parser.add_argument("--side", type=int, default=64, help="side length of a picture in pixels")
    parser.add_argument("--per-look", type=int, default=6, help="pictures of each look")
    given = parser.parse_args(argv)
    if given.output.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise CraftError(f"draw: --output {given.output} is no picture file; name a .png")
    with fresh_file(given.output) as temporary:
        contact_sheet(given.side, given.per_look).save(temporary)
    print(given.output)
    return 0
