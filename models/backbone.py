"""Settings B to E: a classifier that starts from somebody's backbone, and may leave it as it is."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Mapping

from torch import Tensor, nn

from engine.base import UserError
from models.weights import load_pretrained, state_of_file

# The last layer of a file's own network; report001's classifier has a place for it, the others have not.
FC = "fc."


def start_from(network: nn.Module, name: str, weights: str, backbone: str | None, is_frozen: bool) -> str:
    """Give `network` (built as `name`) a backbone's weights, or without one `weights` as models.weights knows
    them.

    Returns a line that says where it starts. A frozen backbone is left out of the training.
    """
    if backbone is None:
        return load_pretrained(network, name, weights)
    origin = load_backbone(network, backbone)
    if is_frozen:
        freeze_backbone(network)
    return origin + (", all that is trained" if is_frozen else "")


def load_backbone(network: nn.Module, path: str | Path) -> str:
    """Load everything but the head from a file with the network's own keys; returns a line that says so.

    The file must bring every other key, in the right shape. It may bring an `fc` as well (that of the
    course's pretrain_model_SL.pt has 1,000 classes), which only a network with such a layer below its head
    takes; without it that layer stays random. Anything else in the file is refused with a UserError.
    """
    ours, given = network.state_dict(), state_of_file(Path(path))
    new = [key for key in ours if key.startswith((head_name(network) + ".", FC))]
    fc = [key for key in new if key.startswith(FC) and not key.startswith(head_name(network) + ".")]
    if all(key in given and given[key].shape == ours[key].shape for key in fc):
        new = [key for key in new if key not in fc]
    state = {key: value for key, value in given.items() if not key.startswith(FC) or key in fc}
    state.update((key, ours[key]) for key in new)
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
    return f"{path}: {len(ours) - len(new)} tensors loaded; new: {', '.join(new)}"


def freeze_backbone(network: nn.Module) -> None:
    """Let the optimiser see the head alone."""
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name.startswith(head_name(network) + "."))


def set_training_mode(network: nn.Module, is_frozen: bool) -> None:
    """Training mode; a frozen backbone stays in eval mode, or its batch-norm statistics would drift."""
    network.train(not is_frozen)
    head_of(network).train()


def head_name(network: nn.Module) -> str:
    """Under which name a classifier has its head, the layers that are new for new classes: its last
    child's.
    """
    return [name for name, _ in network.named_children()][-1]


def head_of(network: nn.Module) -> nn.Module:
    return network.get_submodule(head_name(network))


def with_other_head(network: nn.Module, head: nn.Module) -> dict[str, Tensor]:
    """The state of `network`, but for its head, which is in the state of `head`."""
    return {**network.state_dict(), **head.state_dict(prefix=head_name(network) + ".")}


def backbone_sha256(network: nn.Module, state: Mapping[str, Tensor] | None = None) -> str:
    """The sha256 of every parameter and statistic of the network's backbone; as they are in `state`, if
    given.
    """
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
