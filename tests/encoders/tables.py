"""The two tables of the page on encoders: what every encoder is checked for, and which method takes which encoder.

    python -m tests.encoders.tables              # computes both and writes medssl/docs/pages/results/encoders.md
    python -m tests.encoders.tables --print      # writes nothing

Each cell is what happened when the small encoder of the family was built and tried: `check_encoder`, the decoder, a crop that is
not a cube, a crop that does not divide; and for each method `check_method`: a batch through its views, its loss and its gradient.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from medssl.core.errors import MedsslError
from medssl.core.registry import ENCODERS, METHODS
from medssl.encoders import Decoder, Encoder, Timm, TokenEncoder, check_encoder
from medssl.methods import SparK, check_method
from tests.encoders.small import families, small_encoder

PAGE = Path(__file__).resolve().parents[2] / "medssl" / "docs" / "pages" / "results" / "encoders.md"
MEMBERS: dict[str, str] = {"Timm: ViT": "test_vit", "Timm: ConvNeXt": "test_convnext"}  # beside Timm's ResNet
CHANNELS = 2
EDGES = (16, 32, 64)  # of the crop: the first one that the method takes
COLUMNS = ("2D", "3D", "decoder", "other crops", "names and features equal", "layers", "masked by")
EQUAL = {  # the test that compares names and features with the original library's network
    "DenseNet": "MONAI, `test_monai`",
    "EfficientNet": "MONAI, `test_monai`",
    "MedNeXt": "MONAI, `test_monai`",
    "MonaiNetwork": "MONAI, `test_monai`",
    "NormalizedInput": "the encoder within, `test_normalized`",
    "PooledLevels": "the encoder within, `test_pooled_levels`",
    "Primus": "dynamic-network-architectures, `test_primus`",
    "ResNet": "size of torchvision's, `test_encoders`",
    "ResidualUNet": "dynamic-network-architectures, `test_resenc`",
    "SegResEncoder": "MONAI, `test_monai`",
    "SegResNet": "MONAI, `test_monai`",
    "SliceWise": "the encoder within, `test_slice_wise`",
    "SwinUNETR": "MONAI, `test_monai`",
    "Timm": "timm, `test_timm`",
    "UNETR": "MONAI, `test_monai`",
    "ViT": "timm with our names, `test_vit`",
}


def columns() -> list[str]:
    """The encoders of the tables: every family, and further members of families whose members differ in kind."""
    return sorted([*ENCODERS.names(), *MEMBERS])


def build(name: str, dims: int) -> Encoder:
    """The small encoder of a column."""
    return Timm(2, CHANNELS, MEMBERS[name]) if name in MEMBERS else small_encoder(name, dims, CHANNELS)


def dims_of(name: str) -> list[int]:
    """The dims that a column's family has."""
    return [dims for dims in (2, 3) if name.partition(":")[0] in families(dims)]


def checks(name: str) -> dict[str, str]:
    """One row of the first table."""
    torch.manual_seed(0)
    made = {dims: build(name, dims) for dims in dims_of(name)}
    row = {f"{dims}D": happened(check_encoder, made[dims]) if dims in made else "no" for dims in (2, 3)}
    encoder = next(iter(made.values()))
    return row | {
        "decoder": happened(feeds_decoder, encoder),
        "other crops": happened(takes_other_crops, encoder),
        "names and features equal": EQUAL[name.partition(":")[0]],
        "layers": str(parts_of(encoder)),
        "masked by": masked_by(encoder),
    }


def happened(check: Callable[[Encoder], None], encoder: Encoder) -> str:
    """ "yes", or what the check said."""
    try:
        check(encoder)
    except (AssertionError, MedsslError) as error:
        return f"no: {error}"
    return "yes"


def feeds_decoder(encoder: Encoder) -> None:
    """Raise AssertionError unless the U-Net decoder brings the pyramid back to the crop's grid."""
    size = [2 * s for s in encoder.strides[-1]]
    out = Decoder(encoder, 3)(encoder.features(torch.randn(2, CHANNELS, *size)))
    assert tuple(out.shape) == (2, 3, *size)


def takes_other_crops(encoder: Encoder) -> None:
    """Raise AssertionError unless a crop of other proportions works, and one that does not divide is refused in words."""
    strides = encoder.strides[-1]
    size = [(3 if i else 2) * s for i, s in enumerate(strides)]
    encoder.check_size(size)
    with torch.no_grad():
        encoder.eval().features(torch.randn(1, CHANNELS, *size))
    try:
        encoder.check_size([n + 1 for n in size])
    except MedsslError as error:
        if "--crop" in str(error):
            return
    raise AssertionError("a crop that no stride divides was not refused in words")


def parts_of(encoder: Encoder) -> int:
    """How many rates the decay by layer gives; raises AssertionError if a weight that learns is in no layer."""
    layers = encoder.layers()
    held = {id(weight) for layer in layers for weight in layer.parameters()}
    assert all(id(weight) in held for weight in encoder.parameters() if weight.requires_grad), type(encoder).__name__
    return len(layers)


def masked_by(encoder: Encoder) -> str:
    """How a masked method hides a part of the scan from this encoder."""
    if isinstance(encoder, TokenEncoder) and encoder.encodes_patches:
        return "leaving patches out (MAE, AIM, IBOT)"
    try:
        SparK(encoder).check([2 * s for s in encoder.strides[-1]], 2)
    except MedsslError:
        return "a learned value (SimMIM)"
    return "empty places (SparK), a learned value (SimMIM)"


def runs(method: str, name: str, dims: int, try_it: bool = True) -> str:
    """ "runs", or the message with which the method refuses this encoder or every crop.

    Args:
        method: Name of the method.
        name: Name of the column.
        dims: 2 or 3.
        try_it: Whether a batch goes through it; without, only what is said before the first step counts.
    """
    kind: Any = METHODS.load(method)
    message = ""
    for edge in EDGES:
        torch.manual_seed(0)
        try:
            made = kind(build(name, dims), **kind.examples()[0])
            made.check((edge,) * dims, 2)
        except MedsslError as error:
            message = str(error)
            continue
        if try_it:
            check_method(made, (edge,) * dims, 2)
        return "runs"
    return message


def table(head: list[str], rows: list[list[str]]) -> str:
    """Rows as a table of Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def methods_table(try_it: bool = True) -> str:
    """Methods x encoders; the words of the refusals are below it, by number."""
    words: dict[str, int] = {}
    rows = []
    for method in METHODS.names():
        started, cells = time.perf_counter(), []
        for name in columns():
            answer = runs(method, name, dims_of(name)[0], try_it)
            cells.append("runs" if answer == "runs" else f"[{words.setdefault(answer, len(words) + 1)}]")
        rows.append([method, *cells])
        print(f"{method}: {time.perf_counter() - started:.0f} s", flush=True)
    said = "\n".join(f"{number}. {text}" for text, number in words.items())
    return f"{table(['method', *columns()], rows)}\n\nThe refusals, word for word:\n\n{said}"


def checks_table() -> str:
    """Encoders x checks."""
    return table(["encoder", *COLUMNS], [[name, *[checks(name)[c] for c in COLUMNS]] for name in columns()])


def page(try_it: bool = True) -> str:
    """The page with both tables."""
    return f"""# Encoders: what is checked, and which method takes which

Both tables are what happened: `python -m tests.encoders.tables` builds a small encoder of every family and writes this page. A
default test holds the page to what the encoders and methods say before the first step; `make test-all` runs all of it.

"3D" and "2D" are the contract of `check_encoder`: shapes of the pyramid, the vector, gradients to every weight, the record. "Layers" is
how many learning rates a decay by layer gives. A family of which a member differs in kind has a line for it.

{checks_table()}

A method `runs` where a batch goes through its views, its loss and its gradient, in 2D where the encoder has 2D, with a crop of 16, 32
or 64 voxels. A number is the refusal that a user reads before the first step.

{methods_table(try_it)}
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--print", action="store_true", help="print the page in place of writing it")
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    made = page()
    if given.print:
        print(made)
    else:
        PAGE.write_text(made, encoding="utf-8")


if __name__ == "__main__":
    main()
