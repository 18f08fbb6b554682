"""One picture of all twenty looks: a row for each twin, studio on the left and field on the right."""

from __future__ import annotations

from PIL import Image, ImageDraw, ImageFont

from data_modules.twins import TWINS
from data_modules.twins.twin import ClassificationTwin, Drawing, Look, Twin

PAPER, INK, MUTED = "#ffffff", "#1a1a1a", "#666666"
TEXT = 12
"""Height of the labels in pixels."""
TITLE = 17
"""Height of the titles in pixels."""
CELL = 112
"""Side of a shown picture in pixels; drawn pictures are enlarged to it without smoothing."""
GAP = 8
SPLIT = "contact sheet"


def _wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int, lines: int = 2) -> str:
    """``text`` broken into at most ``lines`` lines of ``width`` pixels, cut with an ellipsis where it is longer."""
    rows, row = [], ""
    for word in text.split():
        longer = f"{row} {word}".strip()
        if row and font.getlength(longer) > width:
            rows.append(row)
            row = word
        else:
            row = longer
    rows.append(row)
    shown = rows[:lines]
    if len(rows) > lines:
        shown[-1] += " ..."
    while font.getlength(shown[-1]) > width and len(shown[-1]) > 4:
        shown[-1] = shown[-1].removesuffix(" ...")[:-1].rstrip() + " ..."
    return "\n".join(shown)


def _label(source: Twin, drawing: Drawing, i: int) -> str:
    """The class of a picture, or the kind and the answer of its stored question."""
    if isinstance(source, ClassificationTwin):
        return source.class_names[drawing.labels[i]]
    stored = drawing.questions[i][0]
    return f"{stored.kind}: {stored.answer}"


def _strip(source: Twin, look: Look, side: int, count: int) -> Image.Image:
    """``count`` labelled pictures of one look. Field pictures show the items of the studio pictures beside them."""
    # Classes come in turn, so a stride spreads the sheet over a long list; so do questions: first kinds, then answers,
    # and a stride of 13 changes both.
    stride = max(1, len(source.class_names) // count) if isinstance(source, ClassificationTwin) else 13
    drawing = source.draw(SPLIT, [i * stride for i in range(count)], side, look)
    font = ImageFont.load_default(TEXT)
    strip = Image.new("RGB", (count * (CELL + GAP) - GAP, CELL + 2 * TEXT + 12), PAPER)
    pen = ImageDraw.Draw(strip)
    for i in range(count):
        left = i * (CELL + GAP)
        picture = Image.fromarray(drawing.images[i].permute(1, 2, 0).contiguous().numpy())
        strip.paste(picture.resize((CELL, CELL), Image.Resampling.NEAREST), (left, 0))
        text = _wrapped(_label(source, drawing, i), font, CELL)
        pen.multiline_text((left, CELL + 2), text, fill=INK, font=font, spacing=1)
    return strip


def contact_sheet(side: int = 64, per_look: int = 6) -> Image.Image:
    """All ten twins in both looks, one row a twin: the same items as studio and as field pictures.

    Args:
        side: side length in pixels at which the pictures are drawn. per_look: pictures of each look.
    """
    title = ImageFont.load_default(TITLE)
    rows = [tuple(_strip(twin(), look, side, per_look) for look in ("studio", "field")) for twin in TWINS.values()]
    width, height = rows[0][0].size
    head = TITLE + 10
    sheet = Image.new("RGB", (2 * width + 5 * GAP, len(rows) * (head + height + GAP) + GAP), PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, (name, (studio, field)) in enumerate(zip(TWINS, rows, strict=True)):
        top = GAP + number * (head + height + GAP)
        right = width + 4 * GAP
        pen.text((GAP, top), f"{TWINS[name].title}: studio", fill=INK, font=title)
        pen.text((right, top), f"field: {TWINS[name].shift_name}", fill=MUTED, font=title)
        sheet.paste(studio, (GAP, top + head))
        sheet.paste(field, (right, top + head))
    return sheet
