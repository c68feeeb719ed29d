"""The two loops of the sum tree, compiled by numba: the same sums in the same order as with numpy.

Level by level, with all leaves or points side by side, so that their memory accesses overlap.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from common.types import Array


@njit("void(float64[::1], float64[::1], int64[::1], float64[::1], int64)", cache=True, nogil=True)  # type: ignore[untyped-decorator]
def set_leaves(masses: Array, sums: Array, places: Array, values: Array, depth: int) -> None:
    """Set `masses[places]` and all sums above; `places` is overwritten."""
    count = len(places)
    for i in range(count):
        masses[places[i]] = values[i]
    kept = 0
    last = -1
    for i in range(count):
        block = places[i] >> 4
        if block != last:  # neighbours share blocks and parents
            node = (1 << depth) + block
            m = masses[block << 4 : (block + 1) << 4]
            low = ((m[0] + m[1]) + (m[2] + m[3])) + ((m[4] + m[5]) + (m[6] + m[7]))
            high = ((m[8] + m[9]) + (m[10] + m[11])) + ((m[12] + m[13]) + (m[14] + m[15]))
            sums[node] = low + high
            places[kept] = node
            kept += 1
            last = block
    for _ in range(depth):
        count, kept, last = kept, 0, -1
        for i in range(count):
            node = places[i] >> 1
            if node != last:
                sums[node] = sums[2 * node] + sums[2 * node + 1]
                places[kept] = node
                kept += 1
                last = node


@njit("void(float64[::1], float64[::1], float64[::1], int64[::1], int64)", cache=True, nogil=True)  # type: ignore[untyped-decorator]
def find_leaves(masses: Array, sums: Array, rest: Array, places: Array, depth: int) -> None:
    """Walk from the root to the leaf under each point; `rest`, the points, is overwritten."""
    # Left or right is a number to calculate with, not a branch: half of such branches would be
    # predicted wrong, which takes four times as long as all else together.
    for i in range(len(rest)):
        places[i] = 1
    for _ in range(depth):
        for i in range(len(rest)):
            left = 2 * places[i]
            mass = sums[left]
            right = np.int64(rest[i] >= mass) & np.int64(sums[left + 1] > 0)
            rest[i] -= mass * right
            places[i] = left + right
    for i in range(len(rest)):
        place = (places[i] - (1 << depth)) << 4
        point = rest[i]
        # The sums below are made in registers, from one read of the block.
        p0, p1 = masses[place] + masses[place + 1], masses[place + 2] + masses[place + 3]
        p2, p3 = masses[place + 4] + masses[place + 5], masses[place + 6] + masses[place + 7]
        p4, p5 = masses[place + 8] + masses[place + 9], masses[place + 10] + masses[place + 11]
        p6, p7 = masses[place + 12] + masses[place + 13], masses[place + 14] + masses[place + 15]
        q0, q1, q2, q3 = p0 + p1, p2 + p3, p4 + p5, p6 + p7
        left_mass, right_mass = q0 + q1, q2 + q3
        right = (point >= left_mass) & (right_mass > 0)
        point -= left_mass * right
        place += 8 * right
        # One by one: a choice between tuples would be a branch.
        left_mass = q2 if right else q0
        right_mass = q3 if right else q1
        r0 = p4 if right else p0
        r1 = p5 if right else p1
        r2 = p6 if right else p2
        r3 = p7 if right else p3
        right = (point >= left_mass) & (right_mass > 0)
        point -= left_mass * right
        place += 4 * right
        left_mass = r2 if right else r0
        right_mass = r3 if right else r1
        right = (point >= left_mass) & (right_mass > 0)
        point -= left_mass * right
        place += 2 * right
        place += (point >= masses[place]) & (masses[place + 1] > 0)
        places[i] = place
