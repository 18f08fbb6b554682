"""What the data read of a checkpoint agrees with the model that is loaded from it."""

import shutil

import pytest

from craft_lightning.checkpoints.load import load_vlm
from craft_lightning.models.vlm_spec import VlmSpec
from data_modules.backbone_reader import read_backbone


@pytest.mark.parametrize("name", ["host", "small", "continuous"])
def test_reader_and_model_agree(checkpoints, name):
    spec = VlmSpec(name=str(checkpoints / name))
    reader, vlm = read_backbone(spec), load_vlm(spec)
    assert (reader.side, reader.aspect) == (vlm.image_size, vlm.aspect)
    assert reader.builder.conversation == vlm.conversation
    assert dict(zip(reader.builder.letters, reader.builder.letter_ids, strict=True)) == vlm.letter_ids()


def test_the_size_is_known_without_a_preprocessor_config(checkpoints, tmp_path):
    shutil.copytree(checkpoints / "host", tmp_path / "host")
    (tmp_path / "host" / "vision_tower" / "preprocessor_config.json").unlink()
    assert read_backbone(VlmSpec(name=str(tmp_path / "host"))).side == 32
