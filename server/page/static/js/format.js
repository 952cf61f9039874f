/** Numbers, sizes and times as text. */

/** What stands where there is no value. */
export const NONE = "–";

/**
 * About three digits, no exponent: 0.012, 1.23, 12.3, 123, 1 230; as many as it takes to show what is tiny: 0.00120.
 * @param {number|null|undefined} value
 */
export function figure(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return NONE;
  const size = Math.abs(value);
  if (size > 0 && size < 0.01) return value.toFixed(Math.min(100, 2 - Math.floor(Math.log10(size))));
  const digits = size >= 100 || size === 0 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : 3;
  return grouped(value.toFixed(digits));
}

/** @param {string} digits @returns {string} with thin spaces between thousands */
function grouped(digits) {
  const [whole, part] = digits.split(".");
  const spaced = whole.replace(/\B(?=(\d{3})+$)/g, "\u202f");
  return part === undefined ? spaced : `${spaced}.${part}`;
}

/** @param {number|null|undefined} value @param {number} digits */
export const fixed = (value, digits) =>
  value === null || value === undefined ? NONE : grouped(value.toFixed(digits));

/** A share, from 0 to 1. @param {number|null|undefined} share */
export const percent = (share) => (share === null || share === undefined ? NONE : `${fixed(100 * share, 1)} %`);

/** @param {number} count a number of things: 950, 1.25 M, 1.17 G */
export function count(count) {
  for (const [size, unit] of /** @type {[number, string][]} */ ([[1e9, "G"], [1e6, "M"], [1e4, "k"]])) {
    if (count >= size) return `${figure(count / (unit === "k" ? 1e3 : size))} ${unit}`;
  }
  return String(count);
}

/** @param {number|null|undefined} bytes in units of 10^n, as budgets are */
export function bytes(bytes) {
  if (bytes === null || bytes === undefined) return NONE;
  return bytes >= 1e9 ? `${figure(bytes / 1e9)} GB` : `${figure(bytes / 1e6)} MB`;
}

/** @param {number|null|undefined} seconds */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return NONE;
  if (seconds < 60) return `${Number.isInteger(seconds) ? seconds : figure(seconds)} s`;
  const whole = Math.round(seconds);
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${String(whole % 60).padStart(2, "0")} s`;
  return `${Math.floor(whole / 3600)} h ${String(Math.floor((whole % 3600) / 60)).padStart(2, "0")} min`;
}

/** @param {string|null} moment ISO 8601 @param {number} now milliseconds */
export function ago(moment, now) {
  if (!moment) return "never";
  const seconds = Math.max(0, (now - Date.parse(moment)) / 1000);
  if (seconds < 5) return "just now";
  if (seconds < 60) return `${Math.floor(seconds)} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h ago`;
  return new Date(moment).toLocaleDateString();
}

/** @param {number} milliseconds */
export const clock = (milliseconds) =>
  new Date(milliseconds).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });

/**
 * A probability; 1 and 0 are only written when nothing of the resampling speaks against them.
 * @param {number} p
 */
export const probability = (p) => (p > 0.99 && p < 1 ? "> 99 %" : p > 0 && p < 0.01 ? "< 1 %" : `${Math.round(p * 100)} %`);

/** @param {string} name a key of the API: `bits_per_byte` */
export const spaced = (name) => name.replaceAll("_", " ");
