"""The bytes that the viewer gets are the cache's voxels, at their place in the patient, and only what a page offered is sent."""

import asyncio
import gzip
from dataclasses import replace

import nibabel
import numpy as np
import pytest

from medssl.core.errors import MedsslError
from medssl.datasets.index import index
from medssl.preprocessing.cache import Cache, prepare
from medssl.reporting.dashboard import volume_route, volumes
from medssl.reporting.dashboard.volumes import Offered, Volume
from medssl.studies import masks

SHAPE = (5, 4, 70)  # more slices than one slab
OBLIQUE = np.array(
    [[0.8, -0.1, 0.9, -31.5], [0.15, 0.7, 0.4, 12.25], [-0.2, 0.05, 4.9, 100.0], [0, 0, 0, 1]]
)  # anisotropic, turned and sheared


def volume(array: np.ndarray, slope: float = 1.0) -> Volume:
    """What `array`, (X, Y, Z) or (C, X, Y, Z), is as a volume."""
    frames = array.shape[0] if array.ndim == 4 else 1
    kind = array.dtype.type
    return Volume(
        "a", array.shape[-3:], frames, OBLIQUE, kind, slope, kind is np.uint8, lambda z, n: array[..., z : z + n]
    )


def read(sent: Volume) -> nibabel.Nifti1Image:
    content = b"".join(volumes.nifti(sent))
    assert len(content) == sent.size
    return nibabel.Nifti1Image.from_bytes(content)


@pytest.mark.parametrize("kind", [np.int16, np.uint8])
def test_values_affine_and_orientation_are_exact(kind: type) -> None:
    array = np.random.default_rng(0).integers(np.iinfo(kind).min, np.iinfo(kind).max, SHAPE, endpoint=True, dtype=kind)
    image = read(volume(array))
    assert image.get_data_dtype() == kind
    np.testing.assert_array_equal(np.asarray(image.dataobj), array)
    np.testing.assert_array_equal(image.affine, OBLIQUE.astype(np.float32))
    assert image.header["sform_code"] == 2
    assert image.header["qform_code"] == 0  # it could not hold the shear
    np.testing.assert_allclose(image.header.get_zooms(), np.linalg.norm(OBLIQUE[:3, :3], axis=0), rtol=1e-6)
    assert nibabel.aff2axcodes(image.affine) == ("R", "A", "S")
    assert image.header.get_xyzt_units()[0] == "mm"


def test_frames_follow_each_other() -> None:
    array = np.arange(3 * np.prod(SHAPE), dtype=np.int16).reshape(3, *SHAPE)
    image = read(volume(array))
    assert image.shape == (*SHAPE, 3)
    np.testing.assert_array_equal(np.moveaxis(np.asarray(image.dataobj), 3, 0), array)


@pytest.mark.parametrize("level", [volumes.NONE, volumes.STRONG])
def test_gzip_gives_the_same_bytes(level: int) -> None:
    sent = volume(np.zeros(SHAPE, np.uint8))
    packed = b"".join(volumes.gzipped(volumes.nifti(sent), level))
    assert gzip.decompress(packed) == b"".join(volumes.nifti(sent))
    assert (len(packed) < sent.size / 2) == (level == volumes.STRONG)


def test_a_ct_is_sent_in_its_own_hu_with_its_reference(cache: Cache) -> None:
    scan = cache.manifest["scan"].iloc[0]
    sent = volumes.scan_volume(cache, scan)
    np.testing.assert_array_equal(np.asarray(read(sent).dataobj), cache.read(scan)[0])
    np.testing.assert_array_equal(read(sent).affine, cache.affine(scan).astype(np.float32))
    reference = volumes.reference_volume(cache, scan)
    assert reference.labels
    np.testing.assert_array_equal(np.asarray(read(reference).dataobj), cache.read_mask(scan))


def test_an_mr_keeps_the_scale_of_the_cache_and_its_anisotropic_grid(tmp_path) -> None:
    array = np.random.default_rng(0).gamma(2, 100, (12, 10, 8)).astype(np.float32)
    affine = nibabel.affines.from_matvec(rotation(0.2) @ np.diag([0.9, 1.1, 4.0]), [1.5, -20, 7])
    nibabel.save(nibabel.Nifti1Image(array, affine), tmp_path / "a.nii.gz")
    index([tmp_path / "a.nii.gz"], tmp_path / "manifest", modality="MR")
    cache = prepare(tmp_path / "manifest", tmp_path / "cache")
    scan = cache.manifest["scan"].iloc[0]
    image = read(volumes.scan_volume(cache, scan))
    kept = cache.read(scan)[0].astype(np.float64)
    assert kept.std() > 0.1
    np.testing.assert_allclose(image.get_fdata(), kept, atol=volumes.STEP / 2 + 1e-9)
    np.testing.assert_array_equal(image.affine, cache.affine(scan).astype(np.float32))
    assert max(image.header.get_zooms()) / min(image.header.get_zooms()) > 2


def rotation(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])


def test_a_predicted_mask_is_sent_or_said_to_be_missing(cache: Cache, tmp_path) -> None:
    scan = cache.manifest["scan"].iloc[0]
    assert volumes.predicted_volume(cache, scan, tmp_path) is None
    predicted = np.random.default_rng(0).integers(0, 3, cache.shape(scan)).astype(np.uint8)
    masks.write(tmp_path, {scan: predicted})
    sent = volumes.predicted_volume(cache, scan, tmp_path)
    np.testing.assert_array_equal(np.asarray(read(sent).dataobj), predicted)
    (tmp_path / "masks" / f"{scan}.b2nd").unlink()
    with pytest.raises(MedsslError, match="load the page again"):
        list(volumes.nifti(sent))


def test_only_what_was_offered_is_there_under_an_address_that_cannot_be_guessed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(volumes, "MOST_OFFERED", 2)
    offered, other = Offered(), Offered()
    names = [replace(volume(np.zeros(SHAPE, np.uint8)), name=name) for name in "abc"]
    first, second, _ = [offered.offer(each) for each in (names[0], names[1], names[0])]
    assert first == offered.offer(names[0])
    assert first != other.offer(names[0])
    assert first != second
    assert offered.get(first.removeprefix("volumes/")) is names[0]
    assert offered.get("0" * 64) is None
    third = offered.offer(names[2])
    assert offered.get(second.removeprefix("volumes/")) is None  # the one used longest ago
    assert {len(address) for address in (first, second, third)} == {len("volumes/") + 64}


def answer(digest: str, client: str = "127.0.0.1") -> tuple[int, dict[str, str], bytes]:
    sent: list[dict] = []

    async def send(message) -> None:
        sent.append(message)

    async def receive() -> dict:
        await asyncio.sleep(60)
        return {"type": "http.disconnect"}

    scope = {"type": "http", "method": "GET", "path": f"/volumes/{digest}", "path_params": {"digest": digest}}
    scope |= {"headers": [], "query_string": b"", "client": (client, 1), "asgi": {"version": "3.0"}}
    asyncio.run(volume_route.volume_route().app(scope, receive, send))
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], headers, b"".join(message.get("body", b"") for message in sent[1:])


def test_the_route_sends_offered_volumes_and_nothing_else() -> None:
    pytest.importorskip("starlette", reason="needs streamlit: pip install 'medssl[app]'")
    sent = volume(np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE))
    digest = volumes.OFFERED.offer(sent).removeprefix("volumes/")
    status, headers, body = answer(digest)
    assert status == 200
    assert headers["cache-control"] == "no-store"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert int(headers["x-volume-bytes"]) == len(gzip.decompress(body)) == sent.size
    assert len(answer(digest, "10.0.0.7")[2]) < len(body)  # packed where it travels
    for wrong in (digest[:-1] + "x", "..", "%2e%2e%2fetc%2fpasswd", ""):
        status, _, body = answer(wrong)
        assert (status, body[:11]) == (404, b"This volume")
