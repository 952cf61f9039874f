/** The order of rows, and how it keeps still while someone reads. */

/** @typedef {import("./columns.js").Column} Column */
/** @typedef {import("./types.js").Candidate} Candidate */

/**
 * Sorted by a column; rows without a value come last whichever way, equals by number.
 * @param {Candidate[]} rows
 * @param {Column} column
 * @param {boolean} falling
 * @param {string} serial
 * @returns {Candidate[]}
 */
export function sorted(rows, column, falling, serial) {
  const sign = falling ? -1 : 1;
  const keyed = rows.map((row) => ({ row, key: column.sort(row, serial) }));
  keyed.sort((a, b) => {
    if (a.key === null || b.key === null) {
      return a.key === b.key ? a.row.number - b.row.number : a.key === null ? 1 : -1;
    }
    return sign * (a.key - b.key) || a.row.number - b.row.number;
  });
  return keyed.map(({ row }) => row);
}

/**
 * Rows in the places that `places` (numbers, in order) gives them; rows it does not know come after, as sorted.
 * @param {Candidate[]} rows as sorted
 * @param {number[]} places
 * @returns {Candidate[]}
 */
export function held(rows, places) {
  const place = new Map(places.map((number, index) => [number, index]));
  const known = rows.filter((row) => place.has(row.number));
  known.sort((a, b) => /** @type {number} */ (place.get(a.number)) - /** @type {number} */ (place.get(b.number)));
  return [...known, ...rows.filter((row) => !place.has(row.number))];
}
