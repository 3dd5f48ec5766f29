"""Patches embedded by a matrix product: the library's numbers, parameters and names."""

import copy

import pytest
import torch
from torch import nn

from vlm4vla.backbones._patches import PatchConv3d, as_products


@pytest.mark.parametrize("bias", [True, False])
def test_values_and_gradients_are_those_of_the_convolution(bias: bool) -> None:
    torch.manual_seed(0)
    theirs = nn.Sequential(nn.Conv3d(3, 8, (2, 14, 14), (2, 14, 14), bias=bias))
    ours = copy.deepcopy(theirs)
    as_products(ours)
    assert type(ours[0]) is PatchConv3d
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    patches = torch.randn(5, 3, 2, 14, 14)
    a, b = theirs(patches), ours(patches)
    assert a.shape == b.shape == (5, 8, 1, 1, 1)
    torch.testing.assert_close(a, b)
    a.square().sum().backward()
    b.square().sum().backward()
    for (name, p), (_, q) in zip(theirs.named_parameters(), ours.named_parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, msg=name)


def test_several_patches_at_once_are_convolved() -> None:
    torch.manual_seed(0)
    theirs = nn.Conv3d(3, 8, (1, 4, 4), (1, 4, 4))
    ours = copy.deepcopy(theirs)
    as_products(ours)
    planes = torch.randn(2, 3, 1, 8, 8)
    assert torch.equal(theirs(planes), ours(planes))


@pytest.mark.parametrize("convolution", [nn.Conv3d(2, 2, 3, padding=1), nn.Conv3d(2, 2, 3, groups=2)])
def test_other_convolutions_are_left_alone(convolution: nn.Conv3d) -> None:
    as_products(convolution)
    assert type(convolution) is nn.Conv3d
