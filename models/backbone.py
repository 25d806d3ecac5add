"""Settings B to E: a classifier that starts from somebody's backbone, and may leave it as it is."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from models.errors import ModelError
from models.weights import load_ready_made, state_of_file

HEAD = "fc."  # the new layer, whose weights no backbone brings; all other keys are the backbone's


def start_from(network: nn.Module, name: str, weights: str, backbone: str | None, is_frozen: bool) -> str:
    """Give `network` (built as `name`) a backbone's weights, or without one `weights` as models.weights knows them.

    Returns a line that says where it starts. A frozen backbone is left out of the training.
    """
    if backbone is None:
        return load_ready_made(network, name, weights)
    origin = load_backbone(network, backbone)
    if is_frozen:
        freeze_backbone(network)
    return origin + (", all that is trained" if is_frozen else "")


def load_backbone(network: nn.Module, path: str | Path) -> str:
    """Load everything but the head from a file with the network's own keys; returns a line that says so.

    The file must bring every other key, in the right shape. It may bring a head as well (that of the course's
    pretrain_model_SL.pt has 1,000 classes), which is not taken; anything else in it is refused with a ModelError.
    """
    state = state_of_file(Path(path))
    wanted = {key: value.shape for key, value in network.state_dict().items() if not key.startswith(HEAD)}
    given = {key: value.shape for key, value in state.items() if not key.startswith(HEAD)}
    problems = []
    for what, keys in (
        ("lacks", [key for key in wanted if key not in given]),
        ("has an unknown", [key for key in given if key not in wanted]),
        ("has another shape of", [key for key in wanted if key in given and given[key] != wanted[key]]),
    ):
        if keys:
            problems.append(f"{what} {keys[0]}" + (f" and {len(keys) - 1} more" if len(keys) > 1 else ""))
    if problems:
        raise ModelError(f"{path}: not a backbone of this network: {', '.join(problems)}; is --model the right one?")
    head = [key for key in network.state_dict() if key.startswith(HEAD)]
    missing = network.load_state_dict({key: state[key] for key in wanted}, strict=False).missing_keys
    assert missing == head, f"expected {head} to stay new, but {missing} did"
    return f"{path}: {len(wanted)} tensors loaded; new: {', '.join(head)}"


def freeze_backbone(network: nn.Module) -> None:
    """Let the optimiser see the head alone."""
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name.startswith(HEAD))


def set_training_mode(network: nn.Module, is_frozen: bool) -> None:
    """Training mode; a frozen backbone stays in eval mode, or its batch-norm statistics would drift."""
    network.train(not is_frozen)
    getattr(network, HEAD.rstrip(".")).train()
