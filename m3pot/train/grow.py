"""A larger model that starts as a smaller one: every prediction is the same, the room to learn is not.

The idea is Net2Net's (T. Chen, I. Goodfellow, J. Shlens, ICLR 2016, arXiv:1511.05641). There copies of units split
their weights; here new features start at random and feed the old ones with weights of zero, so they differ at once.
"""

import dataclasses

import jax
import numpy as np

from m3pot.models.m3gnet import M3GNet
from m3pot.potential import Potential
from m3pot.train.config import ConfigError

_MAY_GROW = ("units", "max_l", "max_n")


def grow(small: Potential, large: Potential) -> Potential:
    """``large``, an M3GNet with random parameters, made to predict what ``small`` predicts.

    Raises ConfigError if the models differ in more than units, max_l and max_n, or if one of these is smaller.
    """
    old, new = small.model, large.model
    if not isinstance(old, M3GNet) or not isinstance(new, M3GNet) or not old.smooth_pairs:
        raise ConfigError("model.fields together with model.start: only an M3GNet with smooth pairs can grow.")
    if any(getattr(new, name) < getattr(old, name) for name in _MAY_GROW):
        raise ConfigError(f"model.fields: {', '.join(_MAY_GROW)} may be larger than in model.start, not smaller.")
    if old.hidden or dataclasses.replace(old, **{name: getattr(new, name) for name in _MAY_GROW}) != new:
        raise ConfigError(f"model.fields: of model.start only {', '.join(_MAY_GROW)} can be changed.")

    def enlarge(path, values, wide):
        name = jax.tree_util.keystr(path)
        rows, *columns = (
            _places(name, axis, a, b, old, new)
            for axis, (a, b) in enumerate(zip(values.shape, wide.shape, strict=True))
        )
        result = np.array(wide)
        if columns:
            result[:, columns[0]] = 0  # what is new does not reach what is old
            result[np.ix_(rows, columns[0])] = values
        else:
            result[rows] = values
        return result

    params = jax.tree_util.tree_map_with_path(enlarge, small.params, large.params)
    return dataclasses.replace(small, model=new, params=params)


def _places(name: str, axis: int, old: int, new: int, small: M3GNet, large: M3GNet) -> np.ndarray:
    """Where the ``old`` entries of an axis lie among the ``new`` ones."""
    if ("three_gate" in name and not ("kernel" in name and axis == 0)) or ("three_update" in name and axis == 0):
        columns = np.arange(large.max_l * large.max_n).reshape(large.max_l, large.max_n)
        return columns[: small.max_l, : small.max_n].ravel()
    parts = old // small.units if old % small.units == 0 else 1  # [v_i, v_j, e] side by side
    return np.arange(new).reshape(parts, -1)[:, : old // parts].ravel()
