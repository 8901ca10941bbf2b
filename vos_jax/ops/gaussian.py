"""A generative model of appearance: Gaussians of features, fitted to a frame and soft masks.

Johnander, Danelljan, Brissman, Khan, Felsberg, "A Generative Appearance Model for End-to-end Video
Object Segmentation" (A-GAME), CVPR 2019, arXiv 1811.11611, section 3.2; released code:
joakimjohnander/agame-vos, models/agame_model.py (GaussiansAgame).

Every object has a mixture of four components with diagonal covariances and a uniform prior:
background and object (the base components), and one for what either of them explains wrongly
(distractors): background that looks like the object's background model fails to claim, and object
likewise. Their order is the release's: background, object, pixels that the base components wrongly
give to the background, and those that they wrongly give to the object; in the paper's equations the
last two have their indices exchanged.

Where the released code and the paper differ, `rule` chooses: "code" divides by 1 + the sum of the
weights, so that one pixel of zeros draws each mean to 0 and an object without pixels has a
finite model, and adds the regulariser once; "paper" divides by the sum.

Glossary: B videos, N objects, P pixels, C features, K components (2 without distractors).
"""

import jax
import jax.numpy as jnp
from flax import struct

# Pixels of zeros that count with those of a component. The paper has none, and 0 / 0 where nothing
# has weight; a thousandth of a pixel makes that 0.
SHRINKAGE = {"code": 1.0, "paper": 1e-3}


@struct.dataclass
class Mixture:
    """Components of each object's model; a variance of 0 stands for one that was never fitted."""

    means: jax.Array  # float32 [B, N, K, C]
    variances: jax.Array  # float32 [B, N, K, C]


def fit(
    features: jax.Array, masks: jax.Array, regulariser: jax.Array, rule: str = "code"
) -> Mixture:
    """The mixtures of one frame.

    The distractors' weights are what the base components' posterior has too much ("code": q - y,
    cut at 0), with q from the base components that were just fitted.

    Args:
        features: float32 [B, P, C].
        masks: each pixel's share of the objects, [B, N, P] in 0..1; the rest is background.
        regulariser: positive floors of the variances [K, C]; K says whether there are distractors.
        rule: "code" or "paper", see above.

    Returns:
        Finite also for objects without a pixel, and for those that fill the frame.
    """
    weights = jnp.stack([1 - masks, masks], axis=2)
    base = _fit_components(features, weights, regulariser[:2], rule)
    if len(regulariser) == 2:
        return base
    posterior = jax.nn.softmax(log_scores(base, features), axis=2)
    wrong = jax.nn.relu(posterior - weights)
    distractors = _fit_components(features, wrong, regulariser[2:], rule)
    return jax.tree.map(lambda *x: jnp.concatenate(x, axis=2), base, distractors)


def _fit_components(features, weights, regulariser, rule) -> Mixture:
    """Weighted means and variances [B, N, k, C] of features [B, P, C]; weights [B, N, k, P]."""
    total = weights.sum(axis=-1)[..., None]
    total = total + SHRINKAGE[rule]
    highest = jax.lax.Precision.HIGHEST
    means = jnp.einsum("bnkp,bpc->bnkc", weights, features, precision=highest) / total
    apart = jnp.square(features[:, None, None] - means[:, :, :, None])
    # no product of matrices: `apart` is never made, XLA sums it as it goes
    spread = (weights[..., None] * apart).sum(axis=-2) / total
    return Mixture(means, spread + regulariser)


def update(mixture: Mixture, fitted: Mixture, rate: float) -> Mixture:
    """(1 - rate) * mixture + rate * fitted, means and variances (the paper's lambda is `rate`)."""
    return jax.tree.map(lambda old, new: (1 - rate) * old + rate * new, mixture, fitted)


def log_scores(mixture: Mixture, features: jax.Array) -> jax.Array:
    """Logarithms of the components' densities at each pixel, up to a constant.

    s_k(p) = -1/2 sum_c (log var_kc + (x_pc - mean_kc)^2 / var_kc)

    Args:
        features: float32 [B, P, C].

    Returns:
        float32 [B, N, K, P], of the order of C; finite also for components never fitted.
    """
    variances = jnp.where(mixture.variances > 0, mixture.variances, 1.0)  # also in the gradient
    apart = jnp.square(features[:, None, None] - mixture.means[:, :, :, None])
    distance = (apart / variances[:, :, :, None]).sum(axis=-1)
    return -0.5 * (distance + jnp.log(variances).sum(axis=-1)[..., None])
