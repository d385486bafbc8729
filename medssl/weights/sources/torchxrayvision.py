"""TorchXRayVision's DenseNet-121 and ResNet-50 of chest films (Cohen et al., MIDL 2022, arXiv 2111.00595; Apache-2.0).

    medssl import densenet121-all.pth --as torchxrayvision --out runs/xrv

The published files are whole pickled modules and are refused with the lines that convert them. One channel, -1024 to 1024.
"""

from __future__ import annotations

from medssl.core.errors import MedsslError
from medssl.encoders import Encoder
from medssl.encoders.timm_model import Timm
from medssl.preprocessing.expected import ExpectedScans
from medssl.weights.reading import Stored
from medssl.weights.sources.base import Converted, Source, take_out, with_in_channels, without_prefix
from medssl.weights.sources.torchvision import resnet_like

MEAN, STD = (0.5,), (1 / 2048,)  # 0..1 to -1024..1024
SIZES = {"DenseNet": 224, "ResNet": 512}


class TorchXRayVision(Source):
    """A DenseNet-121 or ResNet-50 with one channel."""

    licence = "Apache-2.0"
    typical = (
        r"^(model\.)?(features\.conv0|conv1)\.weight$",
        r"^(op_threshs|(model\.)?features\.denseblock1\.denselayer1\.norm1\.weight)$",
    )

    def convert(self, stored: Stored, encoder: Encoder | None) -> Converted:
        tensors = without_prefix(stored.tensors(self.payloads), ("module.",))
        tensors = {name.removeprefix("model."): value for name, value in tensors.items()}
        tensors, left_out = take_out(tensors, {"classifier": r"^(classifier|fc|op_threshs|upsample)\b"})
        if "features.conv0.weight" in tensors:
            channels = tensors["features.conv0.weight"].shape[1]
            built, kind = with_in_channels(encoder or Timm(name="densenet121"), channels), "DenseNet"
        elif "conv1.weight" in tensors:
            built, kind = resnet_like(tensors, encoder), "ResNet"
        else:
            raise MedsslError(
                f"the file has {', '.join(list(tensors)[:5])}: expected TorchXRayVision's DenseNet-121 (features.conv0.weight) or ResNet-50"
            )
        scans = ExpectedScans("XRAY", None, (SIZES[kind],) * 2, None, "-1024 to 1024")
        named = {f"net.{name}": value for name, value in tensors.items()}
        return Converted(built, named, scans, left_out=left_out, mean=MEAN, std=STD)
