"""References without training: class means, named clusters, and a random encoder with the statistics of the scans."""

import numpy as np
import torch

from medssl.encoders import ResNet
from medssl.evaluation.representation import calibrate_norms, class_mean_scores, cluster_scores
from medssl.preprocessing.cache import Cache


def blobs(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = np.arange(90) % 3
    middles = np.array([[0, 0], [8, 0], [0, 8]])
    return (middles[labels] + generator.normal(size=(90, 2))).astype(np.float32), labels


def test_one_labelled_scan_of_each_class_names_the_others() -> None:
    features, labels = blobs()
    for scores in (class_mean_scores, cluster_scores):
        given = scores(features[:3], labels[:3], features[3:], 3, features)
        assert np.allclose(given.sum(1), 1, atol=1e-5)
        assert (given.argmax(1) == labels[3:]).mean() > 0.95


def test_a_class_that_no_scan_shows_gets_no_probability() -> None:
    features, labels = blobs()
    shown = labels != 1
    for scores in (class_mean_scores, cluster_scores):
        assert (scores(features[shown], labels[shown], features, 3, features)[:, 1] == 0).all()


def test_the_nearest_mean_is_the_most_likely() -> None:
    features, labels = blobs()
    given = class_mean_scores(features[:30], labels[:30], features[30:], 3, features)
    scaled = (features - features.mean(0)) / features.std(0)
    means = np.stack([scaled[:30][labels[:30] == c].mean(0) for c in range(3)])
    nearest = ((scaled[30:, None] - means) ** 2).sum(2).argmin(1)
    assert np.array_equal(given.argmax(1), nearest)


def test_the_norms_of_a_random_encoder_get_the_statistics_of_the_scans(cache: Cache) -> None:
    encoder = ResNet(dims=3, depth=10, width=4, max_pool=False).eval()
    scans, size = list(cache.manifest["scan"])[:6], (16, 16, 16)
    calibrate_norms(encoder, cache, scans, size)
    assert not encoder.training
    first = encoder.net.bn1
    inputs: list[torch.Tensor] = []
    first.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    from medssl.views.center_crops import center_crops

    with torch.no_grad():
        encoder(center_crops(cache, scans, size))
    expected = inputs[0].transpose(0, 1).flatten(1)
    assert torch.allclose(first.running_mean, expected.mean(1), atol=1e-5)
    assert torch.allclose(first.running_var, expected.var(1), rtol=1e-4)
    assert first.momentum == 0.1
