"""Turn a classifier trained with labels into a backbone for settings B and D, in the course's own form.

    python3 -m engine.export runs/sl/A-seed0/model.pt pretrain_model_SL.pt

The file holds a bare state_dict of torchvision's resnet50 (or resnet18) with its 1000-way fc, float32: the
rows beyond the run's classes are zero. It loads strictly into torchvision.models.resnet50().
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from engine import checkpoint
from engine.arguments import parser_for
from engine.base import UserError, run_script
from engine.run_folder import MODEL

NETWORKS = ("resnet50", "resnet18")  # those whose keys are torchvision's
FC_ROWS = 1000


def export(source: Path, output: Path) -> dict[str, Any]:
    """Write the state_dict of the model.pt `source` to `output`, and return it. UserError, and nothing is
    written, when it is another network's or the file cannot be written."""
    source = source / MODEL if source.is_dir() else source
    if output.is_dir() or (output.exists() and source.exists() and os.path.samefile(source, output)):
        raise UserError(f"{output}: is a folder or the model itself; give another file to write")
    state = torchvision_state(checkpoint.read_model(source), source)
    checkpoint.save(output, state)
    return state


def torchvision_state(model: dict[str, Any], source: Path) -> dict[str, Any]:
    """The weights of a model.pt as torchvision's network of that name has them, with 1,000 classes."""
    import torch
    import torchvision

    name, state = model["network"], dict(model["state"])
    if name not in NETWORKS:
        advice = f"train with --model {' or '.join(NETWORKS)}"
        raise UserError(f"{source}: a {name}, which has other layers; {advice}")
    network = getattr(torchvision.models, name)(weights=None)
    for key in ("fc.weight", "fc.bias"):
        rows = state.get(key, torch.zeros(0))
        if rows.ndim and 0 < len(rows) <= FC_ROWS:
            state[key] = torch.cat([rows, rows.new_zeros(FC_ROWS - len(rows), *rows.shape[1:])])
    try:
        network.load_state_dict(state)  # brings half precision back to float32, too
    except RuntimeError as error:
        raise UserError(f"{source}: its weights are no {name}'s ({str(error)[:200]})") from None
    return dict(network.state_dict())


def main() -> None:
    parser = parser_for(__doc__, prog="python3 -m engine.export")
    add = parser.add_argument
    add("model", metavar="RUN/model.pt", type=Path, help="what p1_finetune.py has trained, or its folder")
    add("output", metavar="OUTPUT.pt", type=Path, help="the file to write")
    args = parser.parse_args()
    state = export(args.model, args.output)
    print(f"{args.output}: {len(state)} tensors, fc.weight {tuple(state['fc.weight'].shape)}")


if __name__ == "__main__":
    run_script(main)
