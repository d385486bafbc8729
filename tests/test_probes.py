"""Near duplicates by embedding: the same pairs as an N x N matrix gives, other patients' only."""

import numpy as np
import pandas as pd
import pytest

from medssl.errors import MedsslError
from medssl.predict import embed
from medssl.probes import near_duplicates


def test_near_duplicates_are_those_of_the_whole_matrix():
    random = np.random.default_rng(0)
    features = random.normal(size=(300, 16)).astype(np.float32) + 3
    features[250] = features[7] + 0.01 * random.normal(size=16)
    features[120] = features[119]
    patients = [f"p{i // 2}" for i in range(300)]  # 119 and 120 differ, 250 and 251 are one
    features[251] = features[250]
    centred = features - features.mean(0)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    whole = {(i, j) for i, j in np.argwhere(np.triu(unit @ unit.T, 1) > 0.98).tolist() if patients[i] != patients[j]}
    assert {(7, 250), (7, 251), (119, 120)} <= whole
    for block in (7, 64, 1024):
        pairs = near_duplicates(features, patients, 0.98, block)
        assert {(i, j) for i, j, _ in pairs} == whole
        assert [c for *_, c in pairs] == sorted((c for *_, c in pairs), reverse=True)
    with pytest.raises(MedsslError, match="expected a cosine"):
        near_duplicates(features, patients, 1.5)


def test_embed_lists_them(cache, pretrained, tmp_path):
    table = embed(pretrained, cache.path, tmp_path, duplicates_above=0.5)
    found = pd.read_csv(tmp_path / "near_duplicates.csv", dtype={"scan": str, "other": str})
    owner = table.set_index("scan")["patient"]
    assert (found["cosine"] >= 0.5).all()
    assert (owner[found["scan"]].to_numpy() != owner[found["other"]].to_numpy()).all()
    assert len(found) == len(near_duplicates(table.filter(regex=r"^f\d+$").to_numpy(), list(table["patient"]), 0.5)) > 0
