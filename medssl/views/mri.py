"""What a magnetic resonance scanner does to a picture: bias field, noise, and the artefacts of k-space.

    view = Compose([BiasField(), Ghosting(probability=0.2), RicianNoise()])
    y = view(x, view.draw(keys))                           # (B, C, *S) -> (B, C, *S)

A line is one phase-encoding step: lines are counted along the phase axis, the centre of k-space at half of them. `axes`
are the array axes in plane, (0, 1) for images and for axial stacks; of these each sample's phase axis is drawn. Images
are taken to be 0..1 with air at 0, and voxels of a phase that is known: what comes back is the real part.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from medssl.core.errors import MedsslError
from medssl.views.base import Params, View, per_sample
from medssl.views.kspace import expect, filtered, frequency, magnitude, on_axis, plane
from medssl.views.random import derive_keys, uniform
from medssl.views.separable import spread
from medssl.views.spatial import rotation

Range = tuple[float, float]


class BiasField(View):
    """x -> x * exp(field), the field a sum of Legendre polynomials up to `order` over the crop, the same in all channels.

    strength: each coefficient is drawn from -strength..strength; there is no constant one, since that is brightness.
    Van Leemput et al., Automated model-based bias field correction of MR images of the brain, IEEE TMI 1999.
    """

    def __init__(self, order: int = 3, strength: float = 0.3, probability: float = 0.5):
        super().__init__()
        expect("BiasField's order", order, 1)
        expect("BiasField's strength", strength)
        self.order, self.strength, self.probability = order, strength, probability

    def parameters_of(self, keys: Tensor) -> Params:
        drawn = uniform(derive_keys(keys, 31), (self.order + 1) ** 3, -self.strength, self.strength)
        return {"coefficients": drawn.reshape(-1, *[self.order + 1] * 3)}  # (B, n, n, n), n = order + 1

    def apply_to(self, x: Tensor, params: Params) -> Tensor:
        return x * self.log_field(x, params["coefficients"]).exp_()

    def log_field(self, x: Tensor, coefficients: Tensor) -> Tensor:
        """(B, 1, *S), one axis after the other: a voxel costs `order` + 1 multiplications."""
        terms = torch.arange(self.order + 1, device=x.device)
        degree = terms[:, None, None] + terms[:, None] + terms
        field = (coefficients * ((degree > 0) & (degree <= self.order)))[:, None]
        field = field[..., 0] if x.ndim == 4 else field
        return spread(field, [legendre(self.order, size, x.device) for size in x.shape[2:]])


class RicianNoise(View):
    """x -> |x + complex Gaussian noise|, its deviation in each part drawn from 0..`most`: Rayleigh noise in air.

    Gudbjartsson and Patz, The Rician distribution of noisy MRI data, Magnetic Resonance in Medicine 1995.
    """

    def __init__(self, most: float = 0.05, probability: float = 0.5):
        super().__init__()
        expect("RicianNoise's most", most)
        self.most, self.probability = most, probability

    def parameters_of(self, keys: Tensor) -> Params:
        return {"sigma": uniform(keys, 1, 0, self.most)[:, 0], "key": derive_keys(keys, 32)}

    def apply_to(self, x: Tensor, params: Params) -> Tensor:
        return magnitude(x, params["sigma"], params["key"])


class Ghosting(View):
    """Every n-th line is weaker by `strength`: n - 1 faint copies along the phase axis, as from breathing or pulsation.

    ghosts: the range of n. kept: the share of lines about the centre that stay as they are.
    Axel et al., Respiratory effects in two-dimensional Fourier transform MR imaging, Radiology 1986.
    """

    def __init__(
        self, ghosts: tuple[int, int] = (3, 8), strength: Range = (0.2, 0.6), kept: float = 0.02,
        axes: Sequence[int] = (0, 1), probability: float = 0.2,
    ):  # fmt: skip
        super().__init__()
        expect("Ghosting's ghosts", ghosts, 2)
        expect("Ghosting's strength", strength, 0, 1)
        expect("Ghosting's kept", kept, 0, 1)
        self.ghosts, self.strength, self.kept = ghosts, strength, kept
        self.axes, self.probability = tuple(axes), probability

    def parameters_of(self, keys: Tensor) -> Params:
        ghosts = uniform(derive_keys(keys, 1), 1, self.ghosts[0], self.ghosts[1] + 1)[:, 0].long()
        strength = uniform(derive_keys(keys, 2), 1, *self.strength)[:, 0]
        return {"ghosts": ghosts, "strength": strength, "axis": drawn_axis(keys, self.axes)}

    def apply_to(self, x: Tensor, params: Params) -> Tensor:
        line, count = phase_lines(x, params["axis"], self.axes)
        away = (line - count // 2).abs()
        weak = (away % per_sample(params["ghosts"], x) == 0) & (away > self.kept / 2 * count)
        return filtered(x, 1 - per_sample(params["strength"], x) * weak)


class Spikes(View):
    """Stray points in k-space: 1..`count` plane waves over the image ("herringbone"), each the real part of one point.

    strength: the range of a point's size against that at the centre of k-space, the image's mean times its voxels.
    """

    def __init__(self, count: int = 2, strength: Range = (0.1, 0.5), probability: float = 0.1):
        super().__init__()
        expect("Spikes' count", count, 1)
        expect("Spikes' strength", strength)
        self.count, self.strength, self.probability = count, strength, probability

    def parameters_of(self, keys: Tensor) -> Params:
        present = uniform(derive_keys(keys, 1), 1, 1, self.count + 1).long() > torch.arange(
            self.count, device=keys.device
        )
        return {
            "place": uniform(derive_keys(keys, 2), 3 * self.count, -0.5, 0.5).reshape(
                -1, self.count, 3
            ),  # cycles a voxel
            "phase": uniform(derive_keys(keys, 3), self.count, 0, 2 * math.pi),
            "strength": uniform(derive_keys(keys, 4), self.count, *self.strength) * present,
        }

    def apply_to(self, x: Tensor, params: Params) -> Tensor:
        mean = x.mean(dim=tuple(range(2, x.ndim)), keepdim=True)
        waves = torch.zeros_like(x[:, :1])
        for k in range(self.count):
            turns = per_sample(params["phase"][:, k], x)
            for axis, size in enumerate(x.shape[2:]):
                cycles = (params["place"][:, k, axis, None] * size).round() / size
                turns = turns + on_axis(2 * math.pi * cycles * torch.arange(size, device=x.device), x, axis + 2)
            waves = waves + per_sample(params["strength"][:, k], x) * turns.cos()
        return x + mean * waves


class Gibbs(View):
    """Ringing at edges: k-space beyond the share `kept` of its half width is missing along each of `axes`.

    The overshoot at an edge is 9% of its height whatever the share (Gibbs 1899; in MR: Czervionke et al., AJNR 1988).
    """

    def __init__(self, kept: Range = (0.4, 0.8), axes: Sequence[int] = (0, 1), probability: float = 0.2):
        super().__init__()
        expect("Gibbs' kept", kept, 0, 1)
        self.kept, self.axes, self.probability = kept, tuple(axes), probability

    def parameters_of(self, keys: Tensor) -> Params:
        return {"kept": uniform(keys, 1, *self.kept)[:, 0]}

    def apply_to(self, x: Tensor, params: Params) -> Tensor:
        weights = torch.ones_like(per_sample(params["kept"], x))
        for axis in plane(self.axes, x):
            weights = weights * (frequency(x, axis + 2).abs() <= per_sample(params["kept"], x) / 2)
        return filtered(x, weights)


class Undersampling(View):
    """Lines left out at random but for the centre, and filled with zeros: aliasing noise along the phase axis.

    acceleration: the range of how many times fewer lines there are. centre: the share about the centre that is kept.
    Zbontar et al., fastMRI (arXiv 1811.08839), random masks.
    """

    def __init__(
        self, acceleration: Range = (1.5, 4.0), centre: float = 0.08, axes: Sequence[int] = (0, 1),
        probability: float = 0.2,
    ):  # fmt: skip
        super().__init__()
        expect("acceleration", acceleration, 1)
        expect("centre", centre, 0, 1 / acceleration[1])
        self.acceleration, self.centre, self.axes, self.probability = acceleration, centre, tuple(axes), probability

    def parameters_of(self, keys: Tensor) -> Params:
        acceleration = uniform(derive_keys(keys, 1), 1, *self.acceleration)[:, 0]
        return {"acceleration": acceleration, "axis": drawn_axis(keys, self.axes), "key": derive_keys(keys, 2)}

    def apply_to(self, x: Tensor, params: Params) -> Tensor:
        return filtered(x, self.acquired(x, params).float())

    def acquired(self, x: Tensor, params: Params) -> Tensor:
        """The lines of x that are there, in the order of an FFT, ready to meet x."""
        line, count = phase_lines(x, params["axis"], self.axes)
        share = (1 / params["acceleration"] - self.centre) / (1 - self.centre)
        chosen = uniform(params["key"], max(x.shape[2:])) < share[:, None]
        at_random = chosen.gather(1, line.flatten(1)).reshape(line.shape)
        return at_random | ((line - count // 2).abs() <= self.centre / 2 * count)


class Motion(View):
    """The patient moves `moves` times during the scan: the lines of each stretch in between see another pose.

    The stretch that holds the centre of k-space is the one at rest, so the image stays where its mask is.
    rotate_degrees, shift_mm: the largest of each pose, about and along each axis; voxels lie `spacing_mm` apart.
    Shaw et al., MRI k-space motion artefact augmentation, MIDL 2019.
    """

    def __init__(
        self, rotate_degrees: float = 3.0, shift_mm: float = 3.0, moves: int = 2, axes: Sequence[int] = (0, 1),
        spacing_mm: Sequence[float] | None = None, probability: float = 0.2,
    ):  # fmt: skip
        super().__init__()
        expect("Motion's rotate_degrees", rotate_degrees, 0, 180)
        expect("Motion's shift_mm", shift_mm)
        expect("Motion's moves", moves, 1)
        expect("Motion's spacing_mm", (min(spacing_mm or (1,)), max(spacing_mm or (1,))), 1e-6)
        self.rotate_degrees, self.shift_mm, self.moves = rotate_degrees, shift_mm, moves
        self.axes, self.spacing_mm, self.probability = tuple(axes), spacing_mm, probability

    def parameters_of(self, keys: Tensor) -> Params:
        turns, shifts = (
            uniform(derive_keys(keys, i), 3 * self.moves, -1, 1).reshape(-1, self.moves, 3) for i in (1, 2)
        )
        return {
            "radians": turns * math.radians(self.rotate_degrees),
            "shift_mm": shifts * self.shift_mm,
            "times": uniform(derive_keys(keys, 3), self.moves).sort(dim=1).values,  # shares of the scan's time
            "axis": drawn_axis(keys, self.axes),
        }

    def apply_to(self, x: Tensor, params: Params) -> Tensor:
        line, count = phase_lines(x, params["axis"], self.axes)
        at_rest, stretch = (
            torch.stack([(n + 0.5) / count > per_sample(t, x) for t in params["times"].unbind(1)]).sum(0)
            for n in (count // 2, line)
        )
        moved = x
        for k in range(self.moves):
            seen = posed(x, params["radians"][:, k], params["shift_mm"][:, k], self.spacing_mm)
            moved = moved + filtered(seen - x, (stretch == k + (k >= at_rest)).float())
        return moved


def posed(x: Tensor, radians: Tensor, shift_mm: Tensor, spacing_mm: Sequence[float] | None) -> Tensor:
    """x turned by radians (B, 3) about and shifted by shift_mm (B, 3) along its axes; the edge's values come in."""
    dims = x.ndim - 2
    voxel_mm = torch.tensor(tuple(spacing_mm or (1.0,) * dims), device=x.device)
    if len(voxel_mm) != dims:
        raise MedsslError(f"spacing_mm is {spacing_mm} for an image of {dims} axes: expected one number an axis")
    half_mm = torch.tensor(x.shape[2:], device=x.device) * voxel_mm / 2
    turn = rotation(radians if dims == 3 else radians[:, :1]) * half_mm / half_mm[:, None]
    theta = torch.cat([turn.flip(1, 2), (shift_mm[:, :dims] / half_mm).flip(1)[..., None]], dim=2)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def drawn_axis(keys: Tensor, axes: Sequence[int]) -> Tensor:
    """(B,) one of `axes` for each sample."""
    index = uniform(derive_keys(keys, 33), 1, 0, len(axes))[:, 0].long()
    return torch.tensor(axes, device=keys.device)[index]


def phase_lines(x: Tensor, axis: Tensor, axes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The line that each place of x's k-space (in the order of an FFT) is in along its sample's phase axis, from 0 on
    and with the centre at half of them, and how many there are; both ready to meet x."""
    line = count = per_sample(torch.zeros_like(axis), x)
    for a in plane(axes, x):
        size, here = x.shape[a + 2], per_sample(axis == a, x)
        numbers = on_axis(torch.arange(size, device=x.device).roll(-(size // 2)), x, a + 2)
        line, count = torch.where(here, numbers, line), torch.where(here, size, count)
    return line, count


def legendre(order: int, size: int, device: torch.device) -> Tensor:
    """(size, order + 1): the Legendre polynomials at `size` places from -1 to 1, by Bonnet's recursion."""
    t = torch.linspace(-1, 1, size, device=device)
    found = [torch.ones_like(t), t]
    for k in range(1, order):
        found.append(((2 * k + 1) * t * found[k] - k * found[k - 1]) / (k + 1))
    return torch.stack(found, 1)
