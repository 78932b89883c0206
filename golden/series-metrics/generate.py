"""Scores of random forecasts by scikit-learn, and quantiles by numpy, for the tests of anser-series.

    python3 -m venv ../venv-series && ../venv-series/bin/pip install numpy scikit-learn
    ../venv-series/bin/python golden/series-metrics/generate.py

from the repository's root writes golden/series-metrics/metrics.json. Numbers are written so that they are read back to
the bit. NaN is null.
"""

import json
import math
import warnings
from pathlib import Path

import numpy as np
from sklearn.metrics import (
    mean_absolute_error,
    mean_absolute_percentage_error,
    mean_pinball_loss,
    mean_squared_error,
    r2_score,
    root_mean_squared_error,
)

rng = np.random.default_rng(20260101)


def plain(x):
    return None if math.isnan(x) else float(x)


def case(name, truth, forecast):
    """truth, forecast: [T, M]"""
    truth, forecast = np.asarray(truth, dtype=np.float64), np.asarray(forecast, dtype=np.float64)
    y, f = truth.ravel(), forecast.ravel()
    there = y != 0  # scikit-learn divides by 2.2e-16 where the truth is 0; ours leaves such pairs out
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # R2 of one row is not defined: NaN and a warning
        r2 = r2_score(truth, forecast, multioutput="uniform_average")
        r2_pooled = r2_score(y, f) if len(truth) > 1 else math.nan
    return {
        "name": name,
        "width": truth.shape[1],
        "truth": y.tolist(),
        "forecast": f.tolist(),
        "mse": plain(mean_squared_error(truth, forecast)),
        "mae": plain(mean_absolute_error(truth, forecast)),
        # of everything in one pool: scikit-learn's own mean over columns is of roots
        "rmse": plain(root_mean_squared_error(y, f)),
        "mape": plain(mean_absolute_percentage_error(y[there], f[there])) if there.any() else None,
        "mape_ignored": int((~there).sum()),
        "r2": plain(r2),
        "r2_pooled": plain(r2_pooled),
        "pinball": [[level, plain(mean_pinball_loss(y, f, alpha=level))] for level in (0.05, 0.1, 0.5, 0.9)],
    }


def noisy(truth, by):
    return truth + by * rng.standard_normal(truth.shape)


several = rng.standard_normal((40, 3))
single = rng.standard_normal((25, 1)).cumsum(axis=0)
scales = rng.standard_normal((30, 4)) * [1e-3, 1.0, 50.0, 1e4] + [0.0, 100.0, -3.0, 1e5]
constant = rng.standard_normal((20, 3))
constant[:, 0], constant[:, 1] = 4.0, -2.5
met = noisy(constant, 0.3)
met[:, 1] = constant[:, 1]
zeros = rng.standard_normal((15, 2))
zeros[::4, 0] = 0.0
zeros[3, 1] = -0.0

cases = [
    case("several columns", several, noisy(several, 0.5)),
    case("one column", single, noisy(single, 0.2)),
    case("columns of different size", scales, noisy(scales, 0.1) * 1.01),
    case("a constant missed, a constant met, and a column", constant, met),
    case("zeros", zeros, noisy(zeros, 0.4)),
    case("only zeros", np.zeros((4, 1)), np.array([[0.0], [1.0], [-2.0], [0.5]])),
    case("a perfect forecast", several, several),
    case("one value", [[3.0]], [[2.5]]),
    case("one row", [[3.0, -1.0]], [[2.5, 1.0]]),
    case("two rows", [[3.0], [5.0]], [[2.5], [5.5]]),
]

residuals = rng.standard_normal(37).tolist()
levels = [0.0, 0.01, 0.1, 0.25, 1 / 3, 0.5, 0.77, 0.9, 0.975, 0.999, 1.0]
quantiles = [[level, float(np.quantile(residuals, level))] for level in levels]

out = {"cases": cases, "quantiles": {"residuals": residuals, "of": quantiles}}
path = Path(__file__).parent / "metrics.json"
path.write_text(json.dumps(out, indent=1) + "\n")
print(path, path.stat().st_size, "bytes")
