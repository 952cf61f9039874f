/** What a stage told as it trained, as curves: which metrics stand together, and how ECharts draws them. */
import { bytes, count, figure, fixed, percent, spaced } from "./format.js";

/** @typedef {import("./types.js").MetricPoint} MetricPoint */
/** @typedef {import("./plot_option.js").Palette} Palette */
/** @typedef {(value: number|null|undefined) => string} Format */
/** @typedef {{name: string, label: string, data: [number, number|null][]}} Curve */
/** @typedef {{key: string, title: string, unit: string, format: Format, counted: string, curves: Curve[]}} Chart */

/** A number beside an axis, as short as it can be. @param {number} value */
const plain = (value) => (Math.abs(value) >= 1e4 ? count(value) : String(Number(value.toPrecision(4))));

/** In the order that they are shown in; what is not here follows, by its own name. @type {Record<string, [string, string, Format]>} */
const KNOWN = {
  loss: ["Loss", "nats per token", (value) => fixed(value, 3)],
  bits_per_byte: ["Bits per byte", "held-out text", (value) => fixed(value, 3)],
  gradient_norm: ["Gradient norm", "before clipping", figure],
  learning_rate: ["Learning rate", "", figure],
  tokens_per_second: ["Tokens per second", "", figure],
  flops_utilisation: ["FLOPs utilisation", "of the peak", percent],
  yield: ["Yield", "of answers asked for", percent],
  removed: ["Removed", "of what came to each filter", percent],
  success: ["Success", "of sampled answers", percent],
  reward: ["Reward", "mean of sampled answers", figure],
  informative: ["Informative groups", "whose answers differ in worth", percent],
  truncated: ["Truncated", "of sampled answers", percent],
  entropy: ["Entropy", "nats per token", figure],
  mismatch: ["Mismatch", "sampler against trainer, nats per token", figure],
  memory_bytes: ["Memory", "", bytes],
};

/** @param {string} name */
const family = (name) => name.split("/", 1)[0];

/** @param {string} name */
const part = (name) => (name.includes("/") ? name.slice(name.indexOf("/") + 1) : "all");

/**
 * A chart for each metric; what differs only after a slash (a source of text) shares one.
 * @param {MetricPoint[]} points
 * @param {string} counted what the points are counted in
 * @param {(name: string) => boolean} wanted which metrics
 * @returns {Chart[]}
 */
export function charts(points, counted, wanted) {
  const names = [...new Set(points.flatMap((point) => Object.keys(point.values)))].filter(wanted).sort();
  const known = Object.keys(KNOWN);
  const keys = [...new Set(names.map(family))].sort((a, b) => known.indexOf(a) - known.indexOf(b));
  const inOrder = [...keys.filter((key) => key in KNOWN), ...keys.filter((key) => !(key in KNOWN))];
  return inOrder.map((key) => {
    const [title, unit, format] = KNOWN[key] ?? [spaced(key), "", figure];
    const curves = names
      .filter((name) => family(name) === key)
      .map((name) => ({ name, label: part(name), data: course(points, name) }));
    return { key, title, unit, format, counted, curves };
  });
}

/** @param {MetricPoint[]} points @param {string} name @returns {[number, number|null][]} */
const course = (points, name) =>
  points.filter((point) => name in point.values).map((point) => [point.tokens, point.values[name]]);

/** @param {Curve} curve */
export const last = (curve) => curve.data[curve.data.length - 1]?.[1] ?? null;

/** What a chart shows, in words. @param {Chart} chart */
export function inWords({ title, unit, format, counted, curves }) {
  const said = curves.map(({ label, data }) => {
    const values = data.flatMap(([, value]) => (value === null ? [] : [value]));
    if (!values.length) return `${label}: no finite number`;
    const from = curves.length > 1 ? `${label}: ` : "";
    const ends = `from ${format(values[0])} to ${format(values[values.length - 1])}`;
    return `${from}${ends}, least ${format(Math.min(...values))}, greatest ${format(Math.max(...values))}`;
  });
  const tokens = Math.max(0, ...curves.flatMap(({ data }) => data.map(([at]) => at)));
  return `${title}${unit && `, ${unit}`}, over ${count(tokens)} ${counted}: ${said.join("; ")}`;
}

const DASHES = ["solid", "dashed", "dotted"];

/**
 * How the n-th curve of a chart looks; where colours run out, dashes tell.
 * @param {number} index @param {Palette} colours
 */
export function stroke(index, colours) {
  const cycle = [colours.accent, colours.gold, colours.host, colours.bad, colours.ink];
  const dash = DASHES[Math.floor(index / cycle.length) % DASHES.length];
  return { color: cycle[index % cycle.length], type: dash };
}

/** @param {Chart} chart @param {Palette} colours */
export function curveOption({ format, counted, curves }, colours) {
  const label = { color: colours.muted, fontSize: 11, hideOverlap: true };
  const grid = { lineStyle: { color: colours.line, opacity: 0.6 } };
  const few = Math.max(...curves.map(({ data }) => data.length)) <= 40;
  return {
    animation: false,
    grid: { left: 8, right: 14, top: 10, bottom: 4, containLabel: true },
    tooltip: {
      trigger: "axis",
      renderMode: "richText", // an HTML tooltip has inline styles, which the page's policy forbids
      confine: true,
      backgroundColor: colours.panel,
      borderColor: colours.line,
      textStyle: { color: colours.ink, fontSize: 12 },
      axisPointer: { lineStyle: { color: colours.muted } },
      formatter: (/** @type {any[]} */ under) =>
        [
          `${count(under[0].value[0])} ${counted}`,
          ...under.map((u) => `${curves.length > 1 ? `${u.seriesName}: ` : ""}${format(u.value[1])}`),
        ].join("\n"),
    },
    xAxis: {
      type: "value",
      min: 0,
      max: "dataMax",
      axisLine: { lineStyle: { color: colours.line } },
      axisTick: { show: false },
      axisLabel: { ...label, formatter: count, showMaxLabel: false },
      splitLine: { show: false },
      splitNumber: 4,
    },
    yAxis: {
      type: "value",
      scale: true,
      axisLabel: { ...label, formatter: format === percent || format === bytes ? format : plain },
      splitLine: grid,
      splitNumber: 3,
    },
    series: curves.map(({ label: name, data }, index) => ({
      type: "line",
      name,
      data,
      showSymbol: few,
      symbol: "circle",
      symbolSize: 4,
      connectNulls: false,
      lineStyle: { width: 1.6, ...stroke(index, colours) },
      itemStyle: { color: stroke(index, colours).color },
      emphasis: { disabled: true },
    })),
  };
}
