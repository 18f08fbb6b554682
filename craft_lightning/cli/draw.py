"""``draw``: the contact sheet of the twenty looks, ten synthetic datasets in source and in target domain."""

from __future__ import annotations

from collections.abc import Sequence

from craft_lightning.cli import verbs
from craft_lightning.errors import CraftError
from craft_lightning.io import check_file, fresh_file
from data_modules.twins.contact_sheet import contact_sheet


def main(argv: Sequence[str]) -> int:
    """The verb; returns the exit code."""
    given = verbs.draw().parse_args(argv)
    if given.output.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise CraftError(f"draw: --output {given.output} is no image file; name a .png")
    check_file(given.output, "--output")
    with fresh_file(given.output) as temporary:
        contact_sheet(given.side, given.per_look).save(temporary)
    print(given.output)
    return 0
