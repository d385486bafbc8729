"""Free text for the phantom's scans: what a radiologist would dictate about what was drawn.

A report names a kind of lesion only where there is one, so text and labels can be checked against each other.

    from medssl.datasets.phantom.report import write_report
    write_report(1, lesions, sizes_mm, contrast, body, rng)
"""

from __future__ import annotations

import numpy as np

from medssl.datasets.phantom.anatomy import Body, Contrast, Lesion

# kind: (sentence with one lesion, sentence with several), each in more than one wording
FINDINGS = {
    "cyst": (
        [
            "A simple cyst of {size} mm in the {place}.",
            "There is a {size} mm fluid-attenuating cyst in the {place}.",
        ],
        [],
    ),
    "metastasis": (
        [
            "Hypodense lesion of {size} mm in the {place}, suspicious for metastasis.",
            "In the {place} a solitary {size} mm metastasis of low attenuation.",
        ],
        [
            "{count} hypodense lesions in keeping with metastasis; the largest measures {size} mm, {place}.",
            "Liver metastasis: {count} low-attenuation foci, up to {size} mm in the {place}.",
        ],
    ),
    "nodule": (
        ["Solid nodule of {size} mm in the {place}.", "A {size} mm nodule is seen in the {place}."],
        [
            "{count} solid foci in the lungs; the largest nodule, {size} mm, lies in the {place}.",
            "Multiple lung lesions ({count}), the dominant nodule of {size} mm in the {place}.",
        ],
    ),
    "sclerotic": (
        [
            "Dense sclerotic focus of {size} mm in the {place}.",
            "A {size} mm sclerotic lesion in the {place}.",
        ],
        [
            "{count} sclerotic bone lesions, the largest {size} mm in the {place}.",
            "Spine with {count} dense sclerotic foci, up to {size} mm ({place}).",
        ],
    ),
}
NORMAL = {
    "lungs": [
        "The lungs are clear.",
        "Both lungs are well aerated, without consolidation.",
        "Lungs unremarkable.",
    ],
    "liver": ["The liver is homogeneous.", "Liver of normal attenuation and contour.", "Normal liver."],
    "spine": [
        "No destructive bone change.",
        "Vertebral alignment is maintained.",
        "Bones without abnormality.",
    ],
    "vessels": [
        "Aorta and hepatic vessels are patent.",
        "The aorta opacifies normally.",
        "No vascular abnormality.",
    ],
}
FATTY_LIVER = ["Diffusely reduced attenuation of the liver, fatty.", "Hepatic steatosis."]
OPENING = ["CT of chest and abdomen, {} phase.", "Contrast-enhanced CT in the {} phase."]
FOLLOW_UP = ["Compared with the previous examination.", "Follow-up examination."]
NOUN = {
    "cyst": "liver cyst",
    "metastasis": "liver metastasis",
    "nodule": "lung nodule",
    "sclerotic": "sclerotic bone lesion",
}
SITE = {"cyst": "liver", "metastasis": "liver", "nodule": "lungs", "sclerotic": "spine"}
THORAX_TO_PELVIS = [f"T{level}" for level in range(1, 13)] + [f"L{level}" for level in range(1, 6)]


def write_report(
    visit: int,
    lesions: list[Lesion],
    sizes_mm: list[float],
    contrast: Contrast,
    body: Body,
    rng: np.random.Generator,
) -> str:
    """A short report that says what was drawn: findings in any order, side, size in mm, impression."""
    sentences = [_one_of(OPENING, rng).format(contrast.phase)]
    if visit > 1:
        sentences.append(_one_of(FOLLOW_UP, rng))
    findings = {site: _one_of(wordings, rng) for site, wordings in NORMAL.items()}
    if body.liver_fat_hu:
        findings["liver"] = _one_of(FATTY_LIVER, rng)
    closing = _one_of(["Impression: no focal abnormality.", "Conclusion: no suspicious finding."], rng)
    if lesions:
        kind, largest = lesions[0].kind, int(np.argmax(sizes_mm))
        wording = _one_of(FINDINGS[kind][len(lesions) > 1], rng)
        place = place_in_words(lesions[largest], body)
        text = wording.format(size=round(sizes_mm[largest]), place=place, count=len(lesions))
        fatty = [findings["liver"]] if body.liver_fat_hu and SITE[kind] == "liver" else []
        findings[SITE[kind]] = " ".join([*fatty, text[0].upper() + text[1:]])
        closing = _one_of(["Impression: {} as described.", "Conclusion: {}, see above."], rng).format(NOUN[kind])
    order = rng.permutation(list(findings))
    return " ".join([*sentences, *(findings[site] for site in order), closing])


def place_in_words(lesion: Lesion, body: Body) -> str:
    """Where a lesion lies, in words: x to the patient's right, z to the head, T10 near the diaphragm."""
    x, _, z = lesion.centre
    if lesion.kind == "sclerotic":
        level = 9 - round(z / body.vertebra_mm)
        return f"{THORAX_TO_PELVIS[min(max(level, 0), len(THORAX_TO_PELVIS) - 1)]} vertebra"
    if lesion.kind == "nodule":
        height = "upper" if z > 60 else "lower"
        return f"{'right' if x > 0 else 'left'} lung, {height} zone"
    return f"{'right' if x > 20 else 'left'} lobe of the liver"


def _one_of(wordings: list[str], rng: np.random.Generator) -> str:
    """One wording at random."""
    return wordings[int(rng.integers(len(wordings)))]
