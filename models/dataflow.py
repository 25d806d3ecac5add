"""Which layers of a network follow which, and what each is called, found by an image through a copy of it.

Both are on PyTorch's meta device, where tensors have shapes alone: nothing is computed, no random number
drawn, and the network itself is not touched.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Iterator

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from engine.base import UserError

# Modules that are told as one; so are stages, sequences of one kind of block.
_BLOCKS = (
    *("BasicBlock", "Bottleneck", "InvertedResidual"),
    *("_DenseBlock", "_Transition", "ASPPPooling", "PooledContext"),
)
_ROLES = {
    "convolution": (nn.Conv2d,),
    "pooling": (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d),
    "upsampling": (nn.ConvTranspose2d, nn.Upsample),
    "linear": (nn.Linear,),
}
_SHORT = {"BatchNorm1d": "BN", "BatchNorm2d": "BN"}
# Layers that are told with the one before them.
_FOLLOWERS = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.ReLU, nn.ReLU6, nn.Hardswish, nn.Hardsigmoid, nn.Sigmoid),
    *(nn.Dropout, nn.Dropout2d, nn.Flatten),
)
# Functions between layers: what they are called, and what they are.
_FUNCTIONS = {
    "add": ("add", "junction"),
    "mul": ("multiply", "junction"),
    "cat": ("concatenate", "junction"),
    "interpolate": ("upsample", "upsampling"),
    "adaptive_avg_pool2d": ("average", "pooling"),
    "avg_pool2d": ("average", "pooling"),
    "max_pool2d": ("max pool", "pooling"),
    "mean": ("average", "pooling"),
    "pad": ("pad", "other"),
    "getitem": ("crop", "other"),
}
_ACTIVATIONS = {"relu": "ReLU", "relu6": "ReLU6"}


@dataclass
class Node:
    """A layer, a block of layers that is told as one, or a function between them."""

    name: str  # the module's path, or the function's name
    role: str  # input, convolution, pooling, upsampling, linear, junction, other, output
    layers: list[str]
    shape: tuple[int, ...]  # of what it gives for one image: (C, H, W) or (C,)
    inputs: list[int]  # numbers of nodes
    modules: list[str] = field(default_factory=list)
    parameters: int = 0


def count_multiply_adds(skeleton: nn.Module, size: int) -> int:
    """Of a network on the meta device, for one image of 3 x size x size at inference, as PyTorch counts them.

    UserError when the network cannot see an image of that size.
    """
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            skeleton.eval()(torch.empty(1, 3, size, size, device="meta"))
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = f"{' '.join(str(error).split())[:200]}; give another size"
        raise UserError(f"the network cannot see images of {size} x {size}: {reason}") from None
    return counter.get_total_flops() // 2  # which counts a multiply-add as two operations


def trace(skeleton: nn.Module, size: int) -> list[Node]:
    """The nodes of a network on the meta device for an image of 3 x size x size, in the order of computing.

    The auxiliary head is among them, outputs come last. A network may do what is not foreseen here: then
    some error is raised, whichever.
    """
    skeleton.eval()
    skeleton.training = True  # of the whole alone: it computes its auxiliary head then
    tracer = _Tracer(skeleton)
    image = torch.empty(1, 3, size, size, device="meta")
    tracer.remember(image, tracer.add(Node("input", "input", [], (3, size, size), [])))
    with torch.no_grad(), tracer:
        outputs = skeleton(image)
    outputs = outputs if isinstance(outputs, dict) else {"out": outputs}
    for name, tensor in outputs.items():
        origins = tracer.origins_in(tensor)
        if not origins:
            raise LookupError(f"what output {name} is computed from is not known")
        tracer.add(Node(f"output {name}", "output", [], tuple(tensor.shape[1:]), origins))
    return tracer.nodes


def without_numbers(network: nn.Module) -> nn.Module:
    """A copy on the meta device, which takes no memory: numbers are left out while copying, not after."""
    numbers = {}
    for parameter in network.parameters():
        numbers[id(parameter)] = nn.Parameter(parameter.detach().to("meta"), requires_grad=False)
    for buffer in network.buffers():
        numbers[id(buffer)] = buffer.to("meta")
    return copy.deepcopy(network, numbers)


def listed(network: nn.Module) -> list[Node]:
    """The network's parts as they are listed, whatever follows which; those of a sequence one by one."""
    nodes = []
    for name, child in network.named_children():
        parts = {name: child}
        if isinstance(child, (nn.Sequential, nn.ModuleList)):
            parts = {f"{name}.{key}": part for key, part in child.named_children()}
        for path, part in parts.items():
            text = type(part).__name__ if list(part.children()) else text_of(part)
            parameters = sum(parameter.numel() for parameter in part.parameters())
            nodes.append(Node(path, role_of(part), [text], (), [], [path], parameters))
    return nodes


class _Tracer(TorchFunctionMode):
    """Notes the blocks of a network and the functions between them, and which gives what to which."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.nodes: list[Node] = []
        self._origins: dict[int, int] = {}  # of a tensor, by its id: which node gave it
        self._alive: list[Tensor] = []  # an id is a tensor's own only as long as that lives
        self._is_inside = False
        for path, module in _blocks(network):
            module.register_forward_pre_hook(self._enter)
            module.register_forward_hook(partial(self._leave, path))

    def add(self, node: Node) -> int:
        self.nodes.append(node)
        return len(self.nodes) - 1

    def remember(self, tensor: Tensor, origin: int) -> None:
        self._origins[id(tensor)] = origin
        self._alive.append(tensor)

    def origins_in(self, values: Any) -> list[int]:
        """The nodes that gave the tensors among `values`, each once, in their order there."""
        found = [self._origins[id(tensor)] for tensor in _tensors(values) if id(tensor) in self._origins]
        return list(dict.fromkeys(found))

    def _enter(self, module: nn.Module, given: tuple) -> None:
        self._is_inside = True

    def _leave(self, path: str, module: nn.Module, given: tuple, result: Tensor) -> None:
        self._is_inside = False
        origins = self.origins_in(given)
        before = self.nodes[origins[0]]
        parameters = sum(parameter.numel() for parameter in module.parameters())
        is_beside = before.modules and _parent(before.modules[-1]) == _parent(path)
        if isinstance(module, nn.Identity):
            self.remember(result, origins[0])
        elif isinstance(module, _FOLLOWERS) and is_beside:
            before.layers.append(text_of(module))
            before.modules.append(path)
            before.parameters += parameters
            self.remember(result, origins[0])
        else:
            shape = tuple(result.shape[1:])
            node = Node(path, role_of(module), [text_of(module)], shape, origins, [path], parameters)
            self.remember(result, self.add(node))

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if not self._is_inside and isinstance(result, Tensor):
            self._note(function.__name__.strip("_"), args, (kwargs or {}).get("mode"), result)
        return result

    def _note(self, function: str, given: tuple, mode: str | None, result: Tensor) -> None:
        origins = self.origins_in(given)
        if not origins:
            return
        before = next(tensor for tensor in _tensors(given) if id(tensor) in self._origins)
        is_reshaped = result.ndim < before.ndim and result.numel() == before.numel()
        if len(origins) == 1 and (result.shape == before.shape or is_reshaped):
            if function in _ACTIVATIONS:
                self.nodes[origins[0]].layers.append(_ACTIVATIONS[function])
            self.remember(result, origins[0])
            return
        name, role = _FUNCTIONS.get(function, (function, "other"))
        layers = [mode] if mode else []  # how an upsampling finds what lies between
        self.remember(result, self.add(Node(name, role, layers, tuple(result.shape[1:]), origins)))


def _blocks(network: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The outermost modules that are told as one block, by their paths."""
    for name, child in network.named_children():
        if is_one_block(child):
            yield path + name, child
        else:
            yield from _blocks(child, f"{path}{name}.")


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from _tensors(value)


def _parent(path: str) -> str:
    return path.rpartition(".")[0]


# -- what layers are called ----------------------------------------------------------------------------------


def is_one_block(module: nn.Module) -> bool:
    children = list(module.children())
    if not children:
        return not isinstance(module, (nn.ModuleDict, nn.ModuleList, nn.Sequential))  # those are empty ones
    is_stage = isinstance(module, nn.Sequential) and all(list(child.children()) for child in children)
    return type(module).__name__ in _BLOCKS or (is_stage and len({type(child) for child in children}) == 1)


def role_of(module: nn.Module) -> str:
    if list(module.children()):
        has_convolution = any(isinstance(part, nn.Conv2d) for part in module.modules())
        return "convolution" if has_convolution else "other"
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
        return f"average of all · {text_of(convolutions[0])} · upsample"
    if name == "PooledContext":
        bins = ", ".join(_square((count, count)) for count in module.bins)
        return f"beside its averages over {bins} bins · {text_of(convolutions[-1])}"
    if name == "InvertedResidual":
        kernel = next(m.kernel_size for m in convolutions if m.groups > 1)
        return f"inverted residual {_square(kernel)}, {convolutions[-1].out_channels}" + _dilation(module)
    if isinstance(module, nn.Sequential) and type(module[0]) is nn.Sequential:
        return " · ".join(map(text_of, convolutions))
    if isinstance(module, nn.Sequential):
        cardinality = max((m.groups for m in convolutions if m.groups < m.in_channels), default=1)
        groups = f", {cardinality} groups" if cardinality > 1 else ""
        return f"{len(module)} × {type(module[0]).__name__}{groups}" + _dilation(module)
    return name


def _details(convolution: nn.Conv2d) -> str:
    stride = f", stride {convolution.stride[0]}" if convolution.stride[0] > 1 else ""
    groups = ", depthwise" if 1 < convolution.groups == convolution.in_channels else ""
    return stride + _dilation(convolution) + groups


def _dilation(module: nn.Module) -> str:
    """The largest dilation of a layer or block, if it has any."""
    largest = max((m.dilation[0] for m in module.modules() if isinstance(m, nn.Conv2d)), default=1)
    return f", dilation {largest}" if largest > 1 else ""


def _square(size: int | tuple[int, int]) -> str:
    height, width = size if isinstance(size, tuple) else (size, size)
    return f"{height}×{width}"


def shape_text(shape: list[int]) -> str:
    return " × ".join(map(str, shape))


def short_count(parameters: int) -> str:
    """Three digits: 784, 38.7 k, 16.8 M; nothing for none."""
    if parameters < 1000:
        return str(parameters or "")
    unit, size = ("M", 1e6) if parameters >= 999_500 else ("k", 1e3)
    return f"{parameters / size:#.3g}".rstrip(".") + f" {unit}"
