/** How a curriculum went, out of the metrics of a stage: which levels it has, what was told of each, and when. */

/** @typedef {import("./types.js").MetricPoint} MetricPoint */
/** @typedef {import("./types.js").Stage} Stage */
/** @typedef {[number, number][]} Series by rising tokens */
/** @typedef {{name: string, success: Series, share: Series, reachedAt: number|null}} Level */

const SUCCESS = "success/";
const SHARE = "share/";
const REACHED = "level";
const LATELY = 5;

/** @param {Stage} stage */
export const hasCurriculum = (stage) => stage.name === "rl";

/** Whether a metric is shown with the levels, not as a curve. @param {string} name */
export const ofCurriculum = (name) => name === REACHED || name.startsWith(SUCCESS) || name.startsWith(SHARE);

/** @param {MetricPoint[]} points @param {string} name @returns {Series} */
const series = (points, name) =>
  points.flatMap((point) => {
    const value = point.values[name];
    return value === null || value === undefined ? [] : [/** @type {[number, number]} */ ([point.tokens, value])];
  });

/** The levels from easy to hard, as the stage tells their shares. @param {MetricPoint[]} points @returns {Level[]} */
export function levels(points) {
  const names = [...new Set(points.flatMap((point) => Object.keys(point.values)))]
    .filter((name) => name.startsWith(SHARE))
    .map((name) => name.slice(SHARE.length));
  const reached = series(points, REACHED);
  return names.map((name, index) => ({
    name,
    success: series(points, SUCCESS + name),
    share: series(points, SHARE + name),
    reachedAt: reached.find(([, level]) => level >= index)?.[0] ?? null,
  }));
}

/** @param {Series} told @param {number} tokens what was told until then */
const until = (told, tokens) => told.filter(([at]) => at <= tokens).map(([, value]) => value);

/** @param {number[]} values @returns {number|null} */
const mean = (values) => (values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : null);

/** The mean of the last figures until then: one alone is of a few answers. @param {Series} told @param {number} tokens */
export const lately = (told, tokens) => mean(until(told, tokens).slice(-LATELY));

/** The last figure until then. @param {Series} told @param {number} tokens */
export const last = (told, tokens) => until(told, tokens).at(-1) ?? null;

/**
 * A series in `count` equal parts of the tokens until `end`: the mean of each, null where nothing was told.
 * @param {Series} told @param {number} end @param {number} count
 */
export function parts(told, end, count) {
  /** @type {number[][]} */
  const found = Array.from({ length: count }, () => []);
  for (const [tokens, value] of told) found[Math.min(count - 1, Math.floor((tokens / end) * count))].push(value);
  return found.map(mean);
}

/** Runs of parts that are there: where each begins, and its values. @param {(number|null)[]} values */
function stretches(values) {
  /** @type {{from: number, values: number[]}[]} */
  const found = [];
  values.forEach((value, index) => {
    if (value === null) return;
    const open = found.at(-1);
    if (open && open.from + open.values.length === index) open.values.push(value);
    else found.push({ from: index, values: [value] });
  });
  return found;
}

/** @param {number} value from 0 to 1 */
const height = (value) => (100 * (1 - value)).toFixed(1);

/** The top of the parts as an SVG path, 1 wide each and 100 high. @param {(number|null)[]} values */
export const outline = (values) =>
  stretches(values)
    .map(({ from, values: tops }) => tops.map((top, i) => `${i ? "L" : "M"}${from + i} ${height(top)}H${from + i + 1}`).join(""))
    .join("");

/** The same, filled down to nothing. @param {(number|null)[]} values */
export const area = (values) =>
  stretches(values)
    .map(({ from, values: tops }) => `M${from} 100${tops.map((top, i) => `L${from + i} ${height(top)}H${from + i + 1}`).join("")}V100Z`)
    .join("");
