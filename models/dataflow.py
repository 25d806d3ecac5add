"""Which layers of a network follow which, found out by sending an image without numbers through a copy
without numbers.

On PyTorch's meta device tensors have shapes alone: nothing is computed, no random number drawn, and the
network itself is not touched.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Iterator

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from engine.base import UserError
from models.layer_text import is_one_block, role_of, text_of

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
    "interpolate": ("enlarge", "enlargement"),
    "adaptive_avg_pool2d": ("average", "pooling"),
    "mean": ("average", "pooling"),
    "pad": ("pad", "other"),
    "getitem": ("crop", "other"),
}
_ACTIVATIONS = {"relu": "ReLU", "relu6": "ReLU6"}


@dataclass
class Node:
    """A layer, a block of layers that is told as one, or a function between them.

    `inputs` are numbers of nodes.
    """

    name: str  # the module's path, or the function's name
    role: str  # input, convolution, pooling, enlargement, linear, junction, other, output
    layers: list[str]
    shape: tuple[int, ...]  # of what it gives for one image: (C, H, W) or (C,)
    inputs: list[int]
    modules: list[str] = field(default_factory=list)
    parameters: int = 0
    multiply_adds: int = 0


def trace(network: nn.Module, size: int) -> list[Node]:
    """The nodes of `network` for an image of 3 x size x size in the order of their computing, outputs last.

    The auxiliary head is among them. UserError when the network cannot see an image of that size.
    """
    skeleton = without_numbers(network).eval()
    skeleton.training = (
        True  # of the whole alone, which computes its auxiliary head then; its layers stay in eval mode
    )
    tracer = _Tracer(skeleton)
    image = torch.empty(1, 3, size, size, device="meta")
    tracer.remember(image, tracer.add(Node("input", "input", [], (3, size, size), [])))
    try:
        with torch.no_grad(), tracer:
            outputs = skeleton(image)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"the network cannot see images of {size} x {size}: {reason}; give another size"
        ) from None
    outputs = outputs if isinstance(outputs, dict) else {"out": outputs}
    for name, tensor in outputs.items():
        tracer.add(Node(f"output {name}", "output", [], tuple(tensor.shape[1:]), [tracer.origin_of(tensor)]))
    return tracer.nodes


def without_numbers(network: nn.Module) -> nn.Module:
    """A copy of `network` on the meta device.

    It takes no memory: the numbers are left out while copying, not after.
    """
    numbers = {}
    for parameter in network.parameters():
        numbers[id(parameter)] = nn.Parameter(parameter.detach().to("meta"), requires_grad=False)
    for buffer in network.buffers():
        numbers[id(buffer)] = buffer.to("meta")
    return copy.deepcopy(network, numbers)


class _Tracer(TorchFunctionMode):
    """Notes the blocks of a network and the functions between them, and which gives what to which."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.nodes: list[Node] = []
        self._origins: dict[int, int] = {}  # of a tensor, by its id: which node gave it
        self._alive: list[Tensor] = []  # an id is a tensor's own only as long as that lives
        self._is_inside = False
        self._multiply_adds: dict[nn.Module, int] = {}
        for module in network.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
                module.register_forward_hook(self._count)
        for path, module in _blocks(network):
            module.register_forward_pre_hook(self._enter)
            module.register_forward_hook(partial(self._leave, path))

    def add(self, node: Node) -> int:
        self.nodes.append(node)
        return len(self.nodes) - 1

    def remember(self, tensor: Tensor, origin: int) -> None:
        self._origins[id(tensor)] = origin
        self._alive.append(tensor)

    def origin_of(self, tensor: Tensor) -> int:
        return self._origins[id(tensor)]

    def _origins_in(self, values: Any) -> list[int]:
        """The nodes that gave the tensors among `values`, each once, in their order there."""
        found = [self._origins[id(tensor)] for tensor in _tensors(values) if id(tensor) in self._origins]
        return list(dict.fromkeys(found))

    def _enter(self, module: nn.Module, given: tuple) -> None:
        self._is_inside = True

    def _leave(self, path: str, module: nn.Module, given: tuple, result: Tensor) -> None:
        self._is_inside = False
        origins = self._origins_in(given)
        before = self.nodes[origins[0]]
        parameters = sum(parameter.numel() for parameter in module.parameters())
        follows = (
            isinstance(module, _FOLLOWERS) and before.modules and _parent(before.modules[-1]) == _parent(path)
        )
        if isinstance(module, nn.Identity):
            self.remember(result, origins[0])
        elif follows:
            before.layers.append(text_of(module))
            before.modules.append(path)
            before.parameters += parameters
            self.remember(result, origins[0])
        else:
            counted = sum(self._multiply_adds.get(part, 0) for part in module.modules())
            shape = tuple(result.shape[1:])
            node = Node(path, role_of(module), [text_of(module)], shape, origins, [path], parameters, counted)
            self.remember(result, self.add(node))

    def _count(self, module: nn.Module, given: tuple[Tensor], result: Tensor) -> None:
        """Multiply-adds: each weight works once for each place that it is put on, which for a transposed
        convolution is a place of its input."""
        weights = module.weight.numel()
        places = given[0] if isinstance(module, nn.ConvTranspose2d) else result
        self._multiply_adds[module] = weights * (places.numel() // places.shape[1])

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if not self._is_inside and isinstance(result, Tensor):
            self._note(function.__name__.strip("_"), args, (kwargs or {}).get("mode"), result)
        return result

    def _note(self, function: str, given: tuple, mode: str | None, result: Tensor) -> None:
        origins = self._origins_in(given)
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
        layers = [mode] if mode else []  # how an enlargement finds what lies between
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
