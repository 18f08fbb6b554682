"""What a user's data are, before anything is trained on them: counts, sizes, copies, wording, what is left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress

from craft_lightning.errors import CraftError
from craft_lightning.models.image_files import told
from craft_lightning.text.prompts import message
from craft_lightning.text.scoring import MAX_NEW_TOKENS, answer_kind
from data_modules.datamodule import VqaDataModule
from data_modules.sources.images import StoredImage, contents
from data_modules.sources.items import SplitName
from data_modules.sources.questions import Unread
from data_modules.sources.records import RecordSource

NAMES = 8
"""Classes, files or captions that a line names."""


def survey(data: VqaDataModule) -> Iterator[tuple[str, str]]:
    """Lines by their headings, of a data module whose splits of ``fit`` and ``test`` are set up. Raises CraftError: its
    data are drawn."""
    source, facts = data.open()[0], data.describe()
    if not isinstance(source, RecordSource):
        raise CraftError("adapt is for images on disk: --data.source folder")
    rows = {name: source.unread(name) for name in data.splits}
    images = {row.image.name: row.image for mine in rows.values() for row in mine}
    yield (
        "data",
        f"{facts['layout']} in {facts['root']}" + (f": {facts['classes']} classes" if facts["classes"] else ""),
    )
    yield "items", ", ".join(_count(name, count, facts["pictures"][name]) for name, count in facts["splits"].items())
    if facts["classes"]:
        yield from _classes(facts["held_out"], facts["untested"], source, rows["train"])
    else:
        yield "answers", _answers(row for mine in rows.values() for row in mine) + _long(facts["too_long"])
    seen = "stretched" if source.reader.aspect == "resize" else "padded"
    yield "sizes", f"{_sizes(images.values())}; the model sees them {seen} to {facts['side']} x {facts['side']}"
    yield "copies", _copies(rows, images.values(), bool(facts["classes"]))
    tested = (
        "; --data.apart false trains on tested images" if any("is tested" in why for why in facts["skipped"]) else ""
    )
    yield "left out", (told(facts["skipped"]) or "nothing") + tested
    for example in data.asked("train", 2):
        yield "question", f"{message(example)} -> {example.answer}".replace("\n", " | ")
    yield from (("caption", caption) for caption in data.captions[:NAMES])
    if len(data.captions) > NAMES:
        yield "", f"... {len(data.captions):,} captions"


def _count(split: str, items: int, images: int) -> str:
    return f"{split} {items:,}" + (f" on {images:,} images" if images != items else "")


def _classes(
    held_out: list[str], untested: dict[str, int], source: RecordSource, rows: list[Unread]
) -> Iterator[tuple[str, str]]:
    counts = Counter(source.class_names[row.item.label] for row in rows).most_common()
    middle = [("...", "")] if len(counts) > NAMES else []
    shown = [*counts[: NAMES // 2], *middle, *counts[-(NAMES // 2) :]] if middle else counts
    yield "trained", ", ".join(f"{name} {count}".strip() for name, count in shown)
    if held_out:
        yield "unseen", f"tested, but not trained: {', '.join(held_out[:NAMES])} ({len(held_out)})"
    if untested:
        yield "untested", f"trained, but not tested: {', '.join(list(untested)[:NAMES])} ({len(untested)})"


def _answers(rows: Iterable[Unread]) -> str:
    kinds = Counter(answer_kind(row.item.answer, row.item.options) for row in rows)
    return ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common())


def _long(too_long: dict[str, int]) -> str:
    said = " and ".join(f"{count} of {name}" for name, count in too_long.items())
    return f"; longer than the {MAX_NEW_TOKENS} tokens of a reply, so never right: {said}" if said else ""


def _sizes(images: Iterable[StoredImage]) -> str:
    sizes = []
    for image in images:
        with suppress(CraftError), image.opened() as header:
            sizes.append(header.size)
    small, large = (end(sizes, key=lambda size: size[0] * size[1]) for end in (min, max))
    return " x ".join(map(str, small)) + (f" to {large[0]:,} x {large[1]:,}" if large != small else "") + " pixels"


def _copies(rows: Mapping[SplitName, list[Unread]], images: Iterable[StoredImage], labelled: bool) -> str:
    """Files that are equal byte for byte: between training and test they would measure memory, in two classes one of
    them is wrong."""
    digests = contents(images)
    alike: dict[str, dict[str, set[int]]] = {}
    splits: dict[str, set[bool]] = {}
    for split, mine in rows.items():
        for row in mine:
            digest = digests.get(row.image.name, row.image.name)
            alike.setdefault(digest, {}).setdefault(row.image.name, set()).add(row.item.label)
            splits.setdefault(digest, set()).add(split == "test")
    copied = [names for names in alike.values() if len(names) > 1]
    tested = [next(iter(alike[digest])) for digest, tests in splits.items() if len(tests) > 1]
    torn = [" and ".join(list(names)[:2]) for names in copied if len(set().union(*names.values())) > 1]
    said = [f"files equal to another: {sum(map(len, copied)) - len(copied):,}"] if copied else []
    if tested:
        leave = "leave them out of training with --data.apart true"
        said.append(f"trained and tested: {len(tested):,} ({tested[0]} for one); {leave}")
    if labelled and torn:
        said.append(f"in two classes, one of which is wrong: {len(torn):,} ({torn[0]} for one)")
    return "; ".join(said) or "none"
