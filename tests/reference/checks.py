"""Checks of the reference models against the originals, run before any fixture is made."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import seed_model
import shallow_model
import vit
from layouts import State, native_from_notebook

TOLERANCE = 1e-12  # float64: only the order of sums differs


def require_close(what: str, got: Tensor, expected: Tensor, tolerance: float = TOLERANCE) -> None:
    """Fail unless the largest difference is within `tolerance` of the largest entry."""
    difference = (got - expected).abs().max() / expected.abs().max()
    if not difference <= tolerance:
        raise AssertionError(f"{what}: relative difference {difference:.3g}, expected at most {tolerance:g}")


def gradients(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, State]:
    """The output, and the gradient of the mean cross entropy for each parameter."""
    model.zero_grad()
    output = model(images)
    F.cross_entropy(output, labels).backward()
    return output.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def check_preset(preset: str) -> None:
    """`vit` equals the notebook's implementation of the preset: state_dict, output and every gradient."""
    torch.manual_seed(0)
    config = vit.PRESETS[preset]
    theirs = shallow_model.set_dropout(shallow_model.seed_style(preset), 0.0).double()
    ours = vit.VisionTransformer(config).double()
    ours.load_state_dict(native_from_notebook(theirs.state_dict(), config), strict=True)
    images, labels = torch.randn(8, 1, 28, 28, dtype=torch.float64), torch.arange(8)
    expected, expected_gradients = gradients(theirs, images, labels)
    output, ours_gradients = gradients(ours, images, labels)
    require_close(f"{preset}: output", output, expected)
    if ours_gradients.keys() != ours.state_dict().keys():
        raise AssertionError(f"{preset}: a parameter has no gradient")
    for name, gradient in native_from_notebook(expected_gradients, config).items():
        require_close(f"{preset}: gradient of {name}", ours_gradients[name], gradient)


def check_attention() -> None:
    """`vit.Attention` over head_dim equals torch.nn.MultiheadAttention, whose `in_proj` stacks q, k and v as ours."""
    torch.manual_seed(0)
    config = replace(vit.SHALLOW, qkv_bias=True)
    ours = vit.Attention(config).double()
    theirs = nn.MultiheadAttention(config.dim, config.heads, batch_first=True, dtype=torch.float64)
    renamed = {name.replace("qkv.", "in_proj_").replace("proj.", "out_proj."): p for name, p in ours.state_dict().items()}
    theirs.load_state_dict(renamed, strict=True)
    xs = torch.randn(2, 5, config.dim, dtype=torch.float64)
    require_close("attention", ours(xs), theirs(xs, xs, xs, need_weights=False)[0])


def check_patch_embed() -> None:
    """`vit.PatchEmbed` of patches equals the convolution whose parameters it holds."""
    torch.manual_seed(0)
    config = replace(vit.SHALLOW, image=vit.Image(8, 18, 3), patch=vit.Patch(4, 6))
    embed = vit.PatchEmbed(config).double()
    images = torch.randn(2, 3, 8, 18, dtype=torch.float64)
    convolved = embed.proj(images).flatten(2).transpose(1, 2)
    require_close("patch embedding", embed(vit.patchify(images, config.patch)), convolved)


def check_notebook_parameters() -> None:
    """The preset has the notebook's 41,418 parameters."""
    count = sum(parameter.numel() for parameter in seed_model.VisionTransformer(49, 32).parameters())
    if count != 41_418:
        raise AssertionError(f"notebook: {count} parameters, expected 41418")


def check_all() -> None:
    """Every check of this file."""
    check_notebook_parameters()
    check_patch_embed()
    check_attention()
    for preset in vit.PRESETS:
        check_preset(preset)


if __name__ == "__main__":
    check_all()
    print("the reference agrees with the notebook and with PyTorch's own layers")
