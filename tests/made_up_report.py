"""A report with all in it that may go wrong: long tables, wide and tall pictures, gaps, hostile names,
Chinese.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw

from report.document import Gap, Picture, Problem, Question, Report, Table, Text

HOSTILE = [
    "<script>alert(1)</script>",
    '#panic("x")',
    "$ x_1^2 $ \\alpha @label <label>",
    '"]) #read("/etc/passwd") // [\'',
    "*a* _b_ `c` ~ -- ... = + /* */ {{ 7 * 7 }} {% raw %} &amp; &#60;",
    "https://example.org/a?b=c",
    "\u202egpj.exe\u2066 \x00\x1b[31m\ud800",
    "w" * 300,
    "王小明",
]
LETTERS = {
    "A": "random weights",
    "B": "supervised (p1/pretrained.pt)",
    "C": "own SSL (backbone.pt)",
    "D": "supervised, frozen",
    "E": "own SSL, frozen",
}
COLOURS = {
    "urban": "#00ffff",
    "agriculture": "#ffff00",
    "rangeland": "#ff00ff",
    "forest": "#00ff00",
    "water": "#0000ff",
    "barren": "#ffffff",
    "unknown": "#000000",
}
WORDS = """The backbone is **trained** with *BYOL* for `300` epochs.
這是第一行，
這是第二行。

### What I saw

- the loss falls,
- and the score *rises*:
  1. by 3 %,
  2. by 5 %.

> A quotation of two lines
> of somebody.

```python
if loss < 0.1:   # <b>not bold</b> #panic("x")
    print("$")
```

---

<img src="http://example.org/x.png"> [a link](http://example.org) ![a picture](http://example.org/y.png)
"""


def save_picture(folder: Path, name: str, inches: tuple[float, float]) -> None:
    """A picture as report.style saves them, 150 dots an inch, by Pillow: twenty times as fast."""
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    width, height = (round(150 * side) for side in inches)
    image = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(image)
    pen.rectangle((10, 10, width - 10, height - 10), outline="black", width=3)
    pen.line((20, height - 20, width - 20, 20), fill="#0072B2", width=6)
    pen.text((40, 40), f"{name}: the frame is whole", fill="black", font_size=21)
    image.save(folder / "figures" / f"{name}.png")
    image.save(folder / "figures" / f"{name}.pdf", resolution=150)


def settings_table() -> Table:
    columns = (
        "",
        "starts from",
        "fine-tuned",
        "seeds",
        "best accuracy",
        "accuracy, last epoch",
        "best epoch",
    )
    columns += ("minutes", "standard error", "top-5", "images/s", "parameters", "learning rate")
    rows = [
        (letter, start, "whole network", "3", "0.5000 ± 0.1000", "0.3667 ± 0.0577", "2, 1, 2")
        + ("1.5", "0.0500", "0.8125", "1234.5", "23,508,032", "0.0005")
        for letter, start in LETTERS.items()
    ]
    return Table(
        columns, tuple(rows), "Settings A to E on the validation images, mean ± deviation over seeds.", 3
    )


def classes_table() -> Table:
    rows = [
        (f"{n}", f"class {n} 類別", f"{n / 50:.4f}", f"{n}", "words that explain " * 3) for n in range(50)
    ]
    return Table(("", "class", "accuracy", "images", "remark"), tuple(rows), "All fifty classes.", 2)


def iou_table() -> Table:
    rows = (("A", *["0.1234"] * 7, "0.4321"), ("B, DeepLabV3", *["0.7234"] * 7, "0.7321"))
    return Table(
        ("network", *COLOURS, "mean"), rows, "IoU of each class.", 1, (None, *COLOURS.values(), None)
    )


def hostile_table() -> Table:
    return Table(tuple(HOSTILE[:4]), tuple((text, text, "1", "2") for text in HOSTILE), HOSTILE[0], 2)


def made_up_report(folder: Path) -> Report:
    """The report, with its pictures written below `folder`, unless they are there."""
    for name, inches in (("usual", (6.4, 4)), ("wide", (15.6, 4.6)), ("tall", (5, 14)), ("square", (9, 9))):
        if not (folder / "figures" / f"{name}.pdf").exists():
            save_picture(folder, name, inches)
    first = (
        Question(
            "1.1",
            "Self-supervised pre-training",
            5,
            "Describe the implementation details of your SSL method for pre-training the ResNet50 backbone, "
            "with method, augmentation, schedule, optimizer and batch size.",
            (
                Text(
                    "The backbone was trained with BYOL on 38,400 images without labels, 300 epochs, batches "
                    "of 256. " * 3
                ),
                Table(
                    ("setting", "value"),
                    (("method", "BYOL"), ("epochs", "300"), ("lr", "0.0003")),
                    "The run.",
                    1,
                ),
                Picture("usual", "Loss of the pre-training run, and kNN accuracy.", "Two curves that fall"),
            ),
        ),
        Question(
            "1.2",
            "Settings A to E",
            20,
            "Conduct the image classification on Office-Home and compare.",
            (settings_table(), Picture("wide", "All curves side by side.", "Curves"), classes_table()),
        ),
        Question(
            "1.3",
            "t-SNE",
            10,
            "Visualize the learned representation.",
            (
                Gap(
                    "the embeddings of the first and the last epoch of setting C.",
                    "python3 p1_tsne.py --run runs/p1/C",
                ),
                Picture("tall", "Worst predicted tiles.", "A tall picture"),
                Picture("missing", "A picture that nobody drew.", "nothing"),
            ),
        ),
    )
    second = (
        Question(
            "2.1",
            "Architectures",
            5,
            "Draw A and B.",
            (Gap("There is no A.", "python3 p2_train.py --model a \\\n  --seed 0"),),
        ),
        Question(
            "2.2", "Scores", 10, "Report mIoU.", (iou_table(), Picture("square", "Confusions.", "A square"))
        ),
        Question(
            "2.3",
            HOSTILE[0],
            0,
            HOSTILE[1],
            (hostile_table(), *(Text(text) for text in HOSTILE), Gap(HOSTILE[3], HOSTILE[2])),
        ),
    )
    return Report(
        "Deep Learning for Computer Vision, homework 1",
        "r12345678",
        "王小明 Wang Xiao-Ming",
        "2024-10-01",
        (Problem("Problem 1: self-supervised learning", first), Problem("Problem 2: segmentation", second)),
        {"1.1": WORDS, "1.2": "Differences within one standard error.", "2.3": "\n\n".join(HOSTILE)},
        ("runs/p1/A-seed0", "runs/p1/" + HOSTILE[0], "runs/" + "w" * 200),
    )
