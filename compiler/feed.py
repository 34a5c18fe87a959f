"""What a compiled model is fed with: arrays from `.npy` files and from pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .diagnostic import Diagnostic, NetcError
from .types import DType

if TYPE_CHECKING:
    import numpy
    from PIL.Image import Image

    Array = numpy.ndarray[Any, Any]

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"})

CROP = 0.875
"""The share of a picture's shorter side that its central crop keeps, as in the evaluation of ImageNet models."""


def read(path: Path, dtype: DType, shape: Sequence[int | str]) -> Array:
    """The array in a `.npy` file, or a picture as `[1, channels, height, width]` of the size that the input has.

    A picture is scaled (bicubic) so that its central crop fills the input; it is given as 0 … 255 to a `u8` input, and
    as 0 … 1 to one of fractions.

    Raises:
        NetcError: where the file cannot be read, or a picture does not suit the input.
    """
    import numpy

    if path.suffix.lower() not in PICTURES:
        try:
            return numpy.load(path, allow_pickle=False)
        except (OSError, ValueError) as error:
            fix = f"give a .npy file, or a picture ({', '.join(sorted(PICTURES))})"
            raise NetcError([Diagnostic("file-not-found", f"{path} cannot be read: {error}", fix=fix)]) from None
    channels, height, width = _picture_size(path, dtype, shape)
    picture = _cropped(opened(path).convert("RGB" if channels == 3 else "L"), height, width)
    array = numpy.asarray(picture, "uint8").reshape(height, width, channels).transpose(2, 0, 1)[None]
    if dtype == DType.U8:
        return numpy.ascontiguousarray(array)
    return numpy.ascontiguousarray(array / 255, dtype.as_numpy)


def _picture_size(path: Path, dtype: DType, shape: Sequence[int | str]) -> tuple[int, int, int]:
    sizes = shape[1:]
    if len(shape) != 4 or sizes[0] not in (1, 3) or not all(isinstance(s, int) for s in sizes):
        message = f"{path} is a picture, but the input is {dtype.value}[{', '.join(map(str, shape))}]"
        raise NetcError(
            [
                Diagnostic(
                    "picture", message, fix="pictures fit inputs of [N, 3, H, W] or [N, 1, H, W] with known H and W"
                )
            ]
        )
    if dtype != DType.U8 and not dtype.is_float:
        raise NetcError([Diagnostic("picture", f"a picture fits inputs of u8 or of fractions, not {dtype.value}")])
    channels, height, width = (int(s) for s in sizes)
    return channels, height, width


def opened(path: Path) -> Image:
    """A picture.

    Raises:
        NetcError: where it cannot be read.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(path)
    except (OSError, UnidentifiedImageError) as error:
        raise NetcError([Diagnostic("file-not-found", f"{path} cannot be read: {error}")]) from None


def _cropped(picture: Image, height: int, width: int) -> Image:
    from PIL import Image

    scale = max(height / picture.height, width / picture.width) / CROP
    size = (max(width, round(picture.width * scale)), max(height, round(picture.height * scale)))
    picture = picture.resize(size, Image.Resampling.BICUBIC)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return picture.crop((left, top, left + width, top + height))
