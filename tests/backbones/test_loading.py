"""Checkpoints that cannot be right are refused in words: nothing is filled in, dropped or converted silently."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen3VLForConditionalGeneration

from vlm4vla.backbones import conformance, loading
from vlm4vla.backbones._tiny import tiny_tokenizer
from vlm4vla.backbones.base import Backbone
from vlm4vla.schemas import BackboneConfig
from vlm4vla.types import UserError


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return conformance.tiny("qwen3_vl")


@pytest.fixture(scope="module")
def published(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as on the hub: the whole model with its language head, and the tokenizer."""
    folder = tmp_path_factory.mktemp("published")
    whole = Qwen3VLForConditionalGeneration(backbone.model.config)
    whole.model.load_state_dict(backbone.model.state_dict())
    whole.save_pretrained(folder)
    backbone.processor.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(published: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(published, tmp_path / "checkpoint"))


def config(folder: Path | str) -> BackboneConfig:
    return BackboneConfig(family="qwen3_vl", checkpoint=str(folder), init="pretrained", image_size=96)


def edit(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_a_published_checkpoint_loads_exactly(backbone: Backbone, folder: Path) -> None:
    loaded = loading.load(config(folder), 1, seed=7).eval()
    images = conformance.pictures(1)
    assert torch.equal(*(conformance.run(m, images, ["open it"]) for m in (backbone, loaded)))


def test_missing_weights(backbone: Backbone, folder: Path) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    del tensors[next(name for name in tensors if "visual.blocks.0" in name)]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match="lacks 1 of the model's weights"):
        loading.load(config(folder), 1, seed=7)


def test_unexpected_weights(folder: Path) -> None:
    """An adapter that was never merged, say: the library would drop it and say nothing."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors["model.language_model.layers.0.self_attn.q_proj.lora_A.weight"] = torch.zeros(2, 256)
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match="has 1 weights that this model has no place for"):
        loading.load(config(folder), 1, seed=7)


def test_weights_of_another_size(folder: Path) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith("language_model.norm.weight"))
    tensors[name] = torch.ones(128)
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"norm\.weight with shape \(128,\), its config\.json says \(256,\)"):
        loading.load(config(folder), 1, seed=7)


@pytest.mark.parametrize("cut", [0, 1000])
def test_a_broken_download(folder: Path, cut: int) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(UserError, match="cannot be loaded"):
        loading.load(config(folder), 1, seed=7)


def test_a_folder_without_tokenizer(folder: Path) -> None:
    for file in folder.glob("token*"):
        file.unlink()
    with pytest.raises(UserError, match="does not know the special tokens"):
        loading.load(config(folder), 1, seed=7)


def test_a_tokenizer_without_pad_gets_the_familys(backbone: Backbone, folder: Path) -> None:
    plain = json.loads((folder / "tokenizer_config.json").read_text())
    del plain["pad_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(plain))
    assert loading.load(config(folder), 1, seed=7).processor.pad_id == backbone.processor.pad_id


def test_a_configuration_of_another_tokenizer(folder: Path) -> None:
    edit(folder / "config.json", image_token_id=3)
    with pytest.raises(UserError, match="says image_token_id 3, its tokenizer has"):
        loading.load(config(folder), 1, seed=7)


def test_code_of_a_repository_is_never_run(tmp_path: Path) -> None:
    """The library would ask on the terminal whether to run it; here the answer is no, whatever is typed."""
    custom = {"AutoConfig": "evil.EvilConfig", "AutoModel": "evil.EvilModel"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "internvl_chat", "auto_map": custom}))
    (tmp_path / "evil.py").write_text("from pathlib import Path\nPath(__file__).with_name('ran').touch()\n")
    script = f"from vlm4vla.backbones import loading\nloading.read_config({str(tmp_path)!r})"
    done = subprocess.run([sys.executable, "-c", script], input="y\n" * 5, capture_output=True, text=True)
    assert done.returncode != 0 and "UserError" in done.stderr
    assert not list(tmp_path.rglob("ran")) and "[y/N]" not in done.stdout + done.stderr


def test_integer_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    save_file({k: v.to(torch.int8) for k, v in load_file(file).items()}, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match="as I8"):
        loading.load(config(folder), 1, seed=7)


def test_quantised_checkpoint(folder: Path) -> None:
    edit(folder / "config.json", quantization_config={"quant_method": "awq", "bits": 4})
    with pytest.raises(UserError, match="is quantised"):
        loading.load(config(folder), 1, seed=7)


def test_half_precision_checkpoint_loads_as_asked(folder: Path) -> None:
    file = folder / "model.safetensors"
    save_file({k: v.to(torch.float16) for k, v in load_file(file).items()}, file, metadata={"format": "pt"})
    assert {p.dtype for p in loading.load(config(folder), 1, seed=7).parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("key", "value"),
    [("image_mean", [0.48, 0.46, 0.41]), ("image_std", 1.0), ("image_mean", [0.5, 0.5]), ("do_normalize", False)],
)
def test_other_pixels(folder: Path, key: str, value: object) -> None:
    """A fine-tune that changed the normalisation would see shifted colours."""
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_std": [0.5] * 3, key: value}))
    with pytest.raises(UserError, match=f"says {key}"):
        loading.load(config(folder), 1, seed=7)


def test_a_text_only_tokenizer(folder: Path) -> None:
    """Without the family's special tokens the template would be spelled out letter by letter."""
    tiny_tokenizer(("<|endoftext|>", "<|im_end|>"), pad="<|endoftext|>", eos="<|im_end|>").save_pretrained(folder)
    with pytest.raises(UserError, match="does not know the special tokens"):
        loading.load(config(folder), 1, seed=7)


def test_another_kind_of_checkpoint(backbone: Backbone, tmp_path: Path) -> None:
    backbone.model.config.text_config.save_pretrained(tmp_path)
    backbone.processor.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="which no family here runs"):
        loading.load(config(tmp_path), 1, seed=0)


def test_a_checkpoint_of_another_family(tmp_path: Path) -> None:
    other = conformance.tiny("qwen2_5_vl")
    other.model_config.save_pretrained(tmp_path)
    other.processor.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"Set backbone\.family to qwen2_5_vl"):
        loading.load(config(tmp_path), 1, seed=0)


def test_no_checkpoint_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for name in (tmp_path, tmp_path / "none", "nobody/no-such-model"):
        with pytest.raises(UserError, match=r"cannot be loaded.*Possible: a Hugging Face id"):
            loading.load(config(name), 1, seed=0)


def test_no_spare_row(backbone: Backbone, folder: Path) -> None:
    """Every row of the embedding has a token, and the family has no spare one: nothing could mark the query's place."""
    rows = len(backbone.processor.tokenizer)
    plain = json.loads((folder / "config.json").read_text())
    edit(folder / "config.json", text_config={**plain["text_config"], "vocab_size": rows})
    with pytest.raises(UserError, match=f"The embedding has {rows} rows and the tokenizer uses {rows}"):
        loading.load(config(folder), 1, seed=7)


def test_sizes_that_do_not_fit() -> None:
    wrong = BackboneConfig(family="qwen3_vl", checkpoint="preset:tiny", init="scratch", image_size=100)
    with pytest.raises(UserError, match=r"image_size 100 does not fit.*multiples of 32.*image_size to 96"):
        loading.load(wrong, 1, seed=0)


def test_flash_attention_is_refused_where_it_is_not() -> None:
    wanted = conformance.tiny("qwen3_vl").config.model_copy(update={"attention": "flash_attention_2"})
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU: flash attention may be installed")
    with pytest.raises(UserError, match="Possible: sdpa, eager"):
        loading.load(wanted, 1, seed=0)
