"""What p2_sam.py left in its folder, for the report: the method, its masks, and whether their vote betters
model B.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any, Sequence

from datasets.images import natural_key
from datasets.palette import CLASS_NAMES, SCORED_CLASSES
from engine.run_folder import is_number, read_json
from report.blocks import facts, taken, words
from report.document import Block, Gap, Table, Text
from report.text import one_line

COMMAND = (
    "python3 p2_sam.py --images hw1_data/p2_data/validation/0013_sat.jpg "
    "hw1_data/p2_data/validation/0062_sat.jpg hw1_data/p2_data/validation/0104_sat.jpg --output runs/sam "
    "--vote runs/problem2/model_b/model.pt"
)
FEW_IMAGES = 30  # fewer than this say nothing of others
SCORED = CLASS_NAMES[:SCORED_CLASSES]
SETTINGS = {
    "network": "network",
    "weights": "weights",
    "points_per_side": "points along a side",
    "pred_iou_thresh": "least predicted IoU",
    "stability_score_thresh": "least stability score",
    "box_nms_thresh": "boxes alike from IoU",
    "crop_n_layers": "layers of crops",
}


def sam_blocks(folder: Path | None, figures: Path) -> list[Block]:
    """The answer to the question about SAM; a gap with the command where there is no result."""
    if folder is None:
        return [Gap("There is no result of Segment Anything.", COMMAND)]
    images = [
        read
        for read in map(_read, sorted(folder.glob("*_sam.json"), key=lambda p: natural_key(p.name)))
        if read
    ]
    if not images:
        return [Gap(f"{folder}: no result of p2_sam.py in it.", COMMAND)]
    made_by = images[0]["made_by"]
    blocks: list[Block] = [
        Text(_method(made_by)),
        facts(
            [(label, words(made_by.get(name))) for name, label in SETTINGS.items()],
            "Settings of the mask generator.",
        ),
        *_others(images),
    ]
    sheets = sorted(folder.glob("sheet*.png"), key=lambda path: natural_key(path.name))
    for number, sheet in enumerate(sheets):
        caption = "Image, truth, model B and the masks of SAM, each in a colour of its own with its outline."
        name = "sam" if number == 0 else f"sam_{number + 1}"
        blocks.append(taken(figures, name, sheet.with_suffix(""), caption, "Images beside SAM's masks"))
    if not sheets:
        blocks.append(Gap(f"{folder} has no sheet.png.", COMMAND))
    rows = tuple(map(_row, images))
    blocks.append(
        Table(("image", "masks", "largest", "median"), rows, "Masks by image; sizes are shares of its area.")
    )
    return blocks + _vote(folder / "score.json")


def _method(made_by: dict[str, Any]) -> str:
    points = words(made_by.get("points_per_side"))
    text = (
        f"Segment Anything (Kirillov et al., 2023; {words(made_by.get('network'))}, weights "
        f"{words(made_by.get('weights'))}) was asked for the object at each point of a grid of {points} by "
        f"{points} points. Of the masks that it gave, those were kept that it expects to be right and that "
        "stay the same when cut a little higher or lower"
    )
    alike = made_by.get("box_nms_thresh")
    is_sifted = is_number(alike) and alike < 1
    return text + (", and of masks with nearly the same box the best one." if is_sifted else ".")


def _others(images: Sequence[dict[str, Any]]) -> list[Block]:
    """A remark where not all the images were made like the first."""
    first, *rest = images
    names = [image["name"] for image in rest if image["made_by"] != first["made_by"]]
    if not names:
        return []
    return [
        Text(
            f"These are the settings of {first['name']}; made with others: {one_line(', '.join(names), 200)}."
        )
    ]


def _read(path: Path) -> dict[str, Any] | None:
    """{"name", "made_by", "shares"} of an image: how it was made, and of each mask the share of the image
    that it covers, the smallest first. None where the file is not one of ours."""
    try:
        said = read_json(path)
        image, areas = said["image"], [mask["area"] for mask in said["annotations"]]
        sides = [image["height"], image["width"]]
        if not (isinstance(said["made_by"], dict) and all(is_number(side) and side > 0 for side in sides)):
            return None
        pixels = sides[0] * sides[1]
        if not all(is_number(area) and 0 <= area <= pixels for area in areas):
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return {
        "name": one_line(path.name[: -len("_sam.json")], 60),
        "made_by": said["made_by"],
        "shares": sorted(area / pixels for area in areas),
    }


def _row(image: dict[str, Any]) -> tuple[str, ...]:
    shares = image["shares"]
    if not shares:
        return image["name"], "0", "–", "–"
    return image["name"], f"{len(shares)}", f"{shares[-1]:.1%}", f"{statistics.median(shares):.2%}"


def _vote(path: Path) -> list[Block]:
    """Model B's score beside that of its masks after SAM's vote, where p2_sam.py had both."""
    try:
        said = read_json(path)
        makers = {name: said[name] for name in ("model B", "vote") if _is_share(said[name].get("mean_iou"))}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        makers = {}
    if not makers:
        return [Gap("There is no comparison with model B.", COMMAND)]
    cells = [
        (name, *(f"{found[key]:.4f}" if _is_share(found.get(key)) else "–" for key in ("mean_iou", *SCORED)))
        for name, found in makers.items()
    ]
    blocks: list[Block] = [
        Table(
            ("", "mean IoU", *SCORED),
            tuple(cells),
            "Model B alone, and after each of SAM's masks took the class that most of its pixels have "
            f"({words(said.get('images'))} images; classes that they lack are left out of the mean).",
        )
    ]
    if len(makers) == 2:
        apart = makers["vote"]["mean_iou"] - makers["model B"]["mean_iou"]
        side = "raises" if apart > 0 else "lowers" if apart < 0 else "leaves"
        text = (
            f"The vote {side} the mean IoU of these images {f'by {abs(apart):.4f}' if apart else 'as it is'}"
        )
        images = said.get("images")
        is_few = is_number(images) and images < FEW_IMAGES
        blocks.append(Text(text + ("; so few images say nothing of others." if is_few else ".")))
    return blocks


def _is_share(value: Any) -> bool:
    return is_number(value) and 0 <= value <= 1
