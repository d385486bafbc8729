"""Views together with other libraries: their transforms in a recipe, our views in their pipelines.

    Compose([PerSample(RandAffined(("image", "mask"), ...)), Gamma()])       # MONAI in a recipe; masks move along
    MonaiTransform(view)                                                     # a view in monai.data.CacheDataset
    LightlyTransform([view] * 2)                                             # two views in lightly.data.LightlyDataset
    TorchvisionTransform(view)                                               # in torchvision.transforms.v2.Compose

What this costs: a transform that works sample by sample runs on the CPU and is a good deal slower than a batch of views,
and views that run in a loader's workers do not run on the GPU. Nothing else changes: the same key gives the same view.
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
from medssl.views.base import Params, View, leaves, moves_voxels
from medssl.views.random import derive_keys
from medssl.views.spatial import Resample

# MONAI's names for settings that place a crop by the content of the scan.
CONTENT_SETTINGS = ("source_key", "label_key", "w_key", "fg_indices_key", "select_fn")


class PerSample(View):
    """A transform of another library as a view, sample by sample on the CPU.

    Its random state, and those of Python, numpy and torch, are set from the sample's key and restored afterwards.
    A dictionary transform moves a mask along (interpolate it by nearest neighbours). MONAI's array transforms of
    intensity leave it as it is; for others, moving a mask raises MedsslError.

    Args:
        transform: A MONAI transform or Compose, or any other callable, from one sample (C, *S) to one sample; or MONAI's
            dictionary kind, on the keys `image` and `mask`.
        spacing_mm: Distance of the voxels, which MONAI's transforms read from the affine; 1 mm by default.

    Example:
        >>> from monai.transforms import RandAffined
        >>> pair = ("image", "mask")
        >>> view = PerSample(RandAffined(pair, prob=1.0, rotate_range=0.3, mode=("bilinear", "nearest")))
    """

    differentiable = False

    def __init__(self, transform: Callable[[Any], Any], spacing_mm: Sequence[float] | None = None):
        super().__init__()
        self.transform, self.spacing_mm = transform, spacing_mm
        self._parts = list(_single_transforms(transform))
        self._keys = {key for part in self._parts if isinstance(part, MapTransform) for key in part.keys}
        if self._keys - {"image", "mask"}:
            raise MedsslError(
                f"the MONAI transform asks for the keys {sorted(map(str, self._keys))}: expected 'image' and 'mask' alone; "
                f"reading and other labels belong before the views"
            )

    @classmethod
    def examples(cls, dims: int) -> tuple[View, ...]:
        pair = ("image", "mask")
        noisy = MonaiCompose([RandFlipd(pair, prob=0.5, spatial_axis=0), RandGaussianNoised("image", prob=0.5)])
        return (cls(noisy),)

    def parameters_of(self, keys: Tensor) -> Params:
        return {"key": derive_keys(keys, 21)}

    def apply_to(self, x: Tensor, params: Params) -> Tensor:
        return self._transform_batch(x, torch.zeros_like(x[:, :1]), params)[0]

    def move_mask(self, mask: Tensor, params: Params) -> Tensor:
        if "mask" in self._keys:
            settings = [name for part in self._parts for name in CONTENT_SETTINGS if hasattr(part, name)]
            if settings:
                raise MedsslError(
                    f"a MONAI transform places its crop by the scan's content ({', '.join(settings)}): a mask alone cannot "
                    f"follow; crop before the views, or use a random crop"
                )
            return self._transform_batch(mask.float(), mask.float(), params)[1].to(mask.dtype)
        if all(type(part).__module__.startswith("monai.transforms.intensity.") for part in self._parts):
            return mask
        raise MedsslError(
            f"a mask cannot follow {', '.join(type(part).__name__ for part in self._parts)}: expected MONAI's dictionary kind, "
            f"for example RandAffined(('image', 'mask'), mode=('bilinear', 'nearest'))"
        )

    def with_mask(self, x: Tensor, mask: Tensor, params: Params) -> tuple[Tensor, Tensor]:
        if "mask" not in self._keys:
            return super().with_mask(x, mask, params)
        image, moved = self._transform_batch(x.float(), mask.float(), params)
        return image.to(x.dtype), moved.to(mask.dtype)

    def _transform_batch(self, x: Tensor, mask: Tensor, params: Params) -> tuple[Tensor, Tensor]:
        if x.is_cuda:
            warnings.warn(f"{type(self).__name__} moves the batch to the CPU and back, sample by sample", stacklevel=2)
        samples = zip(x.detach().cpu(), mask.detach().cpu(), params["key"].tolist())
        pairs = [self._transform_one(image, label, key) for image, label, key in samples]
        images, masks = ([_checked_sample(pair[i], x.ndim - 1) for pair in pairs] for i in (0, 1))
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

    def _transform_one(self, image: Tensor, mask: Tensor, key: int) -> tuple[Any, Any]:
        with seeded(key):
            if isinstance(self.transform, Randomizable):
                self.transform.set_random_state(seed=key % 2**32)
            if not self._keys:
                from_monai = isinstance(self.transform, MonaiBase)
                return self.transform(self._with_affine(image) if from_monai else image.clone()), mask
            result = self.transform({"image": self._with_affine(image), "mask": self._with_affine(mask)})
        if isinstance(result, list):
            raise MedsslError(
                f"the MONAI transform made {len(result)} samples of one: expected one; pass num_samples=1 as a single crop"
            )
        return result["image"], result["mask"]

    def _with_affine(self, x: Tensor) -> MetaTensor:
        spacing = [*(self.spacing_mm or ()), *[1.0] * 3][: x.ndim - 1]
        return MetaTensor(x.clone(), affine=torch.diag(torch.tensor([*spacing, *[1.0] * (4 - len(spacing))])))


class MonaiTransform(MapTransform, Randomizable):
    """A view as a MONAI dictionary transform.

    Its key comes from `set_random_state`, so MONAI's loaders seed it; images under several keys get the same view. Values
    are (C, *S) in the units of the cache: HU in CT, otherwise about 0..1. A MetaTensor keeps its meta data and gets the
    affine of the crop. A view that no affine describes (elastic, or another library's) raises MedsslError for a
    MetaTensor: pass plain tensors then, with EnsureTyped(keys, track_meta=False). MONAI's `inverse` does not undo a view.

    Args:
        view: The view.
        keys: The images that get the view.
        mask_keys: The masks that get its moves in space alone.
        allow_missing_keys: As in all of MONAI's dictionary transforms.
    """

    def __init__(
        self,
        view: View,
        keys: Sequence[str] = ("image",),
        mask_keys: Sequence[str] = (),
        allow_missing_keys: bool = False,
    ):
        MapTransform.__init__(self, (*keys, *mask_keys), allow_missing_keys)
        self.view, self.mask_keys = view, tuple(mask_keys)

    def randomize(self, data: Any = None) -> None:
        self.key = int(self.R.randint(0, 2**63 - 1, dtype=np.int64))

    def __call__(self, data: Any) -> dict[Any, Any]:
        self.randomize()
        result, params = dict(data), self.view.draw(torch.tensor([self.key]))
        for key in self.key_iterator(result):
            result[key] = self._change(torch.as_tensor(result[key]), params, is_mask=key in self.mask_keys)
        return result

    def _change(self, x: Tensor, params: Params, is_mask: bool) -> Tensor:
        plain = (x.as_tensor() if isinstance(x, MetaTensor) else x)[None]
        changed = (self.view.mask(plain, params) if is_mask else self.view(plain.float(), params))[0]
        if not isinstance(x, MetaTensor):
            return changed
        result = MetaTensor(changed, meta=copy.deepcopy(x.meta), applied_operations=copy.deepcopy(x.applied_operations))
        index_map = source_voxels(self.view, params, x.shape[1:]).to(x.affine)
        within = torch.eye(len(x.affine)).to(x.affine)  # MONAI's affine is 4 x 4 for images too
        dims = x.ndim - 1
        within[:dims, :dims], within[:dims, -1] = index_map[:dims, :dims], index_map[:dims, -1]
        result.affine = x.affine @ within
        return result


class TorchvisionTransform(v2.Transform):
    """A view as a torchvision v2 transform: on one sample (C, *S), a PIL image, or tv_tensors of any nesting.

    An Image and its Masks move together; uint8 becomes 0..1. Boxes and key points raise MedsslError, since views do not
    move them. Its key comes from torch's own generator, as in all of torchvision's transforms, so a loader's seed
    decides it.
    """

    def __init__(self, view: View):
        super().__init__()
        self.view = view

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        return self.view.draw(torch.randint(-(2**63), 2**63 - 1, (1,)))

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """One image or mask after the view; torchvision calls it for each of its inputs.

        Args:
            inpt: A PIL image, a tensor (C, *S), or a tv_tensor Image or Mask.
            params: What `make_params` drew.
        """
        if isinstance(inpt, tv_tensors.Mask):
            mask = inpt.as_subclass(Tensor)
            moved = self.view.mask(mask[None] if mask.ndim > 2 else mask[None, None], params)
            return tv_tensors.Mask(moved[0] if mask.ndim > 2 else moved[0, 0])
        if isinstance(inpt, tv_tensors.TVTensor) and not isinstance(inpt, tv_tensors.Image):
            raise MedsslError(
                f"a {type(inpt).__name__} came with the image: views move images and masks, expected those"
            )
        changed = self.view(unit_range(inpt)[None], params)[0]
        return tv_tensors.Image(changed) if isinstance(inpt, (Picture, tv_tensors.Image)) else changed


class LightlyTransform:
    """Several views of one image, as lightly's datasets and collate functions take them: a PIL image -> [(C, H, W), ...].

    Keys come from torch's generator, see `TorchvisionTransform`.

    Args:
        views: One or more views; the same view twice gives two different draws.
    """

    def __init__(self, views: Sequence[View]):
        self.views = tuple(views)
        self._transforms = [TorchvisionTransform(view) for view in self.views]

    def __call__(self, image: Any) -> list[Tensor]:
        return [transform(image).as_subclass(Tensor) for transform in self._transforms]


def unit_range(image: Any) -> Tensor:
    """A PIL image, uint8 or float (C, *S) -> float (C, *S), 8-bit values divided by 255 as in the cache."""
    x = v2.functional.pil_to_tensor(image) if isinstance(image, Picture) else image.as_subclass(Tensor)
    if x.dtype == torch.uint8:
        return x.float() / 255
    if not x.dtype.is_floating_point:
        raise MedsslError(
            f"the image has the type {x.dtype}: expected uint8, or floating point (CT in HU, others at about 0 to 1)"
        )
    return x


def source_voxels(view: View, params: Params, shape: Sequence[int]) -> Tensor:
    """The affine map from an index in the result of a view to the index in its source.

    Args:
        view: The view, with any nesting of `Compose`.
        params: Parameters of one sample.
        shape: Voxels of the source, one number per axis.

    Returns:
        (d + 1, d + 1) float64.

    Raises:
        MedsslError: The view's move is not an affine one.
    """
    index_map, shape = torch.eye(len(shape) + 1, dtype=torch.float64), tuple(shape)
    for part, own in leaves(view, params):
        if isinstance(part, Resample) and not part.elastic_mm:
            if bool(own.get("on", True)):
                index_map, shape = index_map @ part.matrix(own, shape)[0].double(), part.size
        elif moves_voxels(part):
            raise MedsslError(
                f"{type(part).__name__} moves voxels in a way no affine describes: expected plain tensors; put "
                f"EnsureTyped(keys, track_meta=False) before it"
            )
    return index_map


def _single_transforms(transform: Any) -> Iterator[Any]:
    """The transforms inside of a Compose of any library, or the transform itself."""
    inner = getattr(transform, "transforms", None)
    if inner is None:
        yield transform
        return
    for part in inner:
        yield from _single_transforms(part)


def _checked_sample(sample: Any, ndim: int) -> Tensor:
    """(C, *S) float32; raises MedsslError for another number of axes."""
    x = torch.as_tensor(sample.as_tensor() if isinstance(sample, MetaTensor) else sample).as_subclass(Tensor)
    if x.ndim != ndim:
        raise MedsslError(f"the transform gave a sample of shape {tuple(x.shape)}: expected (C, *S), {ndim} axes")
    return x.float()


@contextmanager
def seeded(key: int) -> Iterator[None]:
    """Set Python's, numpy's and torch's (CPU) global generators, which libraries read, and restore them afterwards."""
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
