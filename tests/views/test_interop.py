"""Plug-ins with the other libraries' own loaders: MONAI in a recipe, ours in MONAI, lightly and torchvision."""

import pickle
import random
from pathlib import Path

import monai.transforms as mt
import nibabel as nib
import numpy as np
import pytest
import torch
from lightly.data import LightlyDataset
from lightly.data.multi_view_collate import MultiViewCollate
from monai.data import CacheDataset, MetaTensor
from monai.data import DataLoader as MonaiLoader
from PIL import Image
from torch.utils.data import DataLoader, default_collate
from torchvision import tv_tensors
from torchvision.datasets import FakeData
from torchvision.transforms import v2

from medssl.core import registry
from medssl.core.errors import MedsslError
from medssl.preprocessing.data_spec import DataSpec
from medssl.views import recipes
from medssl.views.base import Compose
from medssl.views.check import check_view, examples_of
from medssl.views.intensity import Gamma, Noise
from medssl.views.interop import LightlyTransform, MonaiTransform, PerSample, TorchvisionTransform, source_voxels
from medssl.views.random import make_keys
from medssl.views.spatial import Resample
from tests.views.references import agrees

PAIR = ("image", "mask")


def keys(count: int, seed: int = 0) -> torch.Tensor:
    return make_keys(seed, (torch.arange(count),))


def monais(dims: int) -> list[PerSample]:
    """An array transform, a dictionary one, a Compose with a choice in it, TorchVision through MONAI's own wrapper."""
    turned = mt.RandAffined(PAIR, prob=1, rotate_range=0.3, scale_range=0.2, mode=("bilinear", "nearest"))
    whole = mt.Compose(
        [
            mt.RandFlipd(PAIR, prob=0.5, spatial_axis=0),
            mt.OneOf([mt.RandGaussianNoised("image", prob=1), mt.RandAdjustContrastd("image", prob=1)]),
            mt.RandSpatialCropd(PAIR, (16,) * dims, random_size=False),
        ]
    )
    return [PerSample(mt.RandGaussianNoise(prob=1)), PerSample(turned), PerSample(whole)]


@pytest.mark.parametrize("dims", [2, 3])
def test_monai_in_a_recipe_keeps_the_contract_of_views(dims: int) -> None:
    for view in monais(dims):
        check_view(view, dims, size=(20,) * dims)
        check_view(Compose([Gamma(), view, Noise()]), dims, size=(20,) * dims)


def test_monai_in_a_recipe_gives_what_monai_gives_for_that_seed_and_moves_the_mask_along() -> None:
    transform = mt.RandAffined(PAIR, prob=1, rotate_range=0.5, mode=("bilinear", "nearest"), padding_mode="zeros")
    view = PerSample(transform)
    x = torch.rand(3, 1, 20, 18)
    mask = (x > 0.7).long()
    params = view.draw(keys(3))
    image, moved = view.with_mask(x, mask, params)
    for i, key in enumerate(params["key"].tolist()):
        transform.set_random_state(seed=key % 2**32)
        expected = transform({"image": x[i], "mask": mask[i].float()})
        agrees(PerSample, "MONAI RandAffined, same seed", image[i], expected["image"].as_tensor(), 0)
        assert torch.equal(moved[i], expected["mask"].as_tensor().long())
    assert torch.equal(moved, view.mask(mask, params))
    assert not torch.equal(moved, mask)


def test_any_librarys_random_state_comes_from_the_key_and_is_put_back() -> None:
    """lightly's blur reads numpy's generator, torchvision's crop reads torch's, a function of one's own Python's."""
    from lightly.transforms.gaussian_blur import GaussianBlur

    transform = v2.Compose(
        [
            v2.ToPILImage(),
            GaussianBlur(prob=0.5),
            v2.RandomResizedCrop(12),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Lambda(lambda x: x * random.random()),
        ]
    )
    view, x = PerSample(transform), torch.rand(6, 1, 20, 20)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    whole = view(x, view.draw(keys(6)))
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before  # noqa: NPY002
    assert torch.equal(whole[4:], view(x[4:], view.draw(keys(6)[4:])))
    assert len({round(float(row.sum()), 4) for row in whole}) == 6


def test_masks_that_cannot_follow_and_transforms_that_do_not_fit_are_rejected_with_a_message() -> None:
    x, mask = torch.rand(2, 1, 16, 16), torch.ones(2, 1, 16, 16)
    array = PerSample(mt.RandFlip(prob=1, spatial_axis=0))
    params = array.draw(keys(2))
    assert torch.equal(array(x, params), x.flip(2))
    with pytest.raises(MedsslError, match="a mask cannot follow RandFlip: expected MONAI's dictionary kind"):
        array.mask(mask, params)
    assert torch.equal(PerSample(mt.RandGaussianNoise(prob=1)).mask(mask, params), mask)
    with pytest.raises(MedsslError, match="keys \\['image', 'label'\\]: expected 'image' and 'mask'"):
        PerSample(mt.RandFlipd(("image", "label"), prob=1))
    blurred = PerSample(mt.RandAffined(PAIR, prob=1, rotate_range=0.5, mode="bilinear"))
    with pytest.raises(MedsslError, match="pass mode='nearest'"):
        blurred.with_mask(x, (x > 0.5).float(), blurred.draw(keys(2)))
    many = PerSample(mt.RandCropByPosNegLabeld(PAIR, "mask", (8, 8), num_samples=2))
    with pytest.raises(MedsslError, match="made 2 samples of one"):
        many.with_mask(x, mask, many.draw(keys(2)))
    with pytest.raises(MedsslError, match="places its crop by the scan's content"):
        many.mask(mask, many.draw(keys(2)))
    uneven = PerSample(mt.RandSpatialCropd(PAIR, (8, 8), random_size=True))
    with pytest.raises(MedsslError, match="expected one shape for the whole batch"):
        uneven(x, uneven.draw(keys(2)))


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """Six NIfTI volumes of 1 x 1.5 x 2 mm, oblique, with a ball in each, and the ball's mask."""
    folder = tmp_path_factory.mktemp("volumes")
    affine = nib.affines.from_matvec(nib.eulerangles.euler2mat(0.2, -0.1, 0.3) @ np.diag([1.0, 1.5, 2.0]), [-20, 7, 4])
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in (40, 36, 30)], indexing="ij"), -1)
    files = []
    for n in range(6):
        centre = np.array([18, 17, 14]) + np.random.default_rng(n).uniform(-3, 3, 3)
        ball = np.exp(-(((grid - centre) * [1, 1.5, 2]) ** 2).sum(-1) / 12)  # small enough that no crop cuts it
        for kind, array in (("image", ball), ("mask", ball > 0.5)):
            nib.save(nib.Nifti1Image(array.astype(np.float32), affine), folder / f"{kind}{n}.nii.gz")
        files.append({kind: str(folder / f"{kind}{n}.nii.gz") for kind in PAIR})
    return files


def centre_mm(x: torch.Tensor, affine: torch.Tensor) -> torch.Tensor:
    grid = torch.stack(torch.meshgrid(*[torch.arange(n) for n in x.shape], indexing="ij")).double()
    middle = (grid * x).flatten(1).sum(1) / x.sum()
    return (affine.double() @ torch.cat([middle, torch.ones(1).double()]))[:3]


def test_a_view_in_monais_cache_dataset_and_loader_keeps_every_voxel_where_it_was_in_millimetres(
    volumes: list[dict[str, str]],
) -> None:
    turned = Resample((32, 32, 28), (0.9, 1.1), 1.1, (20, 20, 20), (0.5, 0.5, 0.5), spacing_mm=(1, 1.5, 2))
    load = [mt.LoadImaged(PAIR), mt.EnsureChannelFirstd(PAIR)]
    view = Compose([turned, Noise(1e-4), Resample((30, 30, 26), shift=False)])
    pipeline = mt.Compose([*load, MonaiTransform(view, ["image"], ["mask"])]).set_random_state(seed=4)
    data = CacheDataset(volumes, pipeline, progress=False, num_workers=None)
    seen = 0
    for batch in MonaiLoader(data, batch_size=3, num_workers=0, generator=torch.Generator().manual_seed(1)):
        assert isinstance(batch["image"], MetaTensor)
        for n, (image, mask) in enumerate(zip(batch["image"], batch["mask"])):
            source = mt.Compose(load)(volumes[seen])
            for kind, x, within_mm in (("image", image, 0.15), ("mask", mask, 0.9)):  # a voxel is 2 mm long
                expected = centre_mm(source[kind][0].as_tensor(), source[kind].affine)
                assert (centre_mm(x[0].as_tensor(), batch[kind].affine[n]) - expected).norm() < within_mm
            assert image.shape == mask.shape == (1, 30, 30, 26)
            seen += 1
    assert seen == 6


def test_monais_random_state_rules_the_view_and_its_workers_differ(volumes: list[dict[str, str]]) -> None:
    one = MonaiTransform(recipes.contrastive(DataSpec(3, modality="MR"), (16, 16, 16)), ["image"])
    data = [{"image": torch.rand(1, 24, 24, 24, generator=torch.Generator().manual_seed(n))} for n in range(2)]
    first = one.set_random_state(seed=3)(data[0])["image"]
    again = one(data[0])["image"]
    assert torch.equal(first, one.set_random_state(seed=3)(data[0])["image"])
    assert not torch.equal(first, again)
    two = MonaiTransform(recipes.contrastive(DataSpec(3, modality="MR"), (16, 16, 16)), ["a", "b"])
    both = two({"a": data[0]["image"], "b": data[0]["image"].numpy(), "label": 3})
    assert torch.equal(both["a"], both["b"])
    assert both["label"] == 3
    assert type(first) is torch.Tensor
    loader = MonaiLoader(
        CacheDataset([data[0]] * 4, one, progress=False, num_workers=None), batch_size=2, num_workers=2
    )
    rows = torch.cat([batch["image"] for batch in loader])
    assert len({round(float(row.sum()), 3) for row in rows}) == 4
    with pytest.raises(KeyError, match="a"):
        two({"b": data[0]["image"]})


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", sorted(registry.VIEWS.classes()))
def test_every_view_is_a_transform_of_monai_and_of_torchvision(name: str, dims: int) -> None:
    """MONAI's gives exactly what the view itself gives for the key that was drawn; torchvision's keeps its key to itself."""
    for view in examples_of(registry.VIEWS.classes()[name], dims):
        image = torch.rand(view.channels or 1, *(24,) * dims)
        monai_transform = MonaiTransform(view).set_random_state(seed=1)
        changed = monai_transform({"image": image})["image"]
        assert torch.equal(changed, view(image[None], view.draw(torch.tensor([monai_transform.key])))[0])
        changed_by_torchvision = TorchvisionTransform(view)(image)
        assert changed_by_torchvision.shape == changed.shape
        assert changed_by_torchvision.isfinite().all()


def test_an_affine_that_would_be_wrong_is_refused() -> None:
    flipped = PerSample(mt.RandFlipd(PAIR, prob=1))
    image = MetaTensor(torch.rand(1, 16, 16))
    with pytest.raises(MedsslError, match="PerSample moves voxels in a way no affine describes.*EnsureTyped"):
        MonaiTransform(flipped)({"image": image})
    bent = Resample((12, 12), (0.9, 1.1), elastic_mm=1)
    with pytest.raises(MedsslError, match="Resample moves voxels in a way no affine describes"):
        MonaiTransform(Compose([Gamma(), bent]))({"image": image})
    assert MonaiTransform(flipped)({"image": image.as_tensor()})["image"].shape == (1, 16, 16)
    assert MonaiTransform(bent)({"image": image.as_tensor()})["image"].shape == (1, 12, 12)


@pytest.mark.parametrize("dims", [2, 3])
def test_the_index_map_of_a_view_is_the_one_the_voxels_took(dims: int) -> None:
    """Reference: a volume that holds its own indices, resampled; tolerance 1e-3 voxels inside of the source."""
    shape = (40, 44, 36)[:dims]
    places = torch.stack(torch.meshgrid(*[torch.arange(float(n)) for n in shape], indexing="ij"))[None]
    size = (12, 14, 10)[:dims]
    view = Compose(
        [
            Resample(tuple(n - 6 for n in shape), (0.9, 0.95), 1.0, (10,) * (3 if dims == 3 else 1)),
            Resample(size, (0.7, 1.1), 1.2, (25,) * (3 if dims == 3 else 1), (0.5,) * dims),
        ]
    )
    index = torch.stack(torch.meshgrid(*[torch.arange(n) for n in size], indexing="ij")).flatten(1).double()
    for seed in range(5):
        params = view.draw(keys(1, seed))
        inside = view(torch.ones(1, 1, *shape), params).flatten() > 0.9999
        step = source_voxels(view, params, shape)
        expected = step[:-1, :-1] @ index + step[:-1, -1:]
        assert inside.float().mean() > 0.5
        assert (view(places, params)[0].flatten(1) - expected)[:, inside].abs().max() < 1e-3


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    for n in range(8):
        (folder / f"class{n % 2}").mkdir(exist_ok=True)
        pixels = np.random.default_rng(n).integers(0, 255, (40, 36, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"class{n % 2}" / f"{n}.png")
    return folder


def test_views_in_lightlys_dataset_with_torchs_and_lightlys_collate(films: Path) -> None:
    spec = DataSpec(2, modality="XRAY")
    transform = LightlyTransform([recipes.contrastive(spec, (32, 32))] * 2 + [recipes.masked(spec, (16, 16))])
    data = LightlyDataset(str(films), transform=transform)
    for collate in (default_collate, MultiViewCollate()):
        torch.manual_seed(0)
        loader = DataLoader(data, batch_size=4, collate_fn=collate, shuffle=True, drop_last=True)
        batches = list(loader)
        assert len(batches) == 2
        for views, labels, names in batches:
            assert [tuple(v.shape) for v in views] == [(4, 3, 32, 32)] * 2 + [(4, 3, 16, 16)]
            assert all(type(v) is torch.Tensor and v.isfinite().all() for v in views)
            assert not torch.equal(views[0], views[1])
            assert len(labels) == len(names) == 4
        torch.manual_seed(0)
        assert torch.equal(next(iter(loader))[0][0], batches[0][0][0])
    spawned = DataLoader(data, batch_size=2, num_workers=2, collate_fn=MultiViewCollate())
    rows = torch.cat([views[0] for views, _, _ in spawned])
    assert len({round(float(row.sum()), 3) for row in rows}) == 8
    assert len(pickle.dumps(transform)) > 0


def test_views_as_torchvision_v2_transforms_in_its_datasets(films: Path) -> None:
    ours = TorchvisionTransform(Compose([Resample((24, 24), (0.7, 1.0), 1.0, (20,), (0.5, 0.5)), Gamma(1.3)]))
    fake = FakeData(6, (3, 32, 32), transform=v2.Compose([v2.ToImage(), ours, v2.RandomHorizontalFlip()]))
    images, labels = next(iter(DataLoader(fake, batch_size=6)))
    assert images.shape == (6, 3, 24, 24)
    assert images.dtype == torch.float32
    assert 0 <= images.min() < images.max() <= 1.0001
    assert len(labels) == 6


def test_torchvisions_image_and_masks_move_together_and_the_rest_is_left_alone() -> None:
    blob = torch.zeros(1, 40, 40)
    blob[:, 8:15, 20:30] = 1
    ours = TorchvisionTransform(Resample((40, 40), (0.8, 1.2), 1.1, (40,), (0.5, 0.5)))
    for seed in range(5):
        torch.manual_seed(seed)
        sample = {"image": tv_tensors.Image(blob), "masks": [tv_tensors.Mask(blob[0].long())], "label": torch.tensor(7)}
        out = ours(sample)
        assert isinstance(out["image"], tv_tensors.Image)
        assert isinstance(out["masks"][0], tv_tensors.Mask)
        assert out["masks"][0].dtype == torch.int64
        assert out["label"] == 7
        away = ((out["image"][0] > 0.5) ^ (out["masks"][0] > 0)).float().mean()
        assert away < 0.01 < blob.mean()
    pair = ours(blob, tv_tensors.Mask(blob[0].long()))
    assert type(pair[0]) is torch.Tensor
    boxes = tv_tensors.BoundingBoxes([[0, 0, 5, 5]], format="XYXY", canvas_size=(40, 40))
    with pytest.raises(MedsslError, match="BoundingBoxes came with the image"):
        ours(tv_tensors.Image(blob), boxes)
    with pytest.raises(MedsslError, match="the image has the type torch.int16"):
        ours(blob.short())
