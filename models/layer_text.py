"""What a layer or a block of layers is called in a description, in a few words."""

from __future__ import annotations

from torch import nn

# Modules that are told as one; so are stages, sequences of one kind of block.
_BLOCKS = (
    "BasicBlock",
    "Bottleneck",
    "InvertedResidual",
    "_DenseBlock",
    "_Transition",
    "ASPPPooling",
    "PooledContext",
)
_ROLES = {
    "convolution": (nn.Conv2d,),
    "pooling": (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d),
    "enlargement": (nn.ConvTranspose2d, nn.Upsample),
    "linear": (nn.Linear,),
}
_SHORT = {"BatchNorm1d": "BN", "BatchNorm2d": "BN"}


def is_one_block(module: nn.Module) -> bool:
    children = list(module.children())
    if not children:
        return not isinstance(module, (nn.ModuleDict, nn.ModuleList, nn.Sequential))  # those are empty ones
    is_stage = isinstance(module, nn.Sequential) and all(list(child.children()) for child in children)
    return type(module).__name__ in _BLOCKS or (is_stage and len({type(child) for child in children}) == 1)


def role_of(module: nn.Module) -> str:
    if list(module.children()):
        return "convolution"
    return next((role for role, kinds in _ROLES.items() if isinstance(module, kinds)), "other")


def text_of(module: nn.Module) -> str:
    """`Conv 3×3, 64`; what is not said has its usual value: stride 1, dilation 1, same size."""
    if isinstance(module, nn.ConvTranspose2d):
        padding = f", padding {module.padding[0]}" if module.padding[0] else ""
        kernel = _square(module.kernel_size)
        return f"ConvTranspose {kernel}, {module.out_channels}, stride {module.stride[0]}{padding}"
    if isinstance(module, nn.Conv2d):
        return f"Conv {_square(module.kernel_size)}, {module.out_channels}" + _details(module)
    if isinstance(module, nn.Linear):
        return f"Linear {module.in_features} → {module.out_features}"
    if isinstance(module, nn.MaxPool2d):
        return f"MaxPool {_square(module.kernel_size)}, stride {module.stride}"
    if isinstance(module, nn.AdaptiveAvgPool2d):
        return f"average to {_square(module.output_size)}"
    if isinstance(module, nn.Upsample):
        return f"{module.mode}, {int(module.scale_factor)} times as large"
    if isinstance(module, (nn.Dropout, nn.Dropout2d)):
        return f"{type(module).__name__} {module.p}"
    if not list(module.children()):
        return _SHORT.get(type(module).__name__, type(module).__name__)
    return _text_of_block(module)


def _text_of_block(module: nn.Module) -> str:
    name, convolutions = type(module).__name__, [m for m in module.modules() if isinstance(m, nn.Conv2d)]
    if name == "_DenseBlock":
        return f"{len(module)} × dense layer, {convolutions[-1].out_channels} new channels each"
    if name == "_Transition":
        return f"{text_of(convolutions[0])} · AvgPool 2×2, stride 2"
    if name == "ASPPPooling":
        return f"average of all · {text_of(convolutions[0])} · enlarge"
    if name == "PooledContext":
        bins = ", ".join(_square((count, count)) for count in module.bins)
        return f"beside its averages over {bins} bins · {text_of(convolutions[-1])}"
    if name == "InvertedResidual":
        kernel = next(m.kernel_size for m in convolutions if m.groups > 1)
        return f"inverted residual {_square(kernel)}, {convolutions[-1].out_channels}" + _dilation(module)
    if isinstance(module, nn.Sequential) and type(module[0]) is nn.Sequential:
        return " · ".join(map(text_of, convolutions))
    if isinstance(module, nn.Sequential):
        cardinality = max(m.groups for m in convolutions)
        groups = f", {cardinality} groups" if cardinality > 1 else ""
        return f"{len(module)} × {type(module[0]).__name__}{groups}" + _dilation(module)
    return name


def _details(convolution: nn.Conv2d) -> str:
    stride = f", stride {convolution.stride[0]}" if convolution.stride[0] > 1 else ""
    groups = ", depthwise" if 1 < convolution.groups == convolution.in_channels else ""
    return stride + _dilation(convolution) + groups


def _dilation(module: nn.Module) -> str:
    """The largest dilation of a layer or block, if it has any."""
    dilations = [m.dilation[0] for m in module.modules() if isinstance(m, nn.Conv2d)]
    return f", dilation {max(dilations)}" if max(dilations) > 1 else ""


def _square(size: int | tuple[int, int]) -> str:
    height, width = size if isinstance(size, tuple) else (size, size)
    return f"{height}×{width}"
