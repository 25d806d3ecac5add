"""Hand in trained weights: put a run's model.pt into checkpoints/ and its entry into the manifest.

    python3 -m engine.publish runs/p2/model.pt --name p2_lite --problem p2 --default --fp16

Afterwards commit checkpoints/, or upload the file and publish again with --url LINK (a share link of Google
Drive or Dropbox will do): get_checkpoints.sh and the inference scripts then fetch it from there.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Sequence

from engine import manifest
from engine.arguments import parser_for
from engine.base import UserError, run_script, write_atomically
from engine.checkpoint import KINDS, TTA_CHOICES, dump, read_model
from engine.run_folder import MODEL

SCORES = {"p1": "accuracy", "p2": "mean_iou"}
GIT_SIZE = 25e6  # bytes of weights that a repository carries well; the course takes files up to 50 MB


def publish(
    source: Path,
    name: str,
    problem: str,
    default: bool = False,
    fp16: bool = False,
    urls: Sequence[str] = (),
    tta: str | None = None,
    score: float | None = None,
) -> dict[str, Any]:
    """Write checkpoints/NAME.pt and its manifest entry, which is returned; an entry of that name is replaced.

    The bytes of `source` are kept, but with `fp16` or `tta` (the test-time augmentation of inference, and the
    `score` measured with it). UserError, and nothing is changed, when anything is wrong.
    """
    manifest.check_name(name)
    for url in urls:
        manifest.check_url(url)
        manifest.direct_url(url)  # refuses a link to a folder
    kind = KINDS[problem]
    if tta not in (None, *TTA_CHOICES[kind]):
        raise UserError(f"--tta {tta} is not for {problem}; choose one of {', '.join(TTA_CHOICES[kind])}")
    if (tta is None) != (score is None):
        measure = f"measure the {SCORES[kind]} of {kind}_inference.py --tta"
        raise UserError(f"--tta and --score go together: {measure}")
    entries = manifest.read()
    old = next((entry for entry in entries if entry["name"].lower() == name.lower()), None)
    if old is not None and old["problem"] != problem:
        raise UserError(f"the name {name} is taken by a checkpoint of {old['problem']}; choose another")

    source = source / MODEL if source.is_dir() else source
    model = read_model(source)
    if model["problem"] != kind:
        raise UserError(f"{source} was trained for {model['problem']}, not for {problem}")
    # New weights under the name of the default stay the default: a wrapper must not lose its checkpoint.
    default = default or (old is not None and old["default"])
    entry = {"name": name, "problem": problem, "default": default, "file": f"{name}.pt"}
    if tta:
        model.update(tta=tta, score={SCORES[kind]: score})
    if fp16:
        model["state"] = halved(model["state"])
    manifest.FOLDER.mkdir(exist_ok=True)
    with write_atomically(manifest.entry_path(entry)) as temporary:
        if fp16 or tta:
            dump(temporary, model)
        else:
            shutil.copyfile(source, temporary)
        entry.update(sha256=manifest.sha256_of(temporary), bytes=temporary.stat().st_size)
        # The old URLs give the old file: they stay only if that is the new one too.
        is_same = old is not None and old["sha256"] == entry["sha256"]
        urls = list(urls) or (old["urls"] if is_same else [])
        entry.update(urls=urls, network=model["network"], score=model["score"])
        others = [other for other in entries if other is not old]
        for other in others:
            other["default"] = other["default"] and not (default and other["problem"] == problem)
        entries = manifest.checked([entry, *others])  # before anything gets its final name
    manifest.write(entries)
    return entry


def halved(state: dict[str, Any]) -> dict[str, Any]:
    """The state with its float tensors in half precision, where that changes little.

    What has one dimension (biases, batch norm's scale and statistics) stays as it is: a running variance of
    1e-6 or 1e5 is none in half precision, and it is a few kB. So does a tensor of which halving changes more
    than a thousandth (ordinary rounding changes 0.0003), and integers.
    """
    import torch

    result = {}
    for key, value in state.items():
        # clone: a view of a larger tensor would be saved with all of it
        result[key] = value = value.detach().clone()
        if value.ndim > 1 and value.dtype in (torch.float32, torch.float64):
            half = value.half()
            if half.isfinite().all() and (half.to(value.dtype) - value).norm() <= 1e-3 * value.norm():
                result[key] = half
    return result


def _report(entry: dict[str, Any]) -> None:
    path = manifest.entry_path(entry)
    role = f"default of {entry['problem']}" if entry["default"] else f"{entry['problem']}, not the default"
    print(f"{entry['name']}: {path} ({role})")
    print(f"network {entry['network']}, score {entry['score']}")
    print(f"sha256 {entry['sha256']}, {entry['bytes']} bytes")
    # Segment Anything's weights (.pth) and unfinished downloads (.part) are never committed.
    files = [
        file for file in manifest.FOLDER.iterdir() if file.is_file() and file.suffix not in (".pth", ".part")
    ]
    total = sum(file.stat().st_size for file in files)
    print(f"checkpoints/ holds {total / 1e6:.1f} MB")
    if total > GIT_SIZE:
        advice = "use --fp16, or upload the file, give --url LINK and leave it out of the commit"
        print(f"warning: more than {GIT_SIZE / 1e6:.0f} MB for git; {advice}")


def main() -> None:
    parser = parser_for(__doc__, prog="python3 -m engine.publish")
    add = parser.add_argument
    add("source", type=Path, metavar="RUN/model.pt", help="a trained model.pt, or its run folder")
    add("--name", required=True, help="the file will be checkpoints/NAME.pt; the same name replaces")
    add("--problem", required=True, choices=KINDS, help="p1_50: the editions with 50 classes")
    add("--default", action="store_true", help="what the problem's wrapper uses from now on")
    add("--fp16", action="store_true", help="half the size: weights in half precision")
    add("--tta", choices=TTA_CHOICES["p2"], help="test-time augmentation to use at inference (p1: no d4)")
    add("--score", type=float, help="the accuracy (p1) or mIoU (p2) measured with --tta")
    mirrors = "where the file can be had; several: mirrors"
    add("--url", action="append", default=[], dest="urls", metavar="URL", help=mirrors)
    try:
        _report(publish(**vars(parser.parse_args())))
    except OSError as error:
        where = error.filename or manifest.FOLDER
        raise UserError(f"{where}: {error.strerror}; nothing was published") from None


if __name__ == "__main__":
    run_script(main)
