"""What a magnetic resonance scanner does to a picture: the coil's bias field.

    view = BiasField(order=3, strength=0.3)
    y = view(x, view.draw(keys))                           # (B, C, *S) -> (B, C, *S)

Axes are array axes of the RAS+ volume; a bias is a factor, so air at 0 stays 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from medssl.errors import MedsslError
from medssl.views.base import Params, View, mix, uniform


class BiasField(View):
    """x -> x * exp(field), the field a sum of Legendre polynomials up to `order` over the crop, the same in all channels.

    strength: each coefficient is drawn from -strength..strength; there is no constant one, since that is brightness.
    Van Leemput et al., Automated model-based bias field correction of MR images of the brain, IEEE TMI 1999.
    """

    def __init__(self, order: int = 3, strength: float = 0.3, probability: float = 0.5):
        super().__init__()
        if order < 1 or strength < 0:
            raise MedsslError(
                f"order is {order}, strength is {strength}: expected an order from 1 and a strength from 0"
            )
        self.order, self.strength, self.probability = order, strength, probability

    def parameters_of(self, keys: Tensor) -> Params:
        drawn = uniform(mix(keys, 31), (self.order + 1) ** 3, -self.strength, self.strength)
        return {"coefficients": drawn.reshape(-1, *[self.order + 1] * 3)}  # (B, n, n, n), n = order + 1

    def apply_to(self, x: Tensor, params: Params) -> Tensor:
        return x * self.log_field(x, params["coefficients"]).exp_().to(x.dtype)

    def log_field(self, x: Tensor, coefficients: Tensor) -> Tensor:
        """(B, 1, *S), one axis after the other: a voxel costs `order` + 1 multiplications."""
        terms = torch.arange(self.order + 1, device=x.device)
        degree = terms[:, None, None] + terms[:, None] + terms
        field = coefficients * ((degree > 0) & (degree <= self.order))
        field = field[..., 0] if x.ndim == 4 else field
        for size in x.shape[2:]:  # (B, terms, *rest) -> (B, *rest, size)
            field = torch.tensordot(field, legendre(self.order, size, x.device), ([1], [0]))
        return field[:, None]


def legendre(order: int, size: int, device: torch.device) -> Tensor:
    """(order + 1, size): the Legendre polynomials at `size` places from -1 to 1, by Bonnet's recursion."""
    t = torch.linspace(-1, 1, size, device=device)
    found = [torch.ones_like(t), t]
    for k in range(1, order):
        found.append(((2 * k + 1) * t * found[k] - k * found[k - 1]) / (k + 1))
    return torch.stack(found)
