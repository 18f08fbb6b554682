"""CRAFT, Codebook RegulAted Fine-Tuning, and the methods it is compared with, as a Lightning experiment framework.

From Python there is this; each name is imported when it is first used (``help(craft_lightning.compare)`` says more):

use a model
    VisionLanguageModel   from_pretrained(name, encoder=None); ask(image, question, options); tokenize(images)
    VisualTokenizer       the vision tower alone: from_pretrained(name, encoder=None); tokenize(images, keep=1.0)
    AdaptedEncoder        what a run leaves in encoder/: from_pretrained(folder_or_id), save_pretrained, push_to_hub
    Reply                 what ask returns: text, option, likeliest

train one, with a plain lightning.Trainer, which leaves encoder/, result.json and predictions.jsonl in default_root_dir
    Craft, VisionFineTuning, ProjectorFineTuning, Ldifs, LlmLora, ZeroShot, Lorsu, CraftLorsu   the methods
    VqaDataModule         images and questions: a dataset by name, or a folder of your own
    VlmSpec, OptimSpec    which model, at which learning rate
    BaseMethod            what a method of your own derives from
    DatasetFacts          what a dataset of your own is

compare
    compare               runs on the same items: a Comparison, the gain with its interval, by class, what flipped
    add_gain              put what two such runs found on the card of an adapted encoder
    run_table             compute a table (or some rows of it) and return it as a pandas frame

CraftError is every mistake that has one line of explanation. From a shell: python -m craft_lightning --help
"""

import ast as _ast
from importlib import import_module as _import_module
from pathlib import Path as _Path

__version__ = "0.1.0"

_STUB = _ast.parse(_Path(__file__).with_suffix(".pyi").read_text("utf-8")).body
_PLACES = {alias.name: n.module or "" for n in _STUB if isinstance(n, _ast.ImportFrom) for alias in n.names}
"""Where each name is, as ``__init__.pyi`` tells it to static checkers, too; without ``__all__``, help() prints no class
of theirs in full (a LightningModule has hundreds of lines)."""


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(_import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})
