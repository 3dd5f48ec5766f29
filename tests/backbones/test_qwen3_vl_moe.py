"""The mixture of experts of Qwen3-VL: every expert learns, and both layouts of the expert tensors load."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from vlm4vla.backbones import conformance, loading
from vlm4vla.backbones.base import Backbone


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return conformance.tiny("qwen3_vl_moe")


def chosen_experts(backbone: Backbone, call: Callable[[], object]) -> list[torch.Tensor]:
    """The experts of every token (T, 2), layer by layer, while ``call`` runs."""
    chosen: list[torch.Tensor] = []

    def keep(_module: nn.Module, _args: object, output: tuple[torch.Tensor, ...]) -> None:
        chosen.append(output[2])

    handles = [layer.mlp.gate.register_forward_hook(keep) for layer in backbone.model.language_model.layers]
    try:
        call()
    finally:
        for handle in handles:
            handle.remove()
    return chosen


def test_two_of_four_experts_work_on_a_token(backbone: Backbone) -> None:
    images = conformance.pictures(1)
    for experts in chosen_experts(backbone, lambda: conformance.run(backbone, images, ["open the drawer"])):
        assert experts.shape[1] == 2 and (experts[:, 0] != experts[:, 1]).all()
        assert sorted(set(experts.flatten().tolist())) == [0, 1, 2, 3]


def test_every_expert_that_the_query_depends_on_gets_gradient(backbone: Backbone) -> None:
    """The experts of a layer share one tensor, so that the gradient of the tensor alone would not show a dead one.

    In the last layer the readout depends on the query's own experts only; in all others every token counts.
    """
    batch = conformance.batch_of(backbone, conformance.pictures(1), ["open the drawer"])
    backbone.zero_grad(set_to_none=True)

    def train() -> None:
        backbone.readout(batch, conformance.query(backbone)).square().mean().backward()

    *early, last = chosen_experts(backbone, train)
    expected = [sorted(set(experts.flatten().tolist())) for experts in early] + [sorted(last[-1].tolist())]
    assert expected[0] == [0, 1, 2, 3] and len(expected[-1]) == 2
    for layer, experts in zip(backbone.model.language_model.layers, expected, strict=True):
        for weight in (layer.mlp.experts.gate_up_proj, layer.mlp.experts.down_proj):
            assert weight.grad is not None
            assert weight.grad.abs().flatten(1).amax(dim=1).nonzero()[:, 0].tolist() == experts
        assert layer.mlp.gate.weight.grad is not None
        assert (layer.mlp.gate.weight.grad[experts].abs().amax(dim=1) > 0).all()


def test_experts_load_in_the_layout_of_the_hub(backbone: Backbone, tmp_path: Path) -> None:
    """Published: gate_up_proj (experts, D, 2 * inner), down_proj (experts, inner, D); in the model they are turned."""
    tensors = {name: value.contiguous() for name, value in backbone.model.state_dict().items()}
    turned = {n: v.transpose(1, 2).contiguous() if ".mlp.experts." in n else v for n, v in tensors.items()}
    backbone.model.config.save_pretrained(tmp_path)
    backbone.processor.tokenizer.save_pretrained(tmp_path)
    config = backbone.config.model_copy(update={"checkpoint": str(tmp_path), "init": "pretrained"})
    reference = conformance.run(backbone, conformance.pictures(1), ["open it"])
    for layout in (tensors, turned):
        save_file(layout, tmp_path / "model.safetensors", metadata={"format": "pt"})
        loaded = loading.load(config, 1, seed=7).eval()
        assert torch.equal(reference, conformance.run(loaded, conformance.pictures(1), ["open it"]))


def test_a_policy_folder_keeps_the_experts(backbone: Backbone, tmp_path: Path) -> None:
    """Policies are saved in the library's layout, whatever the hub's is."""
    backbone.model.config.save_pretrained(tmp_path)
    backbone.processor.tokenizer.save_pretrained(tmp_path)
    save_file({n: v.contiguous() for n, v in backbone.model.state_dict().items()}, tmp_path / "weights.safetensors")
    weights = load_file(tmp_path / "weights.safetensors")
    loaded = loading.load_saved(backbone.config, tmp_path, 1, weights).eval()
    images = conformance.pictures(1)
    assert torch.equal(*(conformance.run(m, images, ["open it"]) for m in (backbone, loaded)))
