"""The templates of a rendered table (``assets/``), filled by Jinja."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

ASSETS = Path(__file__).with_name("assets")


def fill(name: str, **values: Any) -> str:
    """A template of ``assets/`` with its values; only in HTML what they hold is escaped by itself."""
    return _environment().get_template(name).render(**values)


def to_page(name: str, scripts: Sequence[str], **values: Any) -> str:
    """An HTML file that needs no network: a template with its values, the style, and scripts of ``assets/`` as one."""
    script = "".join((ASSETS / file).read_text(encoding="utf-8") for file in scripts)
    return fill(
        name,
        style=(ASSETS / "report.css").read_text(encoding="utf-8"),
        script=script,
        script_hash=f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}",
        **values,
    )


def png_address(png: bytes) -> str:
    """The address of an image that is part of a page, from the bytes of a PNG file."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


@cache
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(ASSETS),
        autoescape=lambda name: name is not None and name.endswith(".html"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    made.globals["zip"] = zip
    made.filters |= {"markdown": markdown, "latex": latex}
    made.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":")}
    return made


def markdown(text: str, quoted: bool = False) -> str:
    """A cell of a Markdown table, in italics if it is quoted; a bar or the end of a line in it would end the cell, and
    a tag would be read."""
    escaped = " ".join(text.split()).replace("|", r"\|").replace("<", "&lt;")
    return f"*{escaped}*" if quoted else escaped


def latex(text: str, quoted: bool = False) -> str:
    """A cell of a LaTeX table, in italics if it is quoted."""
    escaped = re.sub(r"([&%$#_{}])", r"\\\1", text.replace("\\", "/"))
    escaped = re.sub(r"(?<![\w-])-(?=[\d.])", "$-$", escaped).replace("±", r"$\pm$").replace("~", r"\textasciitilde{}")
    escaped = escaped.replace("^", r"\^{}")
    return f"\\textit{{{escaped}}}" if quoted else escaped
