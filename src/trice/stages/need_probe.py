"""A linear probe for need on the hidden state of a prompt's last token, fitted by ridge regression.

The method is that of When2Tool: a regression on one middle layer, without training the model. Layer and strength are
chosen by cross-validation on the questions that are given, by the squared error.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from trice.models.call_threshold import Probe, squash

RIDGES = (0.01, 0.1, 1.0, 10.0, 100.0)  # times the mean squared length of a standardised state
FOLDS = 5
MAX_LAYERS = 6  # that are compared, from a quarter of the model to its end

States = npt.NDArray[np.float64]


def probed_layers(count: int) -> list[int]:
    """The layers that are compared in a model of `count` layers."""
    steps = range(2, 2 + MAX_LAYERS)
    return sorted({max(1, round(count * step / (1 + MAX_LAYERS))) for step in steps})


def folds(needed: Sequence[bool], parts: int = FOLDS, seed: int = 0) -> Iterator[tuple[list[int], list[int]]]:
    """The other questions and those of each fold, drawn with the seed. Every fold has the same share of questions that
    need a tool: otherwise those that are left out would be the ones that the others make unlikely."""
    count = len(needed)
    order = np.random.default_rng(seed).permutation(count).tolist()
    order.sort(key=lambda place: needed[place])
    for start in range(min(parts, count)):
        fold = order[start::parts]
        yield sorted(set(order) - set(fold)), sorted(fold)


def fit_probe(states_QLD: States, layers: Sequence[int], needed: Sequence[bool]) -> tuple[list[float], Probe]:
    """A probe on the states of Q questions after L layers, and for each question the score of a probe that was fitted
    without it. At least two questions are needed."""
    need_Q = np.asarray(needed, dtype=float)
    splits = list(folds(needed, seed=1))
    best: tuple[float, int, float, States] | None = None
    for place in range(len(layers)):
        found_RQ = np.empty((len(RIDGES), len(need_Q)))
        for others, fold in splits:
            for number, (weights_D, bias) in enumerate(_fits(states_QLD[others, place], need_Q[others])):
                found_RQ[number, fold] = states_QLD[fold, place] @ weights_D + bias
        for ridge, found_Q in zip(RIDGES, found_RQ, strict=True):
            error = float(((found_Q - need_Q) ** 2).mean())
            if best is None or error < best[0]:
                best = error, place, ridge, found_Q
    assert best is not None
    _, place, ridge, found_Q = best
    weights_D, bias = _fits(states_QLD[:, place], need_Q)[RIDGES.index(ridge)]
    rounded = tuple(float(f"{weight:.7g}") for weight in weights_D)
    probe = Probe(layer=layers[place], weights=rounded, bias=float(f"{bias:.7g}"), ridge=ridge)
    return [squash(value) for value in found_Q.tolist()], probe


def _fits(states_QD: States, need_Q: States) -> list[tuple[States, float]]:
    """The weights and the bias of a ridge regression of each strength, on standardised states. It is solved among the
    questions, of which there are usually fewer than dimensions."""
    mean_D, scale_D, mean = states_QD.mean(0), states_QD.std(0) + 1e-6, float(need_Q.mean())
    standard_QD = (states_QD - mean_D) / scale_D
    values_Q, vectors_QQ = np.linalg.eigh(standard_QD @ standard_QD.T)
    rotated_Q = vectors_QQ.T @ (need_Q - mean)
    found = []
    for ridge in RIDGES:
        strength = ridge * max(float(values_Q.mean()), 1e-12)
        dual_Q = vectors_QQ @ (rotated_Q / (values_Q.clip(0) + strength))
        weights_D = standard_QD.T @ dual_Q / scale_D
        found.append((weights_D, mean - float(mean_D @ weights_D)))
    return found
