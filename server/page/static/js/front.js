/** The front in the plane of two axes, both minimised. */

/** @typedef {{x: number, y: number}} Point */

/**
 * The points that no other point is at least as good as in both, from left to right.
 * @template {Point} T
 * @param {T[]} points
 * @returns {T[]}
 */
export function nonDominated(points) {
  const byX = [...points].sort((a, b) => a.x - b.x || a.y - b.y);
  let lowest = Infinity;
  return byX.filter((point) => {
    if (point.y >= lowest) return false;
    lowest = point.y;
    return true;
  });
}

/**
 * The range of an axis: all values with room around them, and the bound if it lies near enough to be drawn.
 * @param {number[]} values
 * @param {number|null} bound
 * @returns {{min: number, max: number, boundShown: boolean}}
 */
export function range(values, bound) {
  if (!values.length) return { min: 0, max: 1, boundShown: false };
  let [min, max] = [Math.min(...values), Math.max(...values)];
  const span = max - min || Math.abs(max) * 0.1 || 1;
  const boundShown = bound !== null && bound > min - span && bound < max + 1.5 * span;
  if (boundShown) [min, max] = [Math.min(min, bound), Math.max(max, bound)];
  const room = (max - min || span) * 0.1;
  return { min: min >= 0 ? Math.max(0, min - room) : min - room, max: max + room, boundShown };
}
