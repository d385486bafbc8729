"""Which pretext, encoder, crop, batch, length and views for which data: the whole table, with its reasons and its evidence.

    choose("pretext", situation).take(situation)

For each decision the first rule that holds is taken, so the last of each is for all others. The evidence names a page of the
documentation's results or a published figure with its source. Where our own measurements are against a choice, or there are
none, it says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

from medssl.core.errors import MedsslError
from medssl.encoders.resenc import ResidualUNet
from medssl.encoders.resnet import ResNet
from medssl.encoders.vit import ViT
from medssl.methods.dino import DINO
from medssl.methods.joint import Joint
from medssl.methods.rotation import Rotation
from medssl.methods.simclr import SimCLR
from medssl.methods.simmim import SimMIM
from medssl.methods.vicreg import VICReg
from medssl.training.auto.situation import Situation

Decision = Literal["pretext", "encoder", "crop", "batch", "steps", "lr", "views", "stop"]
DECISIONS: tuple[Decision, ...] = get_args(Decision)
MANY_SCANS = 10_000  # from which a transformer that distils is worth its cost
LARGE_GPU_MIB = 24 * 1024
SMALL_VOLUME, SMALL_IMAGE = 64, 96  # voxels along the shortest axis
FEW_SLICES = 16

HIPPOCAMPUS = (
    "results/hippocampus: +0.016 [+0.006, +0.027] Dice over scratch with one labelled subject (p = 0.013 after Holm's correction); "
    "no gain was shown with 3"
)
OPENMIND = (
    "OpenMind, arXiv 2412.17041: mean Dice of ResEnc-L 68.44 from scratch, 70.91 after MAE, 69.44 after SimCLR (70.47 from scratch with the "
    "long schedule); contrastive is best in classification"
)
FILMS = (
    "results/every_method: AUROC of a linear probe with 1% of the films 0.932, a random encoder 0.851; fine-tuned, results/chest_films: "
    "+0.003 [-0.007, +0.014] over scratch, and +0.011 [-0.000, +0.021] with self-training: no gain was proven"
)
PNEUMONIA = (
    "results/pneumoniamnist: +0.024 [+0.006, +0.042] AUROC of a linear probe over scratch with 47 labels (p = 0.15 after Holm's correction), no "
    "gain shown with 10"
)
JOINT = (
    "results/every_method: 0.938 by a linear probe with 1% of the films, the highest mean; results/does_every_method_learn: 0.868 to "
    "0.938"
)
NONE_OF_OUR_OWN = "no measurement of our own at this size"
NONE_IN_2D_SEGMENTATION = "no measurement of our own in the segmentation of images"


@dataclass(frozen=True)
class CropLimit:
    """How large a crop may be.

    Attributes:
        maximum: Voxels along its longest axis.
        equal_edges: Whether all edges are the shortest one's.
    """

    maximum: int
    equal_edges: bool = False


@dataclass(frozen=True)
class Rule:
    """One line of the table.

    Attributes:
        decides: What it decides.
        take: Situation -> what is taken: a pretext or an encoder as a function that builds it, or a number.
        reason: Why, for a reader.
        evidence: Pages of our results, or published figures with their sources.
        when: Whether it holds.
    """

    decides: Decision
    take: Callable[[Situation], Any]
    reason: str
    evidence: tuple[str, ...]
    when: Callable[[Situation], bool] = lambda s: True


def _always(value: Any) -> Callable[[Situation], Any]:
    return lambda situation: value


def _distils(s: Situation) -> bool:
    return (
        s.task == "classification" and s.dims == 2 and s.gpu and s.memory_mib >= LARGE_GPU_MIB and s.scans >= MANY_SCANS
    )


def _turns(s: Situation) -> bool:
    """Whether the joint pretext may have turns by right angles as a part."""
    return s.task == "both" and not (s.dims == 3 and (min(s.shape) < FEW_SLICES or s.anisotropic))


def _residual(width: int, blocks: tuple[int, ...]) -> Callable[[Situation], Any]:
    return _always(partial(ResidualUNet, width=width, blocks=blocks))


RULES: tuple[Rule, ...] = (
    Rule(
        "pretext",
        _always(partial(SimMIM, mask_block=4, mask_ratio=0.5, restore_intensity=True, place_weight=0.5)),
        "segmentation: masked and restoring; small blocks for small volumes, intensities and places as well",
        (HIPPOCAMPUS, OPENMIND),
        lambda s: s.task == "segmentation" and s.dims == 3 and min(s.shape) < SMALL_VOLUME,
    ),
    Rule(
        "pretext",
        _always(partial(SimMIM, restore_intensity=True)),
        "segmentation: masked and restoring; the decoder is pretrained too",
        (OPENMIND, HIPPOCAMPUS, NONE_OF_OUR_OWN),
        lambda s: s.task == "segmentation" and s.dims == 3,
    ),
    Rule(
        "pretext",
        _always(partial(SimMIM, restore_intensity=True)),
        "segmentation: masked and restoring; the decoder is pretrained too",
        (NONE_IN_2D_SEGMENTATION, OPENMIND),
        lambda s: s.task == "segmentation",
    ),
    Rule(
        "pretext",
        _always(DINO),
        f"classification, {MANY_SCANS:,} scans or more and a large GPU: self-distillation of a transformer",
        (
            "DINO, arXiv 2104.14294: 78.3% by kNN on ImageNet without labels (ViT-S/8)",
            "our own small runs are against it: results/every_method 0.892 by a linear probe with 1% of the films (SimCLR 0.932), "
            "results/does_every_method_learn +0.012",
        ),
        _distils,
    ),
    Rule(
        "pretext",
        _always(SimCLR),
        "classification of images: two views of a scan against all others; the cheapest of the methods that learn most",
        (PNEUMONIA, FILMS),
        lambda s: s.task == "classification" and s.dims == 2,
    ),
    Rule(
        "pretext",
        _always(VICReg),
        "classification of volumes: two views, without negatives, since batches of volumes are small",
        (
            "results/does_every_method_learn: 0.868 to 0.947 (AUROC of a probe on the phantom), the largest gain of 25 methods; on the "
            "hippocampus (results/every_method) nothing is far from chance",
            OPENMIND,
        ),
        lambda s: s.task == "classification",
    ),
    Rule(
        "pretext",
        _always(partial(Joint, parts=[partial(SimMIM, mask_block=4), SimCLR], weights=[1.0, 0.1])),
        "both tasks, thick or few slices: masking and two views; no turns, which such slices do not allow",
        ("no measurement of our own without the turns", JOINT),
        lambda s: not _turns(s),
    ),
    Rule(
        "pretext",
        _always(partial(Joint, parts=[SimMIM, Rotation, SimCLR], weights=[1.0, 1.0, 0.1])),
        "both tasks: masking for places, rotation and two views for whole scans, on one encoder",
        (
            "MONAI's Swin UNETR, arXiv 2111.14791, these three tasks with equal weights: Dice on BTCV 58.29 to 60.47 with 10% of the labels, "
            "82.63 to 82.64 with all",
            JOINT,
        ),
    ),
    Rule(
        "encoder",
        _always(partial(ViT, patch=16, width=384, depth=12, heads=6)),
        "ViT-S/16 for self-distillation on a large GPU",
        ("DINO, arXiv 2104.14294, was made for it", NONE_OF_OUR_OWN),
        _distils,
    ),
    Rule(
        "encoder",
        _residual(32, (1, 3, 4, 6, 6, 6)),
        "nnU-Net's ResEnc-L: its weights can go to nnU-Net",
        (OPENMIND, NONE_OF_OUR_OWN),
        lambda s: s.dims == 3 and s.gpu and s.memory_mib >= LARGE_GPU_MIB and min(s.shape) >= SMALL_VOLUME,
    ),
    Rule(
        "encoder",
        _residual(16, (1, 1, 1)),
        "few slices: two halvings, so that they survive to the coarsest level",
        (NONE_OF_OUR_OWN,),
        lambda s: s.dims == 3 and min(s.shape) < FEW_SLICES,
    ),
    Rule(
        "encoder",
        _residual(32, (1, 3, 4, 6)),
        "a GPU: nnU-Net's residual encoder, four levels",
        (OPENMIND, "with four levels in place of its six: no measurement of our own"),
        lambda s: s.dims == 3 and s.gpu,
    ),
    Rule(
        "encoder",
        _residual(16, (1, 1, 1, 1)),
        "CPU cores: a small residual U-Net, which trains in an hour",
        (HIPPOCAMPUS,),
        lambda s: s.dims == 3,
    ),
    Rule(
        "encoder",
        _residual(32, (1, 1, 1, 1)),
        "segmentation of images: its finest level has the scan's own resolution",
        (NONE_IN_2D_SEGMENTATION,),
        lambda s: s.task == "segmentation",
    ),
    Rule(
        "encoder",
        _always(partial(ResNet, depth=50, width=64)),
        "a GPU: ResNet-50",
        ("SimCLR, arXiv 2002.05709, was made with ResNet-50", NONE_OF_OUR_OWN),
        lambda s: s.gpu and min(s.shape) >= SMALL_IMAGE,
    ),
    Rule(
        "encoder",
        _always(partial(ResNet, depth=10, width=16, max_pool=False)),
        "small images: a small ResNet without the pooling that would halve them once more",
        (FILMS,),
        lambda s: min(s.shape) < SMALL_IMAGE,
    ),
    Rule(
        "encoder",
        _always(partial(ResNet, depth=18, width=32)),
        "CPU cores and larger images: half the width of ResNet-18",
        (NONE_OF_OUR_OWN,),
    ),
    Rule(
        "crop",
        _always(CropLimit(96, equal_edges=True)),
        "a GPU: the largest crop up to 96 voxels, with equal edges, since one part turns it by right angles",
        (NONE_OF_OUR_OWN,),
        lambda s: _turns(s) and s.dims == 3 and s.gpu,
    ),
    Rule(
        "crop",
        _always(CropLimit(48, equal_edges=True)),
        "CPU cores: the largest crop up to 48 voxels, with equal edges, since one part turns it by right angles",
        (JOINT,),
        lambda s: _turns(s) and s.dims == 3,
    ),
    Rule(
        "crop",
        _always(CropLimit(96)),
        "a GPU: the largest crop of a volume up to 96 voxels",
        (NONE_OF_OUR_OWN,),
        lambda s: s.dims == 3 and s.gpu,
    ),
    Rule(
        "crop",
        _always(CropLimit(48)),
        "CPU cores: the largest crop of a volume up to 48 voxels; measured at 32",
        (HIPPOCAMPUS,),
        lambda s: s.dims == 3,
    ),
    Rule(
        "crop",
        lambda s: CropLimit(224, equal_edges=_turns(s)),
        "a GPU: the largest crop of an image up to 224 pixels",
        (NONE_OF_OUR_OWN,),
        lambda s: s.gpu,
    ),
    Rule(
        "crop",
        lambda s: CropLimit(128, equal_edges=_turns(s)),
        "CPU cores: the largest crop of an image up to 128 pixels; measured at 64",
        (FILMS,),
    ),
    Rule(
        "batch", _always(16), "a GPU: what fits, up to 16 volumes", (NONE_OF_OUR_OWN,), lambda s: s.dims == 3 and s.gpu
    ),
    Rule(
        "batch",
        _always(16),
        "classification of volumes: the batch is what their statistics come from",
        ("results/does_every_method_learn: 16 crops a step",),
        lambda s: s.dims == 3 and s.task == "classification",
    ),
    Rule("batch", _always(8), "CPU cores: 8 volumes", (HIPPOCAMPUS,), lambda s: s.dims == 3),
    Rule(
        "batch",
        _always(256),
        "a GPU: what fits, up to 256 images; two views want many negatives",
        ("SimCLR, arXiv 2002.05709: larger batches help most in short trainings",),
        lambda s: s.gpu,
    ),
    Rule("batch", _always(64), "CPU cores: 64 images", ("results/every_method: 64 films a step",)),
    Rule(
        "steps",
        lambda s: max(24_000, 20 * s.scans),
        "at most 3,000 steps of 8, or 20 times each scan",
        (HIPPOCAMPUS,),
        lambda s: s.dims == 3,
    ),
    Rule(
        "steps",
        lambda s: max(128_000, 20 * s.scans),
        "at most as many images as 1,000 steps of 128 show, or 20 times each",
        (FILMS,),
    ),
    Rule(
        "lr",
        _always(5e-4),
        "transformers learn at a lower rate",
        ("DINO, arXiv 2104.14294: 0.0005 for 256 images; no measurement of our own",),
        _distils,
    ),
    Rule(
        "lr",
        _always(2e-3),
        "the rate of our own recipes for small networks",
        (
            "configs/chest_xray_simclr and configs/hippocampus_simmim have it; other rates were not tried in pretraining",
        ),
    ),
    Rule(
        "views",
        _always(None),
        "the pretext's recipe for this modality",
        (
            "results/contrastive_views: kNN on films 0.937 with the recipe, 0.893 with lightly's default; on volumes nothing could be shown",
        ),
    ),
    Rule(
        "stop",
        _always(5),
        "ends when the watched representation has not improved for 5 of up to 20 measurements; no label is used",
        (
            "results/when_to_stop: rank correlation of 0.86 with a probe under SimCLR on films (effective rank -0.48); for restoring "
            "pretexts one weak measurement, 0.65",
            "the falling rate: arXiv 2405.18392",
        ),
    ),
)


def choose(decides: Decision, situation: Situation) -> Rule:
    """The rule that decides this for this situation: the first that holds.

    Args:
        decides: What is to be decided.
        situation: The cohort, the task and the machine.

    Raises:
        MedsslError: No rule holds, which would be a gap in the table.
    """
    for rule in RULES:
        if rule.decides == decides and rule.when(situation):
            return rule
    raise MedsslError(
        f"no rule decides the {decides} of {situation}: expected one for every situation; name it as an option"
    )
