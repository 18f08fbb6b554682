"""``export``: an adapted encoder handed on: its gain put on its card, uploaded on request, or written back into a whole
checkpoint for the code base that the checkpoint is of."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from craft_lightning.checkpoints import configs
from craft_lightning.checkpoints.encoder import AdaptedEncoder, apply_encoder, check_whole, encoder_folder
from craft_lightning.checkpoints.load import load_tower
from craft_lightning.checkpoints.pretrained import lora_of
from craft_lightning.checkpoints.tensors import TensorFiles, first_line, fresh_folder, read_json, save_tensors
from craft_lightning.checkpoints.vila_u import SIGLIP, section_of, siglip_folder
from craft_lightning.cli import verbs
from craft_lightning.encoder_gain import add_gain
from craft_lightning.errors import CraftError
from craft_lightning.io import fresh_file, write_json
from craft_lightning.models.langbridge import LangBridge
from craft_lightning.models.vlm_spec import VlmSpec, resolve

LONG = 10**9
"""Bytes from which the copying is announced."""

ADAPTATION = "adaptation"
"""Folder for what the encoder's own folder says besides its weights; other readers pass it by."""


def main(argv: Sequence[str]) -> int:
    """The verb; returns the exit code."""
    args = verbs.export().parse_args(argv)
    if args.output is None and args.gain is None and args.push is None:
        raise CraftError("export: say what to do: --gain BEFORE AFTER, --push OWNER/NAME or --output FOLDER")
    if args.output is not None and args.backbone is None:
        raise CraftError("--output is a whole checkpoint: name the one that the encoder goes into with --backbone NAME")
    if args.gain is not None:
        print(f"{args.encoder}: {add_gain(args.encoder, *args.gain)}")
    if args.push is not None:
        _push(args.encoder, args.push)
    if args.output is not None:
        _write(args)
    return 0


def _push(encoder: str, repository: str) -> None:
    try:
        url = AdaptedEncoder.from_pretrained(encoder).push_to_hub(repository, private=True)
    except (OSError, ValueError) as error:  # huggingface_hub's are all one of these
        raise CraftError(f"--push {repository}: {first_line(error)}; log in with hf auth login") from error
    print(f"{encoder} is at {url}; in Python: VisionLanguageModel.from_pretrained(MODEL, encoder={repository!r})")


def _write(args: argparse.Namespace) -> None:
    try:
        count = export(resolve(VlmSpec(args.backbone)), args.encoder, args.output)
    except OSError as error:
        raise CraftError(f"--output {args.output} cannot be written ({first_line(error)})") from error
    print(
        f"{args.output}: {count} tensors of {args.encoder} in place; load it with --model.backbone.name {args.output}"
    )
    if reasons := unlike_the_original(configs.checkpoint_root(args.output)):
        print(f"warning: VILA-U's own code cannot load {args.output}: {', '.join(reasons)}", file=sys.stderr)


def unlike_the_original(root: Path) -> list[str]:
    """What keeps the code that VILA-U was published with from loading a checkpoint in its layout."""
    name = section_of(configs.tower_folder(root)).get("pretrained_model")
    language = read_json(root / "llm" / "config.json").get("model_type")
    checks = {
        f"its SigLIP is {name}, the code knows {' and '.join(configs.KNOWN_SIGLIP)}": name not in configs.KNOWN_SIGLIP,
        f"its language model is {language}, not llama": language != "llama",
        "its language model is an update of another": lora_of(root / "llm") is not None,
        "its tokenizer is no sentencepiece model": not (root / "llm" / "tokenizer.model").is_file(),
        "its adapter is a LangBridge": configs.projector_config(root).get("mm_projector_type") == LangBridge.kind,
        "its tower is continuous": bool(configs.top_config_of(root).get("continuous")),
    }
    return [reason for reason, holds in checks.items() if holds]


def export(checkpoint: Path, encoder: str | Path, output: Path) -> int:
    """Copy a checkpoint to ``output`` with the tensors of an adapted encoder in place of its own, whose number is
    returned. A tower that the checkpoint shares with others is written into the copy.

    Args:
        encoder: see :func:`.encoder_folder`.

    Raises:
        CraftError: ``output`` exists, lies in the checkpoint or has no room; a checkpoint that is incomplete or in
            LLaVA's layout; an encoder that is not there, of another codebook, of a part of it or of another shape.
    """
    root = configs.checkpoint_root(checkpoint)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise CraftError(f"--output {output} exists: name another folder, or remove it")
    if output.resolve().is_relative_to(root.resolve()):
        raise CraftError(f"--output {output} lies in the checkpoint {root}: name a folder outside of it")
    encoder = encoder_folder(encoder)
    check_whole(encoder, "no checkpoint's layout says so: plug it in, with these settings, where it is used")
    folder = configs.tower_folder(root)
    if configs.is_single(root) or "rqvaesiglip" not in read_json(folder / "config.json"):
        raise CraftError(f"{checkpoint} has another tower: only checkpoints in VILA-U's layout can be exported")
    for part in ("llm", "mm_projector"):  # names a missing or damaged file before anything is copied
        if not (root / part / "config.json").is_file():
            raise CraftError(f"{checkpoint}: no {part}/config.json, so it is no whole checkpoint")
        if part == "llm":
            weights = lora_of(root / part) is None
        else:
            weights = configs.projector_config(root).get("mm_projector_type") != "identity"
        if weights:
            TensorFiles(root / part)
    apply_encoder(load_tower(root), encoder)  # refuses what does not fit
    state = load_file(encoder / "encoder.safetensors")
    adapted = {f"{SIGLIP}vision_model.{name.removeprefix('vision.')}": value for name, value in state.items()}
    inside = folder.resolve().is_relative_to(root.resolve())
    _check_room(output, (root, encoder) if inside else (root, folder, encoder))
    with fresh_folder(output) as fresh:
        _copy(root, fresh, leave=folder.name if folder.parent == root else "vision_tower")
        _copy(folder, fresh / "vision_tower")
        replaced = sum(_replace(file, adapted) for file in TensorFiles(fresh / "vision_tower").files)
        assert replaced == len(adapted), "the loader has found every one of them"
        _stand_alone(fresh, root, folder)
        (fresh / ADAPTATION).mkdir()
        for name in ("config.json", "token_prior.safetensors"):
            if (encoder / name).is_file():
                shutil.copyfile(encoder / name, fresh / ADAPTATION / name)
    return replaced


def _check_room(output: Path, sources: Sequence[Path]) -> None:
    needed = sum(file.stat().st_size for source in sources for file in source.rglob("*") if file.is_file())
    if needed > LONG:
        print(f"copying {needed / 1e9:.1f} GB to {output}", file=sys.stderr)
    place = next(parent for parent in output.resolve().parents if parent.is_dir())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise CraftError(f"--output {output} takes {needed / 1e9:.1f} GB, {place} has {free / 1e9:.1f} GB left")


def _copy(source: Path, target: Path, leave: str | None = None) -> None:
    """A folder's files, links followed; not those that begin with a dot (caches), nor its folder ``leave``."""

    def ignored(folder: str, names: list[str]) -> list[str]:
        return [n for n in names if n.startswith(".") or (Path(folder) == source and n == leave)]

    shutil.copytree(source, target, dirs_exist_ok=True, ignore=ignored, copy_function=shutil.copyfile)


def _replace(file: Path, adapted: Mapping[str, Tensor]) -> int:
    """Put the adapted tensors of a weight file in place, if it has any; returns their number."""
    if file.suffix == ".safetensors":
        with safe_open(file, "pt") as opened:
            found, metadata = adapted.keys() & set(opened.keys()), opened.metadata()
        if found:
            save_tensors(file, load_file(file) | {name: adapted[name] for name in found}, metadata)
        return len(found)
    state = torch.load(file, map_location="cpu", weights_only=True)
    found = adapted.keys() & state.keys()
    if found:
        state.update({name: adapted[name] for name in found})
        with fresh_file(file) as temporary:
            torch.save(state, temporary)
    return len(found)


def _stand_alone(fresh: Path, root: Path, folder: Path) -> None:
    """Let the copy need nothing of what the checkpoint shares with others: its tower, and SigLIP's folder."""
    config = read_json(fresh / "vision_tower" / "config.json")
    name = str(config["rqvaesiglip"].get("pretrained_model"))
    shared = siglip_folder(name, folder, root)
    copied = (root.resolve(), folder.resolve())
    if shared is not None and not any(shared.resolve().is_relative_to(place) for place in copied):
        _copy(shared, fresh / "vision_tower" / "siglip")
        config["rqvaesiglip"]["pretrained_model"] = "vision_tower/siglip"
        write_json(fresh / "vision_tower" / "config.json", config)
    top = configs.top_config_of(fresh)
    if isinstance(top.get("vision_tower_cfg"), str):
        write_json(fresh / "config.json", top | {"vision_tower_cfg": config})
