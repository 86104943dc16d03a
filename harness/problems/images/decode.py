"""An image file as pixels of a fixed size."""

import io

import numpy as np
import PIL
from PIL import Image

__all__ = ["DECODER", "DecodeError", "decode"]

# What pixels depend on besides the file: this module, by a number raised with every change of it, and Pillow.
DECODER = f"1, Pillow {PIL.__version__}"

# Whatever the ending says: those of 8 bits a channel, and a PNG's 16 bits of grey.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP")
MODES = {1: "L", 3: "RGB"}

Pixels = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]


class DecodeError(Exception):
    """The bytes are no whole image."""


def decode(content: bytes, side: int, channels: int) -> Pixels:
    """Decodes an image, scales its longer side to ``side``, and centres it on a black square.

    Pixels are taken as they are stored: an orientation in the EXIF data is ignored, as by torchvision's folders, and so
    is transparency. Grey is ITU-R 601-2 luma, and 16 bits of grey are scaled to 8. Large images are first reduced by
    averaging, JPEGs while decoding, to at least twice the size wanted, then resampled by a Lanczos filter.

    Args:
        content: The file's bytes.
        side: Of the square, in pixels.
        channels: 1 for grey, 3 for red, green and blue.

    Returns:
        The pixels (channels, side, side), 0 to 255.

    Raises:
        DecodeError: The file is damaged, or of no format that can be read.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            scale = side / max(image.size)
            width, height = (max(1, round(length * scale)) for length in image.size)
            image.draft(MODES[channels], (2 * width, 2 * height))
            image.info.pop("transparency", None)  # else Pillow warns of palettes
            small = _eight_bits(image).convert(MODES[channels])
    except MemoryError:
        raise
    except Exception as error:  # Pillow passes on what a broken file makes its decoders raise, of any kind
        raise DecodeError(str(error)) from None
    small = small.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=2.0)
    square = Image.new(MODES[channels], (side, side))
    square.paste(small, ((side - width) // 2, (side - height) // 2))
    return np.asarray(square).reshape(side, side, channels).transpose(2, 0, 1)  # (channels, side, side)


def _eight_bits(image: Image.Image) -> Image.Image:
    if not image.mode.startswith("I;16"):
        return image
    grey = np.asarray(image).astype(np.uint32)
    return Image.fromarray(((grey + 128) // 257).astype(np.uint8))  # 65535 / 257 = 255
