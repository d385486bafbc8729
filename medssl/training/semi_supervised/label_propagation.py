"""Label propagation (Iscen et al. 2019, arXiv 1904.04717): labels spread over a graph of nearest neighbours in feature space,
and the model learns what reached each unlabelled scan."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from medssl.core.errors import MedsslError
from medssl.evaluation.propagation import propagate
from medssl.evaluation.representation import embed
from medssl.training.config import FinetuneConfig
from medssl.training.semi_supervised.base import SemiSupervised, SemiSupervisedModule, check_options
from medssl.training.supervised import TrainingData


class LabelPropagation(SemiSupervised):
    """The graph is made once, of the features that the model starts with.

    Args:
        neighbours: Of each scan in the graph.
        weight: Weight of the unlabelled loss.

    Example:
        >>> algorithm = LabelPropagation(neighbours=15)
    """

    tasks = ("classification",)
    needs_pretraining = True

    def __init__(self, neighbours: int = 15, weight: float = 1.0):
        check_options("label-propagation", neighbours=(neighbours, 1, 1000), weight=(weight, 0, math.inf))
        if int(neighbours) != neighbours:
            raise MedsslError(f"neighbours of label-propagation is {neighbours}: expected a whole number")
        self.neighbours, self.weight = int(neighbours), weight
        self.soft = torch.empty(0)

    def prepare(self, model: nn.Module, data: TrainingData, settings: FinetuneConfig, seed: int) -> None:
        shown = {data.task.classes[data.task.labels[scan]] for scan in data.training}
        if len(shown) < 2:
            raise MedsslError(
                f"the {len(data.training)} labelled scans show {', '.join(shown)} only, which would spread to all others: expected "
                "two classes or more; label scans of the others"
            )
        scans = [*data.training, *data.unlabelled]
        encoder: Any = model.encoder
        features = StandardScaler().fit_transform(embed(encoder, data.cache, scans, data.size))
        labels = np.full(len(scans), -1)
        labels[: len(data.training)] = [data.task.labels[scan] for scan in data.training]
        spread = propagate(features, labels, data.task.outputs, self.neighbours)
        self.soft = torch.from_numpy(spread[len(data.training) :]).float()

    def loss(self, module: SemiSupervisedModule, labelled: dict[str, Any], unlabelled: dict[str, Any]) -> Tensor:
        strong = module.strong(module.weak(unlabelled), unlabelled)
        soft = self.soft.to(strong.device)[unlabelled["scan"].to(strong.device)]
        own = module.task.soft_loss(module.model(strong), soft, torch.ones(len(soft), device=strong.device))
        return module.supervised_loss(labelled) + self.weight * own
