"""TrivialAugment (Müller and Hutter, 2021): one random change of random strength to each image.

Their fourteen changes with the ranges of RandAugment, which small images take better than the wide ones.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

GREY = (124, 116, 104)  # ImageNet's mean colour, where a moved image leaves room


def trivial_augment(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """An RGB image → an RGB image of the same size."""
    name = NAMES[generator.integers(len(NAMES))]
    strength, sign = float(generator.uniform()), 1 if generator.integers(2) else -1
    if name in ENHANCERS:
        return ENHANCERS[name](image).enhance(1 + sign * 0.9 * strength)
    if name in MOVES:
        matrix = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
        position, most = MOVES[name]
        matrix[position] = sign * strength * most * (image.width if name.startswith("translate") else 1)
        return image.transform(image.size, Image.AFFINE, matrix, Image.BILINEAR, fillcolor=GREY)
    if name == "rotate":
        return image.rotate(sign * 30 * strength, Image.BILINEAR, fillcolor=GREY)
    if name == "posterize":
        return ImageOps.posterize(image, 8 - round(4 * strength))
    if name == "solarize":
        return ImageOps.solarize(image, 256 - round(256 * strength))
    return WITHOUT_STRENGTH[name](image)


ENHANCERS = {
    "brightness": ImageEnhance.Brightness,
    "colour": ImageEnhance.Color,
    "contrast": ImageEnhance.Contrast,
    "sharpness": ImageEnhance.Sharpness,
}
# Which number of an affine transform each move sets, and to how much at most (translations: of a side).
MOVES = {"shear_x": (1, 0.3), "shear_y": (3, 0.3), "translate_x": (2, 0.3), "translate_y": (5, 0.3)}
WITHOUT_STRENGTH = {
    "identity": Image.Image.copy,
    "autocontrast": ImageOps.autocontrast,
    "equalize": ImageOps.equalize,
}
NAMES = (*ENHANCERS, *MOVES, "rotate", "posterize", "solarize", *WITHOUT_STRENGTH)
