"""Views beside other libraries: theirs inside of a recipe, ours inside of their pipelines.

    Compose([PerSample(RandAffined(("image", "mask"), ...)), Gamma()])       # MONAI in a recipe, masks moved along
    MonaiTransform(contrastive(DataSpec(3, modality="MR"), (64, 64, 64)))    # a recipe in monai.data.CacheDataset
    LightlyTransform([contrastive(DataSpec(2, modality="DX"), (64, 64))] * 2) # two views in lightly.data.LightlyDataset
    TorchvisionTransform(finetune("XRAY", (64, 64)))                         # in torchvision.transforms.v2.Compose

What is lost this way: a transform that works sample by sample runs on the CPU and is a good deal slower than a batch of
views, and views that run in a loader's workers do not run on the GPU. Nothing else changes: the same key, the same view.
"""

from __future__ import annotations

import copy
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose as MonaiCompose
from monai.transforms import MapTransform, RandFlipd, RandGaussianNoised, Randomizable
from monai.transforms import Transform as MonaiBase
from PIL.Image import Image as Picture
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from medssl.core.errors import MedsslError
from medssl.views.base import Params, View, leaves
from medssl.views.random import derive_keys
from medssl.views.recipes import moves
from medssl.views.spatial import Resample

SEES = (
    "source_key",
    "label_key",
    "w_key",
    "fg_indices_key",
    "select_fn",
)  # MONAI's names for what decides a crop's place


class PerSample(View):
    """A MONAI transform or Compose (or any other callable on one sample) as a view, sample by sample on the CPU.

    transform: takes and gives one sample (C, *S); or MONAI's dictionary kind, on the keys `image` and `mask`.
    spacing_mm: what MONAI's transforms read from the affine, 1 mm an axis where it is not given.

    Its random state, and those of Python, numpy and torch around it, are set from the sample's key, then put back.
    A mask is moved by a dictionary transform alone (interpolate it by nearest neighbours), left as it is by MONAI's array
    transforms of intensity, refused elsewhere.
    """

    differentiable = False

    def __init__(self, transform: Callable[[Any], Any], spacing_mm: Sequence[float] | None = None):
        super().__init__()
        self.transform, self.spacing_mm = transform, spacing_mm
        self._parts = list(_flat(transform))
        self._keys = {key for part in self._parts if isinstance(part, MapTransform) for key in part.keys}
        if self._keys - {"image", "mask"}:
            raise MedsslError(
                f"the MONAI transform asks for the keys {sorted(map(str, self._keys))}: expected 'image' and 'mask' alone; "
                f"reading and other labels belong before the views"
            )

    @classmethod
    def example(cls, dims: int) -> View:
        pair = ("image", "mask")
        return cls(MonaiCompose([RandFlipd(pair, prob=0.5, spatial_axis=0), RandGaussianNoised("image", prob=0.5)]))

    def parameters_of(self, keys: Tensor) -> Params:
        return {"key": derive_keys(keys, 21)}

    def apply_to(self, x: Tensor, params: Params) -> Tensor:
        return self._each(x, torch.zeros_like(x[:, :1]), params)[0]

    def move_mask(self, mask: Tensor, params: Params) -> Tensor:
        if "mask" in self._keys:
            seen = [n for part in self._parts for n in SEES if hasattr(part, n)]
            if seen:
                raise MedsslError(
                    f"a MONAI transform places its crop by what it sees ({', '.join(seen)}): a mask alone cannot follow; crop "
                    f"before the views, or use a random crop"
                )
            return self._each(mask.float(), mask.float(), params)[1].to(mask.dtype)
        if all(type(part).__module__.startswith("monai.transforms.intensity.") for part in self._parts):
            return mask
        raise MedsslError(
            f"a mask cannot follow {', '.join(type(part).__name__ for part in self._parts)}: expected MONAI's dictionary kind, "
            f"for example RandAffined(('image', 'mask'), mode=('bilinear', 'nearest'))"
        )

    def with_mask(self, x: Tensor, mask: Tensor, params: Params) -> tuple[Tensor, Tensor]:
        if "mask" not in self._keys:
            return super().with_mask(x, mask, params)
        image, moved = self._each(x.float(), mask.float(), params)
        return image.to(x.dtype), moved.to(mask.dtype)

    def _each(self, x: Tensor, mask: Tensor, params: Params) -> tuple[Tensor, Tensor]:
        if x.is_cuda:
            warnings.warn(f"{type(self).__name__} moves the batch to the CPU and back, sample by sample", stacklevel=2)
        found = [
            self._one(image, label, key)
            for image, label, key in zip(x.detach().cpu(), mask.detach().cpu(), params["key"].tolist())
        ]
        images, masks = ([_sample(pair[i], x.ndim - 1) for pair in found] for i in (0, 1))
        if len({tuple(image.shape) for image in images}) > 1:
            raise MedsslError(
                f"samples came out as {sorted({tuple(image.shape) for image in images})}: expected one shape for the whole "
                f"batch; end with a crop or pad to a fixed size"
            )
        moved = torch.stack(masks)
        if "mask" in self._keys and not torch.isin(moved, torch.cat([mask.cpu().unique(), torch.zeros(1)])).all():
            raise MedsslError(
                "the mask came back with values that it did not have: expected labels; pass mode='nearest' for the key 'mask'"
            )
        return torch.stack(images).to(x.device), moved.to(x.device)

    def _one(self, image: Tensor, mask: Tensor, key: int) -> tuple[Any, Any]:
        with seeded(key):
            if isinstance(self.transform, Randomizable):
                self.transform.set_random_state(seed=key % 2**32)
            if not self._keys:
                monai = isinstance(self.transform, MonaiBase)
                return self.transform(self._placed(image) if monai else image.clone()), mask
            found = self.transform({"image": self._placed(image), "mask": self._placed(mask)})
        if isinstance(found, list):
            raise MedsslError(
                f"the MONAI transform made {len(found)} samples of one: expected one; pass num_samples=1 as a single crop"
            )
        return found["image"], found["mask"]

    def _placed(self, x: Tensor) -> MetaTensor:
        spacing = [*(self.spacing_mm or ()), *[1.0] * 3][: x.ndim - 1]
        return MetaTensor(x.clone(), affine=torch.diag(torch.tensor([*spacing, *[1.0] * (4 - len(spacing))])))


class MonaiTransform(MapTransform, Randomizable):
    """A view as a MONAI dictionary transform: `keys` get the view, `mask_keys` its moves in space alone.

    Its key comes from `set_random_state`, so MONAI's loaders seed it; images under several keys get the very same view.
    Values are (C, *S) in the units of the cache: HU in CT, else about 0..1. A MetaTensor keeps its meta data and gets the
    affine of the crop; a view that no affine describes (elastic, or a plug-in) is refused for a MetaTensor: pass plain
    tensors then, EnsureTyped(keys, track_meta=False). MONAI's `inverse` does not undo a view.
    """

    def __init__(
        self, view: View, keys: Sequence[str] = ("image",), mask_keys: Sequence[str] = (), allow_missing_keys: bool = False
    ):  # fmt: skip
        MapTransform.__init__(self, (*keys, *mask_keys), allow_missing_keys)
        self.view, self.mask_keys = view, tuple(mask_keys)

    def randomize(self, data: Any = None) -> None:
        self.key = int(self.R.randint(0, 2**63 - 1, dtype=np.int64))

    def __call__(self, data: Any) -> dict[Any, Any]:
        self.randomize()
        moved, params = dict(data), self.view.draw(torch.tensor([self.key]))
        for key in self.key_iterator(moved):
            moved[key] = self._moved(moved[key], params, self.view.mask if key in self.mask_keys else self.view)
        return moved

    def _moved(self, value: Any, params: Params, move: Callable[[Tensor, Params], Tensor]) -> Tensor:
        x = torch.as_tensor(value)
        plain = x.as_tensor() if isinstance(x, MetaTensor) else x
        found = move(plain[None] if move == self.view.mask else plain[None].float(), params)[0]
        if not isinstance(x, MetaTensor):
            return found
        made = MetaTensor(found, meta=copy.deepcopy(x.meta), applied_operations=copy.deepcopy(x.applied_operations))
        step = source_voxels(self.view, params, x.shape[1:]).to(x.affine)
        within = torch.eye(len(x.affine)).to(x.affine)
        dims = x.ndim - 1
        within[:dims, :dims], within[:dims, -1] = step[:dims, :dims], step[:dims, -1]
        made.affine = x.affine @ within
        return made


class TorchvisionTransform(v2.Transform):
    """A view as a torchvision v2 transform: on one sample (C, *S), a PIL image, or tv_tensors of any nesting.

    An Image and its Masks move together; uint8 becomes 0..1; boxes and key points are refused, since views do not move
    them. Its key comes from torch's own generator, as with all of torchvision's transforms: a loader's seed rules it.
    """

    def __init__(self, view: View):
        super().__init__()
        self.view = view

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        return self.view.draw(torch.randint(-(2**63), 2**63 - 1, (1,)))

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if isinstance(inpt, tv_tensors.Mask):
            mask = inpt.as_subclass(Tensor)
            found = self.view.mask(mask[None] if mask.ndim > 2 else mask[None, None], params)
            return tv_tensors.Mask(found[0] if mask.ndim > 2 else found[0, 0])
        if isinstance(inpt, tv_tensors.TVTensor) and not isinstance(inpt, tv_tensors.Image):
            raise MedsslError(
                f"a {type(inpt).__name__} came with the image: views move images and masks, expected those"
            )
        found = self.view(unit_range(inpt)[None], params)[0]
        return tv_tensors.Image(found) if isinstance(inpt, (Picture, tv_tensors.Image)) else found


class LightlyTransform:
    """Several views of one image, as lightly's datasets and collate functions take them: a PIL image -> [(C, H, W), ...].

    views: one or many; the same view twice gives two different draws. Keys come from torch's generator, see
    `TorchvisionTransform`.
    """

    def __init__(self, views: Sequence[View]):
        self.views = tuple(views)
        self._transforms = [TorchvisionTransform(view) for view in self.views]

    def __call__(self, image: Any) -> list[Tensor]:
        return [transform(image).as_subclass(Tensor) for transform in self._transforms]


def unit_range(image: Any) -> Tensor:
    """A PIL image, uint8 or float (C, *S) -> float (C, *S), 8-bit values over 255 as the cache has them."""
    x = v2.functional.pil_to_tensor(image) if isinstance(image, Picture) else image.as_subclass(Tensor)
    if x.dtype == torch.uint8:
        return x.float() / 255
    if not x.dtype.is_floating_point:
        raise MedsslError(f"an image of {x.dtype} came in: expected uint8, or floating point in the units of the views")
    return x


def source_voxels(view: View, params: Params, shape: Sequence[int]) -> Tensor:
    """(d + 1, d + 1) float64: index in what the view makes -> index in its source of `shape`, for a batch of one.

    Raises MedsslError for a view whose move is no affine one.
    """
    step, shape = torch.eye(len(shape) + 1, dtype=torch.float64), tuple(shape)
    for part, own in leaves(view, params):
        if isinstance(part, Resample) and not part.elastic_mm:
            if bool(own.get("on", True)):
                step, shape = step @ part.matrix(own, shape)[0].double(), part.size
        elif moves(part):
            raise MedsslError(
                f"{type(part).__name__} moves voxels in a way no affine describes: expected plain tensors; put "
                f"EnsureTyped(keys, track_meta=False) before it"
            )
    return step


def _flat(transform: Any) -> Iterator[Any]:
    """The transforms inside of a Compose of any library, or the transform itself."""
    inner = getattr(transform, "transforms", None)
    if inner is None:
        yield transform
        return
    for part in inner:
        yield from _flat(part)


def _sample(found: Any, ndim: int) -> Tensor:
    x = torch.as_tensor(found.as_tensor() if isinstance(found, MetaTensor) else found).as_subclass(Tensor)
    if x.ndim != ndim:
        raise MedsslError(f"the transform gave a sample of shape {tuple(x.shape)}: expected (C, *S), {ndim} axes")
    return x.float()


@contextmanager
def seeded(key: int) -> Iterator[None]:
    """Python's, numpy's and torch's (CPU) global generators as `key` says, put back afterwards: libraries read them."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    random.seed(key)
    np.random.seed(key % 2**32)  # noqa: NPY002
    torch.default_generator.manual_seed(key)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        torch.set_rng_state(before[2])
