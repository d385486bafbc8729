"""MoCo: a query is matched with its own key, made by a slowly moving teacher, among many others.

v2: He et al., Momentum Contrast, CVPR 2020 (arXiv 1911.05722), with Chen et al. 2020 (arXiv 2003.04297): the others are a
queue of the keys of earlier batches. v3: Chen, Xie and He, ICCV 2021 (arXiv 2104.02057): the others are the batch, both
views are queries and keys, and a predictor follows the student.

    medssl pretrain --data CACHE --method MoCo --method.queue 1024
    medssl pretrain --data CACHE --method MoCo --method.version v3 --method.chunk 64 --batch-size 4096

Fine-tuning takes the query encoder, as the papers do.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from lightly.models.modules import MoCoProjectionHead
from torch import Tensor, nn

from medssl.core.errors import MedsslError
from medssl.encoders.base import Encoder
from medssl.methods.shared.contrast import Similarity, check_temperature, info_nce, info_nce_of_queue
from medssl.methods.shared.devices import gather_all
from medssl.methods.shared.teacher import StudentTeacher

NO_SCAN = -1  # of the random keys that a queue starts with


class MoCo(StudentTeacher):
    """InfoNCE of queries and a teacher's keys.

    Keys of the query's own scan are never its negatives, a deviation for small cohorts.

    Args:
        version: "v2" (a queue) or "v3" (no queue, symmetric, with a predictor).
        temperature: Of InfoNCE (0.2 in both papers).
        queue: Keys in the queue of v2. The paper's 65,536 are 5% of its images; in a cohort of hundreds, so many would be
            old keys of the same few scans.
        momentum: Share of itself that the teacher keeps at a step; constant in v2 (0.999 in the paper), rising to 1 in v3
            (from 0.99); see `shared/teacher.py`.
        hidden: Width of the heads' hidden layers (2048 in v2, 4096 in v3, for features 2048 wide).
        projection: Width of the heads' output (128 in v2, 256 in v3).
        similarity: Of two projections (cosine in the papers); `shared/contrast.py` defines the others.
        chunk: Samples that pass the encoder at a time, see `TwoViews`.

    Raises:
        MedsslError: `temperature` is not above 0, `queue` is below 1, or `momentum` is not a share from 0 to 1.
    """

    def __init__(
        self,
        encoder: Encoder,
        version: Literal["v2", "v3"] = "v2",
        temperature: float = 0.2,
        queue: int = 1024,
        momentum: float = 0.99,
        hidden: int = 512,
        projection: int = 128,
        similarity: Similarity = "cosine",
        chunk: int = 0,
    ):
        super().__init__(encoder, momentum, chunk)
        check_temperature(temperature)
        if queue < 1:
            raise MedsslError(f"queue is {queue}: expected 1 key or more; for none take --method.version v3")
        self.version, self.temperature, self.queue = version, temperature, queue
        self.hidden, self.projection, self.similarity = hidden, projection, similarity
        v3 = version == "v3"
        self.head = MoCoProjectionHead(encoder.out_dim, hidden, projection, 3 if v3 else 2, batch_norm=v3)
        self.make_teacher()
        if v3:
            self.predictor = MoCoProjectionHead(projection, hidden, projection, 2, batch_norm=True)
        else:
            self.last_momentum = momentum
            self.keys = Queue(queue, projection)

    def loss(self, batch: dict[str, Any]) -> Tensor:
        return self.symmetric_loss(batch) if self.version == "v3" else self.queue_loss(batch)

    def monitored_values(self) -> dict[str, float]:
        if self.version == "v3":
            return super().monitored_values()
        return super().monitored_values() | {"queue_filled": float((self.keys.scans != NO_SCAN).float().mean())}

    def queue_loss(self, batch: dict[str, Any]) -> Tensor:
        """v2: the first view gives the query, the second the key; each key of the queue is stored with its scan's number."""
        query_view, key_view = batch["views"]
        queries, keys, scans = self.project(query_view), self.targets(key_view), batch["scan"]
        earlier, excluded = self.keys.entries.clone(), scans[:, None] == self.keys.scans[None]
        if self.training:
            self.keys.add(F.normalize(keys, dim=1), scans)
        return info_nce_of_queue(queries, keys, earlier, self.temperature, self.similarity, excluded)

    def symmetric_loss(self, batch: dict[str, Any]) -> Tensor:
        """v3: each view gives a query and a key."""
        first, second = (self.predictor(z) for z in self.projections(batch))
        first_key, second_key = self.targets(*batch["views"]).chunk(2)
        one = info_nce(first, second_key, self.temperature, self.similarity, batch["scan"])
        other = info_nce(second, first_key, self.temperature, self.similarity, batch["scan"])
        return 2 * self.temperature * (one + other)


class Queue(nn.Module):
    """The newest keys of all devices, each with the number of its scan; a part of the checkpoint.

    Args:
        length: Keys that it holds.
        width: Length of a key.

    Attributes:
        entries: (length, width), of length 1 each; random at first.
        scans: (length,) int64, `NO_SCAN` where a key is random.
        place: () int64, where the next key is written.
    """

    entries: Tensor
    scans: Tensor
    place: Tensor

    def __init__(self, length: int, width: int):
        super().__init__()
        self.register_buffer("entries", F.normalize(torch.randn(length, width), dim=1))
        self.register_buffer("scans", torch.full((length,), NO_SCAN))
        self.register_buffer("place", torch.tensor(0))

    @torch.no_grad()
    def add(self, keys: Tensor, scans: Tensor) -> None:
        """Replace the oldest keys.

        Args:
            keys: (B, width), of this device.
            scans: (B,) int64, the numbers of their scans.
        """
        length = len(self.scans)
        keys, scans = gather_all(keys)[-length:], gather_all(scans)[-length:]
        where = (self.place + torch.arange(len(keys), device=keys.device)) % length
        self.entries[where], self.scans[where] = keys.to(self.entries.dtype), scans
        self.place.copy_((self.place + len(keys)) % length)
