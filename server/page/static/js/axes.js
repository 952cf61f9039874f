/** What a candidate can be judged by; lower is better in each. */

/** @typedef {import("./types.js").Candidate} Candidate */
/** @typedef {import("./types.js").Budgets} Budgets */

/**
 * @typedef {object} Axis
 * @property {string} key
 * @property {string} label
 * @property {string} unit
 * @property {boolean} timed whether it is measured in the phone's milliseconds
 * @property {keyof Budgets|null} budget the bound that applies to it
 * @property {(row: Candidate, serial: string) => number|null} value
 */

/** @param {number|null|undefined} value */
const orNull = (value) => value ?? null;

/** @type {Axis[]} */
export const AXES = [
  {
    key: "bits_per_byte",
    label: "quality",
    unit: "bits per byte",
    timed: false,
    budget: null,
    value: (row) => orNull(row.quality?.bits_per_byte),
  },
  {
    key: "decode_ms",
    label: "decode",
    unit: "ms per token",
    timed: true,
    budget: "decode_ms",
    value: (row, serial) => orNull(row.profiles[serial]?.decode_ms.value),
  },
  {
    key: "ttft_ms",
    label: "time to first token",
    unit: "ms",
    timed: true,
    budget: "ttft_ms",
    value: (row, serial) => orNull(row.profiles[serial]?.ttft_ms.value),
  },
  {
    key: "peak_memory_mb",
    label: "peak memory",
    unit: "MB",
    timed: false,
    budget: "peak_memory_mb",
    value: (row, serial) => {
      const profile = row.profiles[serial];
      return profile ? profile.peak_memory_bytes / 1e6 : null;
    },
  },
];

/** @param {string} key @returns {Axis} */
export const axis = (key) => AXES.find((a) => a.key === key) ?? AXES[0];

/** Budgets by their key in the API, as people say them. */
/** @type {Record<string, {label: string, short: string, unit: string}>} */
export const BUDGETS = {
  decode_ms: { label: "Decode", short: "decode", unit: "ms/token" },
  ttft_ms: { label: "Time to first token", short: "TTFT", unit: "ms" },
  peak_memory_mb: { label: "Peak memory", short: "memory", unit: "MB" },
};

/** @param {string} key */
export const budgetName = (key) => BUDGETS[key] ?? { label: key, short: key, unit: "" };

/** @param {Candidate} row @returns {string[]} budgets that it breaks */
export const broken = (row) => Object.keys(row.violations).filter((key) => row.violations[key] > 0);
