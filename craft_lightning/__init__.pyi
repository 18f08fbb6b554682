from craft_lightning.checkpoints.encoder import AdaptedEncoder as AdaptedEncoder
from craft_lightning.comparison import Comparison as Comparison
from craft_lightning.comparison import compare as compare
from craft_lightning.comparison import run_table as run_table
from craft_lightning.encoder_gain import add_gain as add_gain
from craft_lightning.errors import CraftError as CraftError
from craft_lightning.inference import Reply as Reply
from craft_lightning.inference import VisionLanguageModel as VisionLanguageModel
from craft_lightning.inference import VisualTokenizer as VisualTokenizer
from craft_lightning.methods.base import BaseMethod as BaseMethod
from craft_lightning.methods.craft import Craft as Craft
from craft_lightning.methods.craft_lorsu import CraftLorsu as CraftLorsu
from craft_lightning.methods.ldifs import Ldifs as Ldifs
from craft_lightning.methods.llm_lora import LlmLora as LlmLora
from craft_lightning.methods.lorsu import Lorsu as Lorsu
from craft_lightning.methods.projector_ft import ProjectorFineTuning as ProjectorFineTuning
from craft_lightning.methods.vision_ft import VisionFineTuning as VisionFineTuning
from craft_lightning.methods.zero_shot import ZeroShot as ZeroShot
from craft_lightning.models.vlm_spec import VlmSpec as VlmSpec
from craft_lightning.optim import OptimSpec as OptimSpec
from data_modules.datamodule import VqaDataModule as VqaDataModule
from data_modules.datasets.facts import DatasetFacts as DatasetFacts

__version__: str
