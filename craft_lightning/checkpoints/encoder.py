"""Adapted encoders: written, read, plugged into a tower; a folder of one is a repository of the hub as it is."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import EvalResult, ModelCard, ModelCardData, ModelHubMixin, snapshot_download
from safetensors.torch import load_file
from torch import Tensor

from craft_lightning import __version__
from craft_lightning.checkpoints.tensors import (
    dtype_name,
    first_line,
    fresh_folder,
    listed,
    mismatches,
    read_as,
    read_json,
    save_tensors,
)
from craft_lightning.errors import CraftError
from craft_lightning.io import fresh_file, write_json
from craft_lightning.models.towers.tower import Tower
from craft_lightning.models.vlm_spec import BACKBONES, VlmSpec

WEIGHTS, PRIOR, GROWN = "encoder.safetensors", "token_prior.safetensors", "codebook_growth.safetensors"
SPLITS = {"val/accuracy": ("val", "validation"), "test/exact_match": ("test", "test")}
"""Scores that the hub shows, and what they were found on, as runs and as the hub call it."""
CARD = str(Path(__file__).with_name("encoder_card.md"))
HOSTS = {"pocket": ("pocket-vila-u", "pocket-qwen2-xs"), "models": ("vila-u-7b-256",)}
"""By the source of a known surrogate, models of its codebook that the card plugs its encoder into."""
logger = logging.getLogger(__name__)


def weights_hash(tower: Tower) -> str:
    """SHA-256 over names, shapes and float32 little-endian bytes of what :meth:`.tower.Tower.used_parameters` yields:
    what an adapted encoder replaces."""
    digest = hashlib.sha256()
    for name, parameter in tower.used_parameters():
        digest.update(f"{name} {tuple(parameter.shape)} ".encode())
        digest.update(parameter.detach().to("cpu", torch.float32).numpy().astype("<f4", copy=False).tobytes())
    return digest.hexdigest()


class AdaptedEncoder(ModelHubMixin, library_name="craft_lightning", tags=["craft_lightning", "arxiv:2602.19449"]):
    """The trained weights of a vision tower, with what they fit and how they came about.

    A folder of it, here or on the hub, holds ``encoder.safetensors``, ``config.json``, a model card ``README.md`` and,
    where codes were counted, ``token_prior.safetensors``, and where its codebook had grown, what it grew by:
    ``codebook_growth.safetensors``. ``save_pretrained(folder)`` and ``push_to_hub(repo_id)`` are
    huggingface_hub's, with all of their arguments; nothing is uploaded unless asked.

    Attributes:
        state: all parameters that the tower uses, by the names of :meth:`.tower.Tower.used_parameters`.
        config: ``base``, ``codebook_hash``, ``method``, ``dtype``, ``weights`` (SHA-256 of ``encoder.safetensors``),
            where there is no codebook ``base_hash``, where a part of it is searched ``codebook_share``, where it has
            grown the name of that file as ``codebook_growth``, under ``run`` what its training was (data, steps, seed,
            settings, scores), and under ``gains`` what tests found, see :func:`.encoder_gain.add_gain`.
        prior: ``[K]`` counts of first-level codes on the training images, or None.
        growth: the bytes of a file of new entries (verb ``grow``), or None.
    """

    def __init__(
        self,
        state: Mapping[str, Tensor],
        config: Mapping[str, Any],
        prior: Tensor | None = None,
        growth: bytes | None = None,
    ) -> None:
        self.state, self.prior, self.growth = dict(state), prior, growth
        self.config = {**config, "token_prior": None if prior is None else PRIOR}
        self.config |= {} if growth is None else {"codebook_growth": GROWN}

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **hub: Any) -> AdaptedEncoder:
        """Read a folder, or fetch a repository of the hub by its id first; ``hub`` is handed to
        ``huggingface_hub.snapshot_download``, as ``revision`` and ``token``. Raises CraftError: neither is there, or a
        file of it is missing, broken or holds no finite number."""
        folder = encoder_folder(pretrained_model_name_or_path, **hub)
        if not (folder / WEIGHTS).is_file():
            inner = folder / "encoder"
            mend = f"; did you mean {inner}?" if (inner / WEIGHTS).is_file() else ""
            what = f"{WEIGHTS} is missing" if folder.is_dir() else "no such folder (one of the hub is OWNER/NAME)"
            raise CraftError(f"no adapted encoder in {folder}: {what}{mend}")
        facts = read_json(folder / "config.json")
        with read_as(folder, "an adapted encoder"):
            state = load_file(folder / WEIGHTS)
            prior = facts.get("token_prior")
            counts = None if prior is None else load_file(folder / Path(str(prior)).name)["counts"]
            grown = (folder / GROWN).read_bytes() if "codebook_growth" in facts else None
        found = cls(state, facts, counts, grown)
        found.place = str(folder)
        return found

    place = "the encoder"
    """Where it was read, for messages."""

    def _save_pretrained(self, save_directory: Path) -> None:
        save_tensors(save_directory / WEIGHTS, self.state)
        with (save_directory / WEIGHTS).open("rb") as file:
            self.config["weights"] = hashlib.file_digest(file, "sha256").hexdigest()
        if self.prior is not None:
            save_tensors(save_directory / PRIOR, {"counts": self.prior})
        if self.growth is not None:
            with fresh_file(save_directory / GROWN) as temporary:
                temporary.write_bytes(self.growth)
        write_json(save_directory / "config.json", self.config)

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """The card in the hub's format, from :attr:`config` alone."""
        return model_card(self.config, self._hub_mixin_info.model_card_data.to_dict())

    def plug_into(self, tower: Tower) -> None:
        """Put the parameters into a tower of the same codebook, or of one that has grown from it, or where there is
        none into the very tower that they were adapted from: a projector then reads the features of one tower, and no
        codewords make two of them alike. Raises CraftError: another codebook or base tower (both hashes named), another
        share of the codebook, or missing, unexpected or misshapen tensors."""
        theirs, own = self.config.get("codebook_hash"), None if tower.quantizer is None else tower.quantizer.hash()
        grown_from = None if tower.quantizer is None else tower.quantizer.grown_from
        if theirs != own and (theirs is None or theirs != grown_from):
            raise CraftError(
                f"{self.place}: adapted to codebook {theirs or 'none'}, this model has {own or 'none'}; "
                f"an encoder only fits models of its own codebook"
            )
        base, base_hash = self.config.get("base"), self.config.get("base_hash")
        if own is None and (base_hash is None or tower.base_hash is None):
            logger.warning(
                "%s does not say which tower it was adapted from: whether it fits this model cannot be checked (its "
                "base is %s)",
                self.place,
                base,
            )
        elif own is None and base_hash != tower.base_hash:
            raise CraftError(
                f"{self.place}: adapted from the tower of {base} ({base_hash}), this model has another "
                f"({tower.base_hash}); without a codebook an encoder only fits models of its own tower"
            )
        share, here = self.config.get("codebook_share", 1.0), 1.0 if tower.quantizer is None else tower.quantizer.share
        if share != here:
            raise CraftError(
                f"{self.place}: adapted to {share:.4g} of the codebook, this model searches {here:.4g} of it; "
                f"take --model.backbone.codebook_share {share:g}"
            )
        parameters = dict(tower.used_parameters())
        if problems := mismatches(parameters, self.state):
            raise CraftError(f"{self.place}: {'; '.join(problems)}")
        if broken := [name for name, value in self.state.items() if not bool(value.isfinite().all())]:
            raise CraftError(f"{self.place}: not finite: {listed(broken)}; its training diverged")
        for name, parameter in parameters.items():
            # In the precision that it was trained in, though the model around it be held in a coarser one.
            dtype = torch.promote_types(parameter.dtype, self.state[name].dtype)
            parameter.data = self.state[name].to(parameter.device, dtype)


def apply_encoder(tower: Tower, name: str | Path) -> tuple[dict[str, Any], Tensor | None]:
    """Plug the encoder of a folder or hub id into a tower; returns its ``config.json``, and its token prior ``[K]`` if
    any. Raises CraftError: see :class:`AdaptedEncoder`."""
    encoder = AdaptedEncoder.from_pretrained(name)
    encoder.plug_into(tower)
    prior = encoder.prior
    if prior is not None and tower.quantizer is not None and len(prior) != tower.quantizer.entries:
        prior = None  # counted before the codebook grew: who needs one counts anew
    return encoder.config, prior


def codebook_of(name: str | Path | None) -> dict[str, Any]:
    """What an encoder of a folder or hub id says of the codebook that it was adapted with, as settings of
    :class:`.vlm_spec.VlmSpec`: the share, and the file of what it grew by; empty for the whole codebook, and without an
    encoder."""
    folder = None if name is None else encoder_folder(name)
    facts = read_json(folder / "config.json") if folder and (folder / "config.json").is_file() else {}
    found = {"codebook_share": facts["codebook_share"]} if "codebook_share" in facts else {}
    return found | ({"codebook_growth": str(folder / GROWN)} if folder and "codebook_growth" in facts else {})


def growth_of(spec: VlmSpec) -> str | None:
    """What a model's codebook has grown by: the file that the spec names, else the one that comes with its encoder."""
    return spec.codebook_growth or codebook_of(spec.encoder).get("codebook_growth")


def check_whole(name: str | Path | None, why: str) -> None:
    """Raises CraftError: an encoder was adapted with a part of its codebook, or with a grown one; ``why`` that is wrong
    here."""
    if told := codebook_of(name):
        said = ", ".join(f"{setting} {value}" for setting, value in told.items())
        raise CraftError(f"{name}: adapted with {said}; {why}")


def write_encoder(
    folder: str | Path,
    state: Mapping[str, Tensor],
    *,
    base: str,
    codebook_hash: str | None,
    method: str,
    base_hash: str | None = None,
    codebook_share: float = 1.0,
    codebook_growth: bytes | None = None,
    dtype: torch.dtype = torch.float32,
    token_prior: Tensor | None = None,
    run: Mapping[str, Any] | None = None,
) -> None:
    """Write an adapted encoder, card included; the folder is replaced as a whole when everything is written.

    Args:
        state: the adapted parameters by the names of :meth:`.tower.Tower.used_parameters`, all of them.
        base: checkpoint that it was adapted from. method: name of the method. dtype: of the stored parameters.
        codebook_hash: SHA-256 of the codebook it was adapted to; None for a continuous tower, whose own is
            ``base_hash``. codebook_share: part of it that was searched. codebook_growth: the file of what it grew by.
        token_prior: ``[K]`` counts of first-level codes on the training split. run: what its training was, for the
            card.
    """
    facts: dict[str, Any] = {"base": base, "codebook_hash": codebook_hash, "dtype": dtype_name(dtype), "method": method}
    facts["library"] = f"craft_lightning {__version__}"
    facts |= {"base_hash": base_hash} if codebook_hash is None else {}
    facts |= {"codebook_share": codebook_share} if codebook_share < 1.0 else {}
    facts |= {"run": dict(run)} if run else {}
    with fresh_folder(folder) as fresh:
        AdaptedEncoder({k: v.to(dtype) for k, v in state.items()}, facts, token_prior, codebook_growth).save_pretrained(
            fresh
        )


def encoder_folder(name: str | Path, **hub: Any) -> Path:
    """The folder of an adapted encoder, which its weight file names, too; a string ``owner/name`` that is no folder
    here is fetched from the hub. Raises CraftError: the hub does not have it, or cannot be reached."""
    folder = Path(name).expanduser()
    folder = folder.parent if folder.name == WEIGHTS else folder
    if folder.is_dir() or isinstance(name, Path) or not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        return folder
    try:
        return Path(snapshot_download(name, allow_patterns=["*.safetensors", "config.json"], **hub))
    except (OSError, ValueError) as error:  # huggingface_hub's are all one of these
        raise CraftError(f"no adapted encoder {name}: no folder here, and from the hub: {first_line(error)}") from error


def model_card(config: Mapping[str, Any], front: Mapping[str, Any]) -> ModelCard:
    """The card of an encoder, in the hub's format, from its :attr:`AdaptedEncoder.config` and the metadata that every
    card of the library has."""
    run: dict[str, Any] = {"settings": {}, "splits": {}, "scores": {}} | config.get("run", {})
    base, dataset, title = str(config.get("base")), run.get("dataset"), run.get("title", run.get("dataset"))
    kind, named = dataset, title
    if run.get("source") == "twin":  # its scores are not those of the dataset that the hub knows by this name
        kind, named, title = f"craft-drawn-{dataset}", f"{title}, drawn", f"drawn {title}"
    items = {name: run["splits"].get(ours) for name, (ours, _) in SPLITS.items() if ours not in run.get("limits", {})}
    results = [
        EvalResult(
            task_type="visual-question-answering",
            dataset_type=str(kind),
            dataset_name=str(named),
            dataset_split=SPLITS[name][1],
            dataset_args={"items": items[name]} if items.get(name) else None,
            metric_type="exact_match",
            metric_value=round(float(value), 4),
        )
        for name, value in run["scores"].items()
        if name in SPLITS
    ]
    results += [
        EvalResult(
            task_type="visual-question-answering",
            dataset_type=f"craft-drawn-{gain['dataset']}" if gain["source"] == "twin" else str(gain["dataset"]),
            dataset_name=gain_title(gain),
            dataset_config=f"{gain['backbone']}, keep {gain['keep']:g}",  # else the hub's format merges the results
            dataset_split="test",
            dataset_args={"items": gain["items"], "backbone": gain["backbone"], "keep": gain["keep"]},
            metric_type="exact_match",
            metric_value=round(gain["after"], 4),
        )
        for gain in config.get("gains", [])
    ]
    source = BACKBONES[base].source if base in BACKBONES else ""
    shipped = source == "pocket"  # with this project, under its licence
    data = ModelCardData(
        **front,
        license="apache-2.0" if shipped else "other",
        license_name=None if shipped else "that-of-the-base-model",
        pipeline_tag="image-text-to-text",
        base_model=source if "/" in source else None,
        model_name=f"{config.get('method')} encoder of {base}",
        eval_results=results or None,
    )
    host = next((name for name in HOSTS.get(source, ()) if name != base), "ANOTHER_MODEL_OF_THIS_CODEBOOK")
    said = {"base": base, "title": title, "items": items, "host": host, "shipped": shipped}
    said |= {"gains": [{**gain, "title": gain_title(gain), **extremes(gain)} for gain in config.get("gains", [])]}
    return ModelCard.from_template(data, CARD, None, config=config, run=run, **said)


def gain_title(gain: Mapping[str, Any]) -> str:
    """The data of a gain as its card names them."""
    name = gain["title"] or gain["dataset"]
    return f"{name}, drawn" if gain["source"] == "twin" else str(name)


def extremes(gain: Mapping[str, Any], most: int = 5) -> dict[str, Any]:
    """The parts of a gain's items, of all kinds, that it is better and worse at, by their intervals: those of the
    largest difference, and their number."""
    parts = sorted((part for parts in gain["parts"].values() for part in parts), key=lambda part: part["difference"])
    worse = [part for part in parts if part["high"] < 0]
    better = [part for part in reversed(parts) if part["low"] > 0]
    return {name: (found[:most], len(found)) for name, found in (("better", better), ("worse", worse))}
