"""The model card (Mitchell et al., FAccT 2019; arXiv 1810.03993): what a model was made from, for what, and its limits.

It is written from the records alone: counts, settings and pseudonymous hashes. No path, scan, patient or machine is in it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from medssl.core import runs
from medssl.core.errors import MedsslError, visible
from medssl.exports.targets.base import Target
from medssl.exports.trained import TrainedModel, intensity_steps

NOT_STATED = "not stated: ask whoever gave you this model before you use or share it"
LIMITS = (
    "It is a research model and no medical device: it must not decide about a patient.",
    "Its results hold for scans like those below; another scanner, protocol, population or disease can change them without a sign.",
    "Outputs are not calibrated unless a study says so, and it does not notice a scan that it should not be given.",
    "Weights can keep traces of the scans that they were trained on: treat them as the scans' owner allows.",
)


def model_card(
    model: TrainedModel,
    target: Target,
    license: str | None = None,
    study: Path | None = None,
    patients: int | None = None,
) -> str:
    """The card as Markdown.

    Args:
        model: The model.
        target: What it is written for.
        license: Licence of the weights, in the user's words; that of imported weights by default.
        study: Folder of a study whose protocol points the card quotes.
        patients: Patients that an encoder was pretrained on.

    Returns:
        The text of README.md.

    Raises:
        MedsslError: The study's folder holds something else.
    """
    spec, left_out = model.data_spec, target.left_out(model)
    license = license or model.run.config.get("source", {}).get("licence")
    name = f"{model.run.config['encoder']['class_path'].rpartition('.')[2]} {model.kind}"
    parts = [
        f"---\nlicense: {'other' if license is None else _yaml_word(license)}\nlibrary_name: {target.title}\ntags: [medical, {spec.modality}]\n---",
        f"# {name} for {spec.dims}D {spec.modality}",
        f"Written for {target.title} by medssl {model.run.versions.get('medssl', '')}."
        + (f" {left_out}" if left_out else ""),
        "## Load it\n\n```python" + target.usage(model) + "```",
        "## Input and output\n\n" + _lines(_input(model)),
        "## Data\n\n" + _lines(_data(model, patients)),
        "## Training\n\n" + _lines(_training(model)),
        "## How it was measured\n\n" + _lines(_protocol(model, study)),
        "## Intended use\n\n" + _intended(model),
        "## Limits\n\n" + _lines(list(LIMITS)),
        "## Licence\n\n" + (NOT_STATED if license is None else _as_written(license)),
    ]
    return "\n\n".join(parts) + "\n"


def _as_written(text: str) -> str:
    """A name from data as it is written: what is more than plain words stands as code, which no reader of Markdown renders.

    >>> _as_written("left lung"), _as_written("![x](http://host)")
    ('left lung', '`![x](http://host)`')
    """
    text = " ".join(visible(text).split())  # a blank line would end the code
    if re.fullmatch(r"[\w .,;%()=-]*", text) and "__" not in text:
        return text
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    space = " " if "`" in text else ""
    return f"{fence}{space}{text}{space}{fence}"


def _yaml_word(text: str) -> str:
    """A text as one value of YAML, in quotes unless it is a plain word."""
    return text if re.fullmatch(r"[\w.+-]+", text) else json.dumps(text)


def _lines(items: list[str]) -> str:
    return "\n".join(f"- {item}" for item in items)


def _size(numbers: Any, unit: str = "") -> str:
    return " x ".join(f"{n:g}" for n in numbers) + unit


def _input(model: TrainedModel) -> list[str]:
    spec, steps = model.data_spec, intensity_steps(model.data_spec)
    axes = (
        "(B, C, H, W), rows by columns" if spec.dims == 2 else "(B, C, X, Y, Z), axes towards right, anterior, superior"
    )
    grid = (
        f"spacing {_size(spec.spacing_mm, ' mm')}"
        if spec.dims == 3
        else f"size {_size(spec.size) if spec.size else 'its own'}"
    )
    if "points" in steps:
        scale = "HU to 0..1 by straight lines through " + ", ".join(f"{hu:g} HU = {v:g}" for hu, v in steps["points"])
    else:
        scale = (
            f"percentiles {steps['percentiles'][0]:g} and {steps['percentiles'][1]:g} of each scan become 0 and 1, clipped to "
            f"{steps['clip'][0]:g}..{steps['clip'][1]:g}; images of 8 bits are divided by 255"
        )
    lines = [
        f"{axes}; {spec.channels} channel(s), {grid}",
        scale,
        f"trained on crops of {_size(model.crop)}; sizes divide by {_size(model.encoder.strides[-1])}",
    ]
    if model.kind == "encoder":
        return [*lines, f"gives a vector of {model.encoder.out_dim} numbers, and a pyramid of features"]
    return [*lines, f"gives logits; softmax over the outputs {', '.join(map(_as_written, model.outputs))}"]


def _data(model: TrainedModel, patients: int | None) -> list[str]:
    config, spec = model.run.config, model.data_spec
    if source := config.get("source"):
        return [
            f"public weights, imported as {_as_written(str(source['layout']))}: their own card says from what; SHA-256 {source['sha256'][:12]}"
        ]
    count = patients if model.kind == "encoder" else config["patients"]
    lines = [
        f"modality {spec.modality}, {spec.dims}D",
        f"{config['scans']} scans" + (f" of {count} patients" if count is not None else ""),
    ]
    if model.kind != "encoder":
        lines.append(
            f"labels: {config['task']}, budget {_as_written(str(config['budget']))} of the labelled training patients"
        )
        if config.get("unlabelled_scans"):
            lines.append(f"{config['unlabelled_scans']} further scans without labels ({config['semi_supervised']})")
    lines.append("sites, scanners, ages and sexes: not recorded; ask the owner of the data")
    return [*lines, f"digest of the data: {model.run.data[:12]}"]


def _training(model: TrainedModel) -> list[str]:
    config, parent = model.run.config, model.run.parent
    about = f"run {model.run.id}, seed {model.run.seed}, code {model.run.commit}"
    if "source" in config:
        return ["none here", about]
    if model.kind == "encoder":
        start = f"continued from run {parent}" if parent else "from random weights"
        lines = [f"pretraining without labels: {config['method']['class_path']}, {start}"]
        return [*lines, f"steps {config['steps']}, batch {config['batch_size']}", about]
    train, start = config["train"], f"from the encoder of run {parent}" if parent else "from random weights"
    lines = [
        f"fine-tuning {start}",
        f"steps {train['steps']}, batch {train['batch_size']}, learning rate {train['lr']:g}",
    ]
    return [*lines, about]


def _protocol(model: TrainedModel, study: Path | None) -> list[str]:
    config = model.run.config
    if "source" in config:
        return ["not here"]
    seen = "also saw the test patients, without labels" if config.get("transductive") else "left the test patients out"
    how = (
        f"the column {_as_written(config['split_column'])}"
        if config.get("split_column")
        else f"split seed {config.get('split_seed')}"
    )
    lines = [f"split by patient ({how}); training {seen}"]
    if "validation_score" in model.run.metrics:
        lines.append(f"score on its own validation patients: {model.run.metrics['validation_score']:.3f}")
    if study is None:
        return [
            *lines,
            "its label efficiency was not measured in a study; no score on test patients belongs to this card",
        ]
    record = runs.read(study)
    if record.kind != "study" or not record.protocol:
        raise MedsslError(f"{study.name} holds a {record.kind} run: expected the folder of a finished study")
    verdicts = {True: "met", False: "not met", None: "shown elsewhere"}
    points = [
        f"{point}: {verdicts[about['met']]} ({_as_written(str(about['evidence']))})"
        for point, about in record.protocol.items()
    ]
    return [*lines, f"points of study {record.id}, whose arms are further trainings like this one:", *points]


def _intended(model: TrainedModel) -> str:
    uses = {
        "encoder": "Research: a start for fine-tuning with few labels, features for retrieval and probes.",
        "classifier": "Research: class probabilities of scans like those it was trained on, to be tested on your own labels first.",
        "segmenter": "Research: masks of scans like those it was trained on, to be tested on your own labels first.",
    }
    return uses[model.kind]
