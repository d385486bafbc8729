"""What a magnetic resonance scanner does to an image: bias field, noise, and the artefacts of k-space.

    view = Compose([BiasField(), Ghosting(probability=0.2), RicianNoise()])
    y = view(x, view.draw(keys))                           # (B, C, *S) -> (B, C, *S)

Images are expected at 0..1 with air at 0, and of known phase: the result is the real part. `axes` are the array axes in
plane, (0, 1) for images and axial stacks; each sample's phase-encoding axis is drawn from them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from medssl.core.errors import MedsslError
from medssl.views.base import Params, Range, View, broadcast_along, check_axes, check_range, per_sample
from medssl.views.kspace import add_complex_noise, draw_axis, filter_kspace, frequency, phase_lines
from medssl.views.random import derive_keys, uniform
from medssl.views.separable import interpolate_grid
from medssl.views.spatial import rotation


class BiasField(View):
    """Uneven brightness from the coil: x * exp(field), the field a sum of Legendre polynomials, the same in all channels.

    Van Leemput et al., Automated model-based bias field correction of MR images of the brain, IEEE TMI 1999.

    Args:
        order: The highest total degree of the polynomials over the crop.
        strength: Each coefficient is drawn from -strength to strength. There is no constant term: that is brightness.
        probability: Chance that a sample gets the view.

    Example:
        >>> view = BiasField(order=3, strength=0.3)
    """

    def __init__(self, order: int = 3, strength: float = 0.3, probability: float = 0.5):
        super().__init__()
        check_range("BiasField's order", order, 1)
        check_range("BiasField's strength", strength)
        self.order, self.strength, self.probability = order, strength, probability

    def parameters_of(self, keys: Tensor) -> Params:
        drawn = uniform(derive_keys(keys, 31), (self.order + 1) ** 3, -self.strength, self.strength)
        return {"coefficients": drawn.reshape(-1, *[self.order + 1] * 3)}  # (B, n, n, n), n = order + 1

    def apply_to(self, x: Tensor, params: Params) -> Tensor:
        return x * self.log_field(x, params["coefficients"]).exp_()

    def log_field(self, x: Tensor, coefficients: Tensor) -> Tensor:
        """The logarithm of the field, (B, 1, *S).

        Args:
            x: (B, C, *S).
            coefficients: (B, n, n, n) of the polynomials along each axis, n = `order` + 1.
        """
        terms = torch.arange(self.order + 1, device=x.device)
        degree = terms[:, None, None] + terms[:, None] + terms
        field = (coefficients * ((degree > 0) & (degree <= self.order)))[:, None]
        field = field[..., 0] if x.ndim == 4 else field
        return interpolate_grid(field, [legendre(self.order, size, x.device) for size in x.shape[2:]])


class RicianNoise(View):
    """The noise of magnitude images: |x + complex Gaussian noise|, which is Rayleigh noise in air.

    Gudbjartsson and Patz, The Rician distribution of noisy MRI data, Magnetic Resonance in Medicine 1995.

    Args:
        max_sigma: The standard deviation in each part is drawn from 0 to max_sigma, on the scale 0..1.
        probability: Chance that a sample gets the view.

    Example:
        >>> view = RicianNoise(max_sigma=0.05)
    """

    def __init__(self, max_sigma: float = 0.05, probability: float = 0.5):
        super().__init__()
        check_range("RicianNoise's max_sigma", max_sigma)
        self.max_sigma, self.probability = max_sigma, probability

    def parameters_of(self, keys: Tensor) -> Params:
        return {"sigma": uniform(keys, 1, 0, self.max_sigma)[:, 0], "key": derive_keys(keys, 32)}

    def apply_to(self, x: Tensor, params: Params) -> Tensor:
        return add_complex_noise(x, params["sigma"], params["key"])


class Ghosting(View):
    """Faint copies along the phase axis, as from breathing or pulsation: every n-th line of k-space is weaker.

    Axel et al., Respiratory effects in two-dimensional Fourier transform MR imaging, Radiology 1986.

    Args:
        ghosts: Range of n; there are n - 1 copies.
        strength: Range of the share by which those lines are weaker.
        centre: Share of the lines, about the centre of k-space, that stay as they are.
        axes: Array axes in plane, of which the phase axis is drawn.
        probability: Chance that a sample gets the view.

    Example:
        >>> view = Ghosting(ghosts=(3, 8), strength=(0.2, 0.6))
    """

    def __init__(
        self,
        ghosts: tuple[int, int] = (3, 8),
        strength: Range = (0.2, 0.6),
        centre: float = 0.02,
        axes: Sequence[int] = (0, 1),
        probability: float = 0.2,
    ):
        super().__init__()
        check_range("Ghosting's ghosts", ghosts, 2)
        check_range("Ghosting's strength", strength, 0, 1)
        check_range("Ghosting's centre", centre, 0, 1)
        self.ghosts, self.strength, self.centre = ghosts, strength, centre
        self.axes, self.probability = tuple(axes), probability

    def parameters_of(self, keys: Tensor) -> Params:
        ghosts = uniform(derive_keys(keys, 1), 1, self.ghosts[0], self.ghosts[1] + 1)[:, 0].long()
        strength = uniform(derive_keys(keys, 2), 1, *self.strength)[:, 0]
        return {"ghosts": ghosts, "strength": strength, "axis": draw_axis(keys, self.axes)}

    def apply_to(self, x: Tensor, params: Params) -> Tensor:
        line, count = phase_lines(x, params["axis"], self.axes)
        distance = (line - count // 2).abs()
        weak = (distance % per_sample(params["ghosts"], x) == 0) & (distance > self.centre / 2 * count)
        return filter_kspace(x, 1 - per_sample(params["strength"], x) * weak)


class Spikes(View):
    """Stray points in k-space: plane waves over the image ("herringbone"), each the real part of one point.

    Args:
        count: A sample gets 1 to count waves.
        strength: Range of a point's size relative to the centre of k-space, which is the image's mean times its voxels.
        probability: Chance that a sample gets the view.

    Example:
        >>> view = Spikes(count=2, strength=(0.1, 0.5))
    """

    def __init__(self, count: int = 2, strength: Range = (0.1, 0.5), probability: float = 0.1):
        super().__init__()
        check_range("Spikes' count", count, 1)
        check_range("Spikes' strength", strength)
        self.count, self.strength, self.probability = count, strength, probability

    def parameters_of(self, keys: Tensor) -> Params:
        numbers = torch.arange(self.count, device=keys.device)
        present = uniform(derive_keys(keys, 1), 1, 1, self.count + 1).long() > numbers
        return {
            "place": uniform(derive_keys(keys, 2), 3 * self.count, -0.5, 0.5).reshape(
                -1, self.count, 3
            ),  # cycles per voxel
            "phase": uniform(derive_keys(keys, 3), self.count, 0, 2 * math.pi),
            "strength": uniform(derive_keys(keys, 4), self.count, *self.strength) * present,
        }

    def apply_to(self, x: Tensor, params: Params) -> Tensor:
        mean = x.mean(dim=tuple(range(2, x.ndim)), keepdim=True)
        waves = torch.zeros_like(x[:, :1])
        for k in range(self.count):
            radians = per_sample(params["phase"][:, k], x)
            for axis, size in enumerate(x.shape[2:]):
                cycles = (params["place"][:, k, axis, None] * size).round() / size
                places = torch.arange(size, device=x.device)
                radians = radians + broadcast_along(2 * math.pi * cycles * places, x, axis)
            waves = waves + per_sample(params["strength"][:, k], x) * radians.cos()
        return x + mean * waves


class Gibbs(View):
    """Ringing at edges, because the outer part of k-space is missing.

    The overshoot at an edge is 9% of its height whatever the bandwidth (Gibbs 1899; in MR: Czervionke et al., AJNR 1988).

    Args:
        bandwidth: Range of the share of k-space's half width that remains along each of `axes`.
        axes: Array axes in plane.
        probability: Chance that a sample gets the view.

    Example:
        >>> view = Gibbs(bandwidth=(0.4, 0.8))
    """

    def __init__(self, bandwidth: Range = (0.4, 0.8), axes: Sequence[int] = (0, 1), probability: float = 0.2):
        super().__init__()
        check_range("Gibbs' bandwidth", bandwidth, 0, 1)
        self.bandwidth, self.axes, self.probability = bandwidth, tuple(axes), probability

    def parameters_of(self, keys: Tensor) -> Params:
        return {"bandwidth": uniform(keys, 1, *self.bandwidth)[:, 0]}

    def apply_to(self, x: Tensor, params: Params) -> Tensor:
        bandwidth = per_sample(params["bandwidth"], x)
        weights = torch.ones_like(bandwidth)
        for axis in check_axes(self.axes, x):
            weights = weights * (frequency(x, axis).abs() <= bandwidth / 2)
        return filter_kspace(x, weights)


class Undersampling(View):
    """Lines of k-space left out at random and filled with zeros: aliasing noise along the phase axis.

    Zbontar et al., fastMRI (arXiv 1811.08839): random masks.

    Args:
        acceleration: Range of how many times fewer lines there are.
        centre: Share of the lines, about the centre of k-space, that are always there.
        axes: Array axes in plane, of which the phase axis is drawn.
        probability: Chance that a sample gets the view.

    Example:
        >>> view = Undersampling(acceleration=(1.5, 4.0), centre=0.08)
    """

    def __init__(
        self,
        acceleration: Range = (1.5, 4.0),
        centre: float = 0.08,
        axes: Sequence[int] = (0, 1),
        probability: float = 0.2,
    ):
        super().__init__()
        check_range("acceleration", acceleration, 1)
        check_range("centre", centre, 0, 1 / acceleration[1])
        self.acceleration, self.centre, self.axes, self.probability = acceleration, centre, tuple(axes), probability

    def parameters_of(self, keys: Tensor) -> Params:
        acceleration = uniform(derive_keys(keys, 1), 1, *self.acceleration)[:, 0]
        return {"acceleration": acceleration, "axis": draw_axis(keys, self.axes), "key": derive_keys(keys, 2)}

    def apply_to(self, x: Tensor, params: Params) -> Tensor:
        return filter_kspace(x, self.acquired(x, params).float())

    def acquired(self, x: Tensor, params: Params) -> Tensor:
        """The lines of k-space that are there, bool, in the order of an FFT; broadcasts over x.

        Args:
            x: (B, C, *S).
            params: What `draw` returned for these samples.
        """
        line, count = phase_lines(x, params["axis"], self.axes)
        share = (1 / params["acceleration"] - self.centre) / (1 - self.centre)
        chosen = uniform(params["key"], max(x.shape[2:])) < share[:, None]
        at_random = chosen.gather(1, line.flatten(1)).reshape(line.shape)
        return at_random | ((line - count // 2).abs() <= self.centre / 2 * count)


class Motion(View):
    """The patient moves during the scan: the k-space lines acquired between two moves see another pose.

    The pose at rest is the one in which the centre of k-space is acquired, so the image stays where its mask is.
    Shaw et al., MRI k-space motion artefact augmentation, MIDL 2019.

    Args:
        rotate_degrees: The largest turn of each pose about each axis.
        shift_mm: The largest shift of each pose along each axis.
        moves: How many times the patient moves.
        axes: Array axes in plane, of which the phase axis is drawn.
        spacing_mm: Distance of the voxels along each axis; 1 mm by default.
        probability: Chance that a sample gets the view.

    Example:
        >>> view = Motion(rotate_degrees=3, shift_mm=3, moves=2)
    """

    def __init__(
        self,
        rotate_degrees: float = 3.0,
        shift_mm: float = 3.0,
        moves: int = 2,
        axes: Sequence[int] = (0, 1),
        spacing_mm: Sequence[float] | None = None,
        probability: float = 0.2,
    ):
        super().__init__()
        check_range("Motion's rotate_degrees", rotate_degrees, 0, 180)
        check_range("Motion's shift_mm", shift_mm)
        check_range("Motion's moves", moves, 1)
        check_range("Motion's spacing_mm", (min(spacing_mm or (1,)), max(spacing_mm or (1,))), 1e-6)
        self.rotate_degrees, self.shift_mm, self.moves = rotate_degrees, shift_mm, moves
        self.axes, self.spacing_mm, self.probability = tuple(axes), spacing_mm, probability

    @classmethod
    def examples(cls, dims: int) -> tuple[View, ...]:
        return (cls(), cls(moves=3))

    def parameters_of(self, keys: Tensor) -> Params:
        turns, shifts = (
            uniform(derive_keys(keys, i), 3 * self.moves, -1, 1).reshape(-1, self.moves, 3) for i in (1, 2)
        )
        return {
            "radians": turns * math.radians(self.rotate_degrees),
            "shift_mm": shifts * self.shift_mm,
            "times": uniform(derive_keys(keys, 3), self.moves).sort(dim=1).values,  # shares of the scan's time
            "axis": draw_axis(keys, self.axes),
        }

    def apply_to(self, x: Tensor, params: Params) -> Tensor:
        line, count = phase_lines(x, params["axis"], self.axes)
        times = [per_sample(time, x) for time in params["times"].unbind(1)]
        at_rest, pose = (  # how many moves come before the centre of k-space, and before each of its lines
            torch.stack([(number + 0.5) / count > time for time in times]).sum(0) for number in (count // 2, line)
        )
        result = x
        for k in range(self.moves):
            posed = move_rigidly(x, params["radians"][:, k], params["shift_mm"][:, k], self.spacing_mm)
            result = result + filter_kspace(posed - x, (pose == k + (k >= at_rest)).float())
        return result


def move_rigidly(x: Tensor, radians: Tensor, shift_mm: Tensor, spacing_mm: Sequence[float] | None) -> Tensor:
    """Each image turned about its axes and shifted; values of the edge come in from outside.

    Args:
        x: (B, C, *S).
        radians: (B, 3) turns about each axis; in 2D the first one is used.
        shift_mm: (B, 3) shifts along each axis.
        spacing_mm: Distance of the voxels along each axis; 1 mm by default.
    """
    dims = x.ndim - 2
    voxel_mm = torch.tensor(tuple(spacing_mm or (1.0,) * dims), device=x.device)
    if len(voxel_mm) != dims:
        raise MedsslError(f"spacing_mm is {spacing_mm} for an image of {dims} axes: expected one number per axis")
    half_mm = torch.tensor(x.shape[2:], device=x.device) * voxel_mm / 2
    turn = rotation(radians if dims == 3 else radians[:, :1]) * half_mm / half_mm[:, None]
    theta = torch.cat([turn.flip(1, 2), (shift_mm[:, :dims] / half_mm).flip(1)[..., None]], dim=2)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def legendre(order: int, size: int, device: torch.device) -> Tensor:
    """The Legendre polynomials at evenly distributed places from -1 to 1, (size, order + 1), by Bonnet's recursion.

    Args:
        order: The highest order, 1 or more.
        size: Number of places.
        device: Where the result lies.
    """
    t = torch.linspace(-1, 1, size, device=device)
    polynomials = [torch.ones_like(t), t]
    for k in range(1, order):
        polynomials.append(((2 * k + 1) * t * polynomials[k] - k * polynomials[k - 1]) / (k + 1))
    return torch.stack(polynomials, 1)
