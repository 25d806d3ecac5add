"""Turn a classifier trained with labels into a backbone for settings B and D, in the course's own form.

    python3 -m models.export runs/sl/A-seed0/model.pt pretrain_model_SL.pt

The file holds a bare state_dict of torchvision's resnet50 (or resnet18) with its 1000-way fc, float32: the rows beyond
the run's classes are zero. It loads strictly into torchvision.models.resnet50().

Exit status: 0 written; 2 nothing written, the reason is one line on stderr.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any, Sequence

from models.errors import ModelError

NETWORKS = ("resnet50", "resnet18")  # those whose keys are torchvision's
FC_ROWS = 1000


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python3 -m models.export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", metavar="RUN/model.pt", type=Path, help="what p1_finetune.py has trained")
    parser.add_argument("output", metavar="OUTPUT.pt", type=Path, help="the file to write")
    args = parser.parse_args(argv)
    try:
        source = args.model / "model.pt" if args.model.is_dir() else args.model
        if args.output.is_dir() or (args.output.exists() and os.path.samefile(source, args.output)):
            raise ModelError(f"{args.output}: is the model itself or a folder; give another file to write")
        state, classes = exported(source)
        save_whole(state, args.output)
    except OSError as error:
        print(f"error: {error.filename or args.output}: {error.strerror}; nothing was written", file=sys.stderr)
        return ModelError.exit_status
    except ModelError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    print(f"{args.output}: {len(state)} tensors, fc.weight {tuple(state['fc.weight'].shape)}, {classes} classes in it")
    return 0


def exported(path: Path) -> tuple[dict[str, Any], int]:
    """The state_dict with a 1000-way fc made from a model.pt, and how many classes it knows. ModelError for others."""
    import torch
    import torchvision

    try:
        model = torch.load(path, map_location="cpu", weights_only=True)
        name, state = model["network"], {key: value.clone() for key, value in model["state"].items()}
    except OSError:
        raise
    except Exception as error:  # torch.load raises a dozen kinds for a file that is no checkpoint
        reason = str(error).split("\n")[0][:100] or type(error).__name__
        raise ModelError(f"{path}: not a model.pt ({reason}); give RUN/model.pt of p1_finetune.py") from None
    if name not in NETWORKS:
        raise ModelError(f"{path}: a {name}, which has other layers; train with --model {' or '.join(NETWORKS)}")
    network = getattr(torchvision.models, name)(weights=None)
    wanted = network.state_dict()
    for key in ("fc.weight", "fc.bias"):
        rows = state.get(key, torch.zeros(0))
        if rows.shape[1:] == wanted[key].shape[1:] and 0 < len(rows) <= FC_ROWS:
            state[key] = torch.cat([rows, rows.new_zeros(FC_ROWS - len(rows), *rows.shape[1:])])
    classes = len(model["state"].get("fc.bias", ()))
    try:
        network.load_state_dict(state)  # brings half precision back to float32, too
    except RuntimeError as error:
        raise ModelError(f"{path}: its weights are no {name}'s ({' '.join(str(error).split())[:200]})") from None
    return {key: value.detach().contiguous() for key, value in network.state_dict().items()}, classes


def save_whole(state: dict[str, Any], path: Path) -> None:
    """Write with torch.save; the file is whole, or what was there stays. OSError where it cannot be written."""
    import torch

    handle, temporary = tempfile.mkstemp(dir=str(path.parent), prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp's 0600 would hide it from others
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


if __name__ == "__main__":
    sys.exit(main())
