"""Linear probing, then fine-tuning (Kumar et al. 2022, arXiv 2202.10054): the head starts as a logistic regression on the
features of the pretrained encoder, so that a random head does not distort them in the first steps.

    start_from_probe(model, cache, scans, labels, size=(64, 64))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from medssl.evaluation.representation import embed
from medssl.preprocessing.cache import Cache
from medssl.training.models import Classifier


def start_from_probe(
    model: Classifier, cache: Cache, scans: Sequence[str], labels: Mapping[str, int], size: Sequence[int]
) -> None:
    """Set the head of a classifier, in place, to the logistic regression on standardised features of these scans.

    Args:
        model: Its encoder is pretrained; its head gets a row for each class. With scans of one class it is unchanged.
        cache: Where the scans are.
        scans: Labelled scans to learn from.
        labels: Class number of each scan.
        size: Voxels of the middle crop along each axis.
    """
    numbers = np.array([labels[scan] for scan in scans])
    present = np.unique(numbers)
    if len(present) < 2:
        return
    features = embed(model.encoder, cache, scans, size)
    scale = StandardScaler().fit(features)
    probe = LogisticRegression(C=0.1, max_iter=2000).fit(scale.transform(features), numbers)
    weight, bias = probe.coef_, probe.intercept_
    if len(present) == 2:  # scikit-learn gives one row, for the second class
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    weight = weight / scale.scale_
    bias = bias - weight @ scale.mean_
    with torch.no_grad():
        model.head.weight[present] = torch.from_numpy(weight).to(model.head.weight)
        model.head.bias[present] = torch.from_numpy(bias).to(model.head.bias)
        missing = np.setdiff1d(np.arange(len(model.head.bias)), present)
        model.head.bias[missing] = float(bias.min()) - 5.0  # a class that no scan shows is not predicted
