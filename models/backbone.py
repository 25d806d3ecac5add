"""A classifier as backbone and head: the backbone is somebody's and may stay as it is (settings B to E), and
what it gives the head for an image can be looked at."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from engine.base import UserError, say
from models.classifiers import head_name, head_of
from models.predict import predict_images
from models.weights import load_pretrained, state_of_file, unwrapped

# The last layer of a file's own network; report001's classifier has a place for it, the others have not.
FC = "fc."


def start_from(network: nn.Module, name: str, weights: str, backbone: str | None, is_frozen: bool) -> str:
    """Give `network` (built as `name`) a backbone's weights, or without one `weights` as models.weights knows
    them; returns a line that says so. A frozen backbone is left out of the training.
    """
    if backbone is None:
        return load_pretrained(network, name, weights)
    origin = load_backbone(network, backbone)
    if is_frozen:
        freeze_backbone(network)
    return origin + (", all that is trained" if is_frozen else "")


def load_backbone(network: nn.Module, path: str | Path) -> str:
    """Load everything but the head from a file with the network's own keys; returns a line that says so.

    The file, without wrappings (`models.weights.unwrapped`), must bring every other key in the right shape
    (of batch norms' num_batches_tracked, which old files lack, none). It may bring an `fc` of 1,000 classes
    as the course's does, which a network takes that has one below its head. Else UserError.
    """
    ours = network.state_dict()
    given = unwrapped(state_of_file(Path(path)), ours)
    new = [key for key in ours if key.startswith((head_name(network) + ".", FC))]
    fc = [key for key in new if key.startswith(FC) and not key.startswith(head_name(network) + ".")]
    if all(key in given and given[key].shape == ours[key].shape for key in fc):
        new = [key for key in new if key not in fc]
    state = {key: value for key, value in given.items() if not key.startswith(FC) or key in fc}
    state.update((key, ours[key]) for key in new)
    uncounted = [key for key in ours if key.endswith("num_batches_tracked") and key not in state]
    state.update((key, ours[key]) for key in uncounted)
    problems = [
        f"{what} {keys[0]}" + (f" and {len(keys) - 1} more" if len(keys) > 1 else "")
        for what, keys in (
            ("lacks", [key for key in ours if key not in state]),
            ("has an unknown", [key for key in state if key not in ours]),
            ("has another shape of", [k for k in ours if k in state and state[k].shape != ours[k].shape]),
        )
        if keys
    ]
    if problems:
        raise UserError(
            f"{path}: not a backbone of this network: {', '.join(problems)}; is --model the right one?"
        )
    if not all(value.isfinite().all() for value in state.values()):
        raise UserError(
            f"{path}: holds numbers that are not finite, from a training that failed; give another file"
        )
    network.load_state_dict(state)
    return f"{path}: {len(ours) - len(new) - len(uncounted)} tensors loaded; new: {', '.join(new)}"


def freeze_backbone(network: nn.Module) -> None:
    """Let the optimiser see the head alone."""
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name.startswith(head_name(network) + "."))


def set_training_mode(network: nn.Module, is_frozen: bool) -> None:
    """Training mode; a frozen backbone stays in eval mode, or its batch-norm statistics would drift."""
    network.train(not is_frozen)
    head_of(network).train()


def with_other_head(network: nn.Module, head: nn.Module) -> dict[str, Tensor]:
    """The state of `network`, but for its head, which is in the state of `head`."""
    return {**network.state_dict(), **head.state_dict(prefix=head_name(network) + ".")}


def backbone_sha256(network: nn.Module, state: Mapping[str, Tensor] | None = None) -> str:
    """The sha256 of all parameters and statistics of the network's backbone, or of the one in `state`."""
    digest = hashlib.sha256()
    for key, value in sorted((network.state_dict() if state is None else state).items()):
        if not key.startswith(head_name(network) + "."):
            digest.update(f"{key} {tuple(value.shape)} {value.dtype}\n".encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def prove_unchanged(network: nn.Module, model: Path, before: str) -> None:
    """The backbone's sha256 is still what it was `before` the training, in the network and in the file
    RUN/model.pt; else UserError."""
    if {backbone_sha256(network), backbone_sha256(network, state_of_file(model))} != {before}:
        raise UserError(
            f"{model.parent}: the backbone has changed, which it must not; its scores are worth nothing"
        )


# -- features ------------------------------------------------------------------------------------------------


def penultimate(network: nn.Module, images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(B, 3, S, S) uint8 images → what the head's last linear layer is given (B, features), float32.

    UserError when the head has no linear layer.
    """
    linear = [module for module in head_of(network).modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise UserError(
            f"{type(network).__name__} has no linear layer at its end, so no penultimate one to look at"
        )
    return given_to(linear[-1], network, images, mean, std)


def given_to(
    layer: nn.Module, network: nn.Module, images: Tensor, mean: Sequence[float], std: Sequence[float]
) -> Tensor:
    """(B, 3, S, S) uint8 images → what `layer` of `network`, in eval mode, is given for them, float32."""
    inputs: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda module, given: inputs.append(given[0]))
    try:
        predict_images(network.eval(), images, mean, std)
    finally:
        hook.remove()
    return inputs[-1].float()


class HeadInputs(torch.utils.data.Dataset):
    """What the head of a frozen network is given for each of `images`, computed once: heads train fast on it.

    `images` has `batches(size)` of (B, 3, S, S) uint8 and labels (B), and `labels` of all.
    """

    def __init__(
        self, images, network: nn.Module, mean: Sequence[float], std: Sequence[float], device: torch.device
    ):
        head = head_of(network)
        say(f"computing the features of {len(images)} images, once")
        batches = (batch.to(device) for batch, _ in images.batches(64))
        # (N, features); no more a tensor of inference mode, which can't be trained on
        self.values = torch.cat([given_to(head, network, batch, mean, std).cpu() for batch in batches])
        self.labels = torch.as_tensor(images.labels)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
        """(epoch, position, sample) → (features,) and label, the same in every epoch."""
        return self.values[key[2]], self.labels[key[2]]

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        yield from zip(self.values.split(size), self.labels.split(size))


def head_inputs(
    network: nn.Module, data, backbone: str, mean: Sequence[float], std: Sequence[float], device: torch.device
) -> list[HeadInputs]:
    """What the head is given for `data.as_inference_sees` and `data.validation`: the same in every epoch and
    for every seed, so `data.computed` keeps it for each `backbone` (by its sha256).
    """
    if backbone not in data.computed:
        data.computed[backbone] = [
            HeadInputs(images, network, mean, std, device)
            for images in (data.as_inference_sees, data.validation)
        ]
    return data.computed[backbone]
