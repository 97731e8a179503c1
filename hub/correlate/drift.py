"""How fast two clocks run apart: convex hulls of the bounds over time.

The offset of a clock that drifts evenly is a line that lies below all upper and above all lower bounds. Only the lower
convex hull of the upper and the upper hull of the lower bounds matter (Moon, Skelly, Towsley: Estimation and Removal of
Clock Skew from Network Delay Measurements, INFOCOM 1999), and the steepest and the flattest line between the two hulls
are what the drift is certain to lie between.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FEWEST_POINTS = 8
LEAST_SPAN_S = 5.0


@dataclass(frozen=True, slots=True)
class Drift:
    """Of a clock against the anchor, as a ratio (1e-6 is 1 ppm); positive: it runs faster."""

    low: float
    high: float

    @property
    def estimate(self) -> float:
        """Halfway."""
        return (self.low + self.high) / 2


def drift_of(
    time_s: NDArray[np.float64], low_ns: NDArray[np.float64], high_ns: NDArray[np.float64], limit: float
) -> Drift | None:
    """The drift that a line between the bounds can have; None: too little to tell, or no line fits (it isn't even).

    limit: |drift| is taken to be below it.
    """
    upper = _lower_hull(time_s, high_ns)
    lower = _lower_hull(time_s, -low_ns)
    if len(time_s) < FEWEST_POINTS or time_s[-1] - time_s[0] < LEAST_SPAN_S:
        return None
    rise = (high_ns[upper][:, None] - low_ns[lower][None, :]) * 1e-9
    run = time_s[upper][:, None] - time_s[lower][None, :]
    later, earlier = run > 0, run < 0
    highest = float(np.min(rise[later] / run[later])) if later.any() else limit
    lowest = float(np.max(rise[earlier] / run[earlier])) if earlier.any() else -limit
    highest, lowest = min(highest, limit), max(lowest, -limit)
    return Drift(lowest, highest) if lowest <= highest else None


def _lower_hull(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.intp]:
    """Indices of the lower convex hull of points with rising x (Andrew's monotone chain)."""
    hull: list[int] = []
    xs, ys = x.tolist(), y.tolist()
    for point in range(len(xs)):
        while len(hull) > 1:
            a, b = hull[-2], hull[-1]
            if (xs[b] - xs[a]) * (ys[point] - ys[a]) > (ys[b] - ys[a]) * (xs[point] - xs[a]):
                break
            hull.pop()
        hull.append(point)
    return np.array(hull, np.intp)
