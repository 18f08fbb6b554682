"""A table's YAML file; every mistake in it is reported together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from craft_lightning.benchmark import table_parts as parts
from craft_lightning.benchmark import table_rows
from craft_lightning.benchmark.budget import SHORT
from craft_lightning.benchmark.table_values import Context, Paper, Values, unknown_name
from craft_lightning.environment import EXPERIMENTS, find, places
from craft_lightning.errors import CraftError, did_you_mean
from craft_lightning.io import read_settings

TABLES = Path(EXPERIMENTS) / "tables"
PARTS: dict[str, type[Values]] = {
    "backbones": table_rows.Backbone,
    "rows": table_rows.RowEntry,
    "columns": parts.Column,
    "claims": parts.Claim,
    "metric": parts.Metric,
    "also": parts.Metric,
    "gain": parts.Lines,
    "above": parts.Lines,
    "replies": parts.Replies,
    "behind": table_rows.Behind,
    **dict.fromkeys(("before", "after", "beside"), parts.Lines),
}
"""What a table's keys hold that is more than a value."""

STEPS = "trainer.max_steps"

Model = TypeVar("Model", bound=Values)


def find_table(name: str, scale: str | None = None) -> Path:
    """The file of a table given as a path or as a name below ``experiments/tables``. Raises CraftError: there is none;
    names the nearest."""
    path = Path(name)
    if path.suffix in {".yaml", ".yml"}:
        folder, wanted = path.parent, path.stem
    else:
        folder, wanted = TABLES, name if scale in {None, "pocket"} else f"{name}-{scale}"
        path = folder / f"{wanted}.yaml"
    if (found := find(path)).is_file():
        return found
    known = sorted({p.stem for place in places(folder) for p in place.glob("*.yaml")})
    hint = did_you_mean(wanted, known, ".")
    raise CraftError(f"no table {wanted!r} in {folder}{hint} Known: {', '.join(known) or 'none'}")


def load_collection(path: Path) -> parts.Collection | None:
    """Several tables as one (a file with ``tables``), or None where the file is a table itself. Raises CraftError:
    every mistake found, one a line."""
    raw, mistakes = read_settings(path), list[str]()
    if "tables" not in raw:
        return None
    known = {"table": [other.stem for other in path.parent.glob("*.yaml") if other != path]}
    found = _validated(parts.Collection, raw, "", Context(path.parent, known), mistakes)
    return _faultless(found, path, mistakes)


def load_spec(path: Path, scale: str | None = None, budget: str = SHORT) -> parts.TableSpec:
    """Read and check a table's YAML file; the paths in it are relative to its folder. A budget other than ``short``
    makes a table of its own, ``<name>-<budget>``. Raises CraftError: every mistake found, one a line; a file that is
    made for another ``scale`` is one."""
    raw = read_settings(path)
    if budget != SHORT:
        raw |= {"budget": budget, "name": f"{raw.get('name', path.stem)}-{budget}"}
        raw["title"] = f"{raw.get('title', raw['name'])}, {budget} budget"
    context, mistakes = Context(path.parent, {}), list[str]()
    paper = _validated(Paper, raw["paper"], "paper", context, mistakes) if "paper" in raw else None
    paper = paper or Paper(source="")
    ids = {kind: [str(item.get("id")) for item in _mappings(raw.get(kind))] for kind in ("backbones", "columns")}
    ids["rows"] = [name for item in _mappings(raw.get("rows")) for name in table_rows.row_ids(item)]
    context.names |= {"backbone": ids["backbones"], "column": ids["columns"]}
    context.names |= {"row": ids["rows"], "row or all": ["all", *ids["rows"]]}
    for number, kind in enumerate(("row", "surrogate", "backbone", "column")):
        context.names[f"paper's {kind}"] = [*dict.fromkeys(key[number] for key in paper.values)]
    spec = _validated(parts.TableSpec, raw | {"path": path, "paper": paper}, "", context, mistakes)
    for kind, names in ids.items():
        mistakes += [f"{kind}: {n!r} is there {names.count(n)} times" for n in sorted(set(names)) if names.count(n) > 1]
    mistakes += [f"{kind}: is empty" for kind in ids if raw.get(kind) == []]
    if raw.get("claims") and not raw.get("baseline"):
        mistakes.append("claims: compare gains, so the table needs a baseline")
    if raw.get("claims") and all(map(_of_several_sets, _mappings(raw.get("columns")))):
        mistakes.append("claims: are decided item by item, so some column needs one dataset, and to test it")
    mistakes += _lineless(spec) if spec is not None else []
    if spec is not None and budget != SHORT and (own := [row.id for row in spec.rows if STEPS in row.overrides]):
        mistakes.append(f"budget: {own[0]} and others say their own {STEPS}, so this table has no {budget!r} one")
    if spec is not None and scale not in (None, spec.scale):
        mistakes.append(f"scale: this table is made for {spec.scale!r}, not for {scale!r}")
    return _faultless(spec, path, mistakes)


def _lineless(spec: parts.TableSpec) -> list[str]:
    """What is compared and no row of the table is."""
    wanted = {f"claims[{claim.id}].{side}": getattr(claim, side) for claim in spec.claims for side in ("gain", "above")}
    if spec.replies is not None:
        wanted |= {f"replies.{side}": getattr(spec.replies, side) for side in ("before", "after", "beside")}
    lines = parts.table_lines(spec)
    return [f"{at}: no printed row is that" for at, one in wanted.items() if one and not any(map(one.mean, lines))]


def _faultless(found: Model | None, path: Path, mistakes: Sequence[str]) -> Model:
    if found is None or mistakes:
        count = f"{len(mistakes)} mistake{'s' if len(mistakes) > 1 else ''}"
        raise CraftError(f"{count} in {path}:\n" + "\n".join(f"  {mistake}" for mistake in mistakes))
    return found


def _mappings(values: Any) -> list[dict[str, Any]]:
    return [value for value in values if isinstance(value, dict)] if isinstance(values, list) else []


def _of_several_sets(column: dict[str, Any]) -> bool:
    datasets = column.get("datasets")
    return column.get("test_on", "same") != "same" or (isinstance(datasets, list) and len(datasets) > 1)


def _validated(
    model: type[Model], raw: dict[str, Any], where: str, context: Context, mistakes: list[str]
) -> Model | None:
    """The values as a model; what pydantic finds wrong becomes a line each."""
    try:
        return model.model_validate(raw, context=context)
    except ValidationError as error:
        for found in error.errors():
            # What is wrong with a key is told of its mapping.
            of_key = 2 if found["loc"][-1:] == ("[key]",) else 1 if found["type"] == "extra_forbidden" else 0
            place = _place(found["loc"][: len(found["loc"]) - of_key], raw, where)
            message = _message(found, model)
            mistakes.append(f"{place}: {message}" if place else message)
    return None


def _place(loc: Sequence[int | str], raw: Any, where: str) -> str:
    """Where a mistake is: ``rows[craft].train_on``; an item of a list is told by its id, or else by its place."""
    words, value = [where] if where else [], raw
    for part, before in zip(loc, ("", *loc), strict=False):
        value = value.get(part) if isinstance(value, dict) else value[part] if isinstance(part, int) else None
        if isinstance(part, str):
            words.append(part)
        elif before in PARTS:
            words[-1] += f"[{value.get('id', part) if isinstance(value, dict) else part}]"
    return ".".join(words)


def _message(found: Any, model: type[Values]) -> str:
    match found["type"]:
        case "missing":
            return "is missing"
        case "too_short":
            return "is empty"
        case "value_error":
            return str(found["ctx"]["error"])
        case "extra_forbidden":
            holder = next((PARTS[part] for part in reversed(found["loc"][:-1]) if part in PARTS), model)
            known = [field.alias or name for name, field in holder.model_fields.items()]
            return unknown_name(str(found["loc"][-1]), known, "key")
        case _:
            return f"{found['msg'].replace('Input should', 'must', 1)}, got {found['input']!r}"
