"""Qwen2.5-VL alone: windows in the vision encoder, and token types that the library does not ask for."""

import pytest
import torch
from torch import Tensor, nn

from vlm4vla.backbones import conformance
from vlm4vla.backbones.base import Backbone


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return conformance.tiny("qwen2_5_vl")


def test_missing_token_types_are_wrong_silently(backbone: Backbone) -> None:
    """Without ``mm_token_type_ids`` the library counts plain positions, without a word."""
    query = conformance.query(backbone)
    batch = conformance.batch_of(backbone, conformance.pictures(1), ["open the drawer"])
    right = backbone.readout(batch, query)
    without = {name: value for name, value in batch.items() if name != "mm_token_type_ids"}
    assert float((right - backbone.readout(without, query)).detach().abs().max()) > 1e-2


def test_one_layer_sees_windows_and_one_the_whole_picture(backbone: Backbone) -> None:
    """At 96 pixels there are four windows of 16, 8, 8 and 4 patches; measured by gradients at the first one."""
    visual = backbone.model.visual
    batch = conformance.batch_of(backbone, conformance.pictures(1), ["push"])
    pixels = batch["pixel_values"].requires_grad_()
    outputs: list[Tensor] = []

    def keep(_module: nn.Module, _args: object, output: Tensor) -> None:
        outputs.append(output)

    handles = [block.register_forward_hook(keep) for block in visual.blocks]
    try:
        visual(pixels, grid_thw=batch["image_grid_thw"])
    finally:
        for handle in handles:
            handle.remove()
    # Four patches make a merged cell, nine cells the plane: cells 0, 1, 3 and 4 are the first window.
    window = {4 * cell + i for cell in (0, 1, 3, 4) for i in range(4)}
    assert [seen_by_first(output, pixels) for output in outputs] == [window, set(range(36))]


def seen_by_first(output: Tensor, pixels: Tensor) -> set[int]:
    """Patches that have an influence on the first row of a layer's output."""
    weights = torch.randn(output.shape[-1], generator=torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad((output[0] * weights).sum(), pixels, retain_graph=True)
    return set(gradient.abs().amax(dim=-1).nonzero()[:, 0].tolist())
