"""Pictures of attacked images: clean, perturbation (magnified), attacked; single ones or all in a grid."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from sparring.evaluation.showing import Prediction, Shown

SIDE = 112  # of a picture in a grid, at least
MARGIN = 12
WORDS = 40  # height of the words beneath a row
PAPER, INK = (255, 255, 255), (20, 24, 29)
NO_CLASS = "none (logits not finite)"
Named = Callable[[int], str]


class Triple(NamedTuple):
    """The three pictures of an image. In that of the perturbation grey is no change; magnified: how many times."""

    clean: Image.Image
    perturbation: Image.Image
    attacked: Image.Image
    magnified: float


def triple(shown: Shown, radius: float | None) -> Triple:
    """The pictures of an attacked image.

    radius: the largest change of a pixel, which becomes black or white; None: the largest of this image.
    """
    delta = shown.attacked - shown.clean
    largest = float(delta.abs().max()) if radius is None else radius
    magnified = 0.5 / largest if largest > 0 else 1.0
    return Triple(picture(shown.clean), picture(0.5 + magnified * delta), picture(shown.attacked), magnified)


def picture(image: Tensor) -> Image.Image:
    """float32 [C, H, W] in [0, 1]. With other than one or three channels: their mean, in grey."""
    if image.shape[0] not in (1, 3):
        image = image.mean(0, keepdim=True)
    values = (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return Image.fromarray(values[:, :, 0] if values.shape[2] == 1 else values)


def png(image: Image.Image, most: int) -> bytes:
    """The picture as a PNG file, reduced by a whole number until no side is longer than `most` pixels."""
    factor = -(-max(image.size) // most)
    file = io.BytesIO()
    (image.reduce(factor) if factor > 1 else image).save(file, "PNG")
    return file.getvalue()


def said(prediction: Prediction, name: Named) -> str:
    """Such as 7 (99 %)."""
    if prediction.label is None or prediction.confidence is None:
        return NO_CLASS
    return f"{name(prediction.label)} ({100 * prediction.confidence:.0f} %)"


def grid(shown: Sequence[Shown], radius: float | None, name: Named) -> Image.Image:
    """One row per image: clean, perturbation, attacked; beneath it what the network says before and after."""
    triples = [triple(each, radius) for each in shown]
    larger = max(1, -(-SIDE // max(triples[0].clean.size)))
    width, height = (larger * side for side in triples[0].clean.size)
    row = height + WORDS + MARGIN
    sheet = Image.new("RGB", (3 * width + 4 * MARGIN, MARGIN + row * len(shown)), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for number, (each, pictures) in enumerate(zip(shown, triples, strict=True)):
        words = (
            f"{said(each.before, name)}",
            f"x {pictures.magnified:.3g}",
            f"{said(each.after, name)}",
        )
        for column, (image, text) in enumerate(zip(pictures[:3], words, strict=True)):
            at = MARGIN + column * (width + MARGIN), MARGIN + number * row
            sheet.paste(image.convert("RGB").resize((width, height), Image.Resampling.NEAREST), at)
            draw.text((at[0], at[1] + height + 4), _fitting(text, width, font), INK, font)
        label = "label unknown" if each.label is None else f"label {name(each.label)}"
        draw.text((MARGIN, MARGIN + number * row + height + 20), f"{label}: {each.kind}", INK, font)
    return sheet


def _fitting(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """The text, cut to the width of its picture."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text}…"
