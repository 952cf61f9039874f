/** The columns of the leaderboard. */
import { count, figure, fixed } from "./format.js";

/** @typedef {import("./types.js").Candidate} Candidate */
/** @typedef {import("./types.js").Figure} Figure */

/**
 * @typedef {object} Column
 * @property {string} key
 * @property {string} label
 * @property {string} unit
 * @property {string} title what it is, in a sentence
 * @property {boolean} onPhone whether it is a measurement of the phone
 * @property {boolean} falls whether the best is the highest, so that it is sorted falling first
 * @property {string|null} budget the budget that bounds it
 * @property {(row: Candidate, serial: string) => number|null} sort
 * @property {((row: Candidate, serial: string) => string)|null} text null: drawn by the row itself
 * @property {((row: Candidate, serial: string) => Figure|undefined)|null} interval
 */

const PHASES = ["failed", "proposed", "exported", "measured", "done"];

/** Rank of a candidate's state: winner, front, feasible, done, and down to failed. @param {Candidate} row */
export function standing(row) {
  if (row.winner) return 7;
  if (row.on_front) return 6;
  if (row.feasible) return 5;
  return PHASES.indexOf(row.phase);
}

/** @param {Candidate} row */
const attentionCount = (row) => row.architecture.blocks.filter((b) => b.operator === "attention").length;

/** @param {Partial<Column> & Pick<Column, "key"|"label"|"sort">} given @returns {Column} */
const column = (given) => ({ unit: "", title: "", onPhone: false, falls: false, budget: null, text: null, interval: null, ...given });

/**
 * @param {"ttft_ms"|"prefill_tokens_per_second"|"decode_ms"} name
 * @param {Partial<Column> & Pick<Column, "label">} given
 */
function measured(name, given) {
  return column({
    key: name,
    onPhone: true,
    sort: (row, serial) => row.profiles[serial]?.[name].value ?? null,
    text: (row, serial) => figure(row.profiles[serial]?.[name].value),
    interval: (row, serial) => row.profiles[serial]?.[name],
    ...given,
  });
}

/** @param {Candidate} row @param {string} serial */
function tokensPerSecond(row, serial) {
  const decode = row.profiles[serial]?.decode_ms.value;
  return decode ? 1000 / decode : null;
}

/** @param {Candidate} row @param {string} serial */
function peakMegabytes(row, serial) {
  const profile = row.profiles[serial];
  return profile ? profile.peak_memory_bytes / 1e6 : null;
}

/** @type {Column[]} */
export const COLUMNS = [
  column({ key: "number", label: "#", title: "Number of its trial", sort: (row) => row.number }),
  column({ key: "standing", label: "State", title: "How far it came and how it stands", falls: true, sort: standing }),
  column({
    key: "shape",
    label: "Blocks",
    title: "c is a short convolution, A is attention; sorted by the number of attention blocks",
    sort: attentionCount,
  }),
  column({
    key: "width",
    label: "Width",
    title: "Width of the residual stream",
    sort: (row) => row.architecture.width,
    text: (row) => String(row.architecture.width),
  }),
  column({
    key: "depth",
    label: "Depth",
    title: "Number of blocks",
    sort: (row) => row.architecture.blocks.length,
    text: (row) => String(row.architecture.blocks.length),
  }),
  column({
    key: "parameters",
    label: "Params",
    title: "Parameters, the tied embedding counted once",
    sort: (row) => row.parameters,
    text: (row) => count(row.parameters),
  }),
  column({
    key: "bits_per_byte",
    label: "Quality",
    unit: "bits/byte",
    title: "Held-out loss after a short training: lower is better",
    sort: (row) => row.quality?.bits_per_byte ?? null,
    text: (row) => fixed(row.quality?.bits_per_byte, 3),
  }),
  measured("ttft_ms", { label: "TTFT", unit: "ms", title: "Time to first token: the whole prompt", budget: "ttft_ms" }),
  measured("prefill_tokens_per_second", { label: "Prefill", unit: "tok/s", title: "Prompt tokens per second", falls: true }),
  measured("decode_ms", {
    label: "Decode",
    unit: "ms/token",
    title: "Median time per decoded token, with its 95 % interval",
    budget: "decode_ms",
  }),
  column({
    key: "decode_speed",
    label: "Speed",
    unit: "tok/s",
    title: "Decoded tokens per second",
    falls: true,
    onPhone: true,
    sort: tokensPerSecond,
    text: (row, serial) => figure(tokensPerSecond(row, serial)),
  }),
  column({
    key: "peak_memory_mb",
    label: "Peak",
    unit: "MB",
    title: "Peak memory above the empty runner",
    onPhone: true,
    budget: "peak_memory_mb",
    sort: peakMegabytes,
    text: (row, serial) => figure(peakMegabytes(row, serial)),
  }),
];

/**
 * @param {string} spelling a key, with a leading "-" to fall
 * @returns {{column: Column, falling: boolean}}
 */
export function ordering(spelling) {
  const falling = spelling.startsWith("-");
  const key = falling ? spelling.slice(1) : spelling;
  return { column: COLUMNS.find((c) => c.key === key) ?? COLUMNS[0], falling };
}
