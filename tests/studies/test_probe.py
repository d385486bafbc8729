"""Near duplicates equal those of an N x N matrix; each probe finds what was put into the features, and not more."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from scipy.special import comb

from medssl.cli.arguments import parse_arguments
from medssl.core.errors import MedsslError
from medssl.evaluation import representation
from medssl.evaluation.similar_features import near_duplicates
from medssl.studies.probe import probe
from medssl.training.predict import embed


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
    pairs = pd.read_csv(tmp_path / "near_duplicates.csv", dtype={"scan": str, "other": str})
    owner = table.set_index("scan")["patient"]
    assert (pairs["cosine"] >= 0.5).all()
    assert (owner[pairs["scan"]].to_numpy() != owner[pairs["other"]].to_numpy()).all()
    features, patients = table.filter(regex=r"^f\d+$").to_numpy(), list(table["patient"])
    assert len(pairs) == len(near_duplicates(features, patients, 0.5)) > 0


def groups(seed: int = 0, count: int = 60, apart: float = 4.0) -> tuple[np.ndarray, np.ndarray]:
    """Features (N, 6) in three groups, and the group of each."""
    random = np.random.default_rng(seed)
    codes = random.integers(0, 3, count)
    return random.normal(size=(count, 6)) + apart * np.eye(3, 6)[codes], codes


def test_clusters_agree_with_classes_where_there_are_some_and_not_by_chance() -> None:
    (train, _), (test, codes) = groups(0), groups(1)
    clusters = representation.kmeans(train, test, 3)
    agreement = representation.agreement(codes, clusters)
    assert agreement["nmi"] > 0.9
    assert agreement["ari"] > 0.9
    chance = representation.agreement(np.random.default_rng(2).permutation(codes), clusters)
    assert abs(chance["ari"]) < 0.1


def test_agreement_equals_the_formulas() -> None:
    """NMI by entropies and ARI by pairs (Hubert and Arabie 1985), written out over the contingency table."""
    a, b = np.array([0, 0, 1, 1, 1, 2, 2, 0]), np.array([1, 1, 0, 0, 1, 2, 0, 1])
    table = np.array([[np.sum((a == i) & (b == j)) for j in range(3)] for i in range(3)])
    joint, rows, columns = table / 8, table.sum(1) / 8, table.sum(0) / 8
    with np.errstate(divide="ignore", invalid="ignore"):
        mutual = np.nansum(joint * np.log(joint / np.outer(rows, columns)))
    entropies = [-(p * np.log(p)).sum() for p in (rows, columns)]
    pairs, sides = comb(table, 2).sum(), [comb(table.sum(k), 2).sum() for k in (0, 1)]
    expected = sides[0] * sides[1] / comb(8, 2)
    agreement = representation.agreement(a, b)
    assert agreement["nmi"] == pytest.approx(mutual / np.mean(entropies))
    assert agreement["ari"] == pytest.approx((pairs - expected) / (np.mean(sides) - expected))


def test_the_distance_to_normal_is_the_mean_to_the_nearest_five() -> None:
    train, _ = groups(0, 40, 0.0)
    test = np.concatenate([groups(1, 5, 0.0)[0], groups(2, 5, 0.0)[0] + 6])
    distances = representation.distance_to_normal(train, test)
    scaled, other = ((x - train.mean(0)) / train.std(0) for x in (train, test))
    expected = np.sort(np.linalg.norm(other[:, None] - scaled[None], axis=2), axis=1)[:, :5].mean(1)
    assert np.allclose(distances, expected)
    assert distances[5:].min() > distances[:5].max()
    with pytest.raises(MedsslError, match="no normal training scan"):
        representation.distance_to_normal(train[:0], test)


def test_ridge_finds_a_number_that_is_there_and_shrinks_where_there_is_none() -> None:
    random = np.random.default_rng(0)
    train, test = random.normal(size=(80, 5)), random.normal(size=(40, 5))
    values = 60 + 10 * train[:, 2] + random.normal(size=80)
    patients = np.repeat(np.arange(40), 2)
    assert np.abs(representation.ridge(train, values, patients, test) - (60 + 10 * test[:, 2])).mean() < 1
    nothing = representation.ridge(train, random.normal(60, 10, 80), patients, test)
    assert nothing.std() < 3


def test_the_probe_command_is_one_table_with_a_random_encoder_beside(cache, pretrained) -> None:
    table = probe(pretrained, cache.path, ["knn", "linear", "kmeans", "anomaly"], "lesion", "no", score_on="test")
    assert set(table["encoder"]) == {pretrained.name, "random"}
    rows = table.set_index(["encoder", "probe", "metric"])["value"]
    assert ("random", "anomaly", "auroc, distance") in rows.index
    assert (pretrained.name, "anomaly", "auroc, reconstruction") in rows.index  # SimMIM restores
    assert rows.between(-1, 1).all()
    scored = table.dropna(subset=["low"])
    assert (scored["low"] <= scored["value"]).all()
    assert (scored["value"] <= scored["high"]).all()
    again = probe(pretrained, cache.path, ["knn", "linear", "kmeans", "anomaly"], "lesion", "no", score_on="test")
    assert again.equals(table)


def test_scans_that_the_run_was_pretrained_on_are_not_scored_unless_that_is_allowed(
    cache, pretrained, tmp_path
) -> None:
    other = shutil.copytree(pretrained, tmp_path / "other")
    seen = pd.read_parquet(other / "seen.parquet")
    everyone = cache.manifest[["digest", "patient", "pseudonym_key"]]
    everyone.to_parquet(other / "seen.parquet")
    with pytest.raises(MedsslError, match=r"other was pretrained on \d scans of \d test scans"):
        probe(other, cache.path, ["knn"], "lesion", score_on="test")
    with pytest.warns(UserWarning, match=r"other was pretrained on test patients: \d scans"):
        probe(other, cache.path, ["knn"], "lesion", score_on="test", allow_seen=True)
    seen.assign(pseudonym_key="f" * 12).to_parquet(other / "seen.parquet")
    with pytest.warns(UserWarning, match="cannot be known"):
        probe(other, cache.path, ["knn"], "lesion", score_on="test")


def test_the_command_line_takes_prompts_as_json() -> None:
    prompts = {"normal": ["Clear lungs.", "No finding."], "tumour": ["A mass."]}
    words = ["--run", "r", "--data", "c", "--kind", "zeroshot", "--prompts", json.dumps(prompts), "--split-seed", "3"]
    settings = parse_arguments(probe, "medssl probe", words=words)
    assert settings["prompts"] == prompts
    assert settings["kind"] == ["zeroshot"]
    assert settings["split"].seed == 3


def test_a_probe_says_what_it_lacks(cache, pretrained) -> None:
    for kind, more, message in (
        ("knn", {}, "expected --label"),
        ("knn", {"label": "lesio"}, "there is no label 'lesio'"),
        ("anomaly", {"label": "lesion"}, "needs --normal.*expected one of no, yes"),
        ("regression", {"label": "lesion"}, "a number in 0 training"),
        ("retrieval", {}, "needs a run of CLIP: this is one of SimMIM"),
    ):
        with pytest.raises(MedsslError, match=message):
            probe(pretrained, cache.path, [kind], **more)
