/** What ECharts is told: points, the front of the two axes shown, budgets as lines. */
import { nonDominated, range } from "./front.js";
import { figure } from "./format.js";

/** @typedef {import("./types.js").Candidate} Candidate */
/** @typedef {import("./axes.js").Axis} Axis */
/** @typedef {{row: Candidate, x: number, y: number, size: number}} Point */
/** @typedef {Record<"ink"|"muted"|"line"|"panel"|"accent"|"accentSoft"|"gold"|"bad"|"badSoft"|"host", string>} Palette */

const SMALLEST = 9;
const LARGEST = 26;
const ROOMY = 150;

/** @param {Candidate} row what is drawn over what */
const rank = (row) => Number(row.feasible) + Number(row.on_front) + Number(row.winner);

/**
 * Candidates that have both values, the best last so that they lie on top. Their area grows with peak memory, from
 * the least to the most shown, and shrinks where there are very many.
 * @param {Candidate[]} rows
 * @param {Axis} x
 * @param {Axis} y
 * @param {string} serial
 * @returns {Point[]}
 */
export function points(rows, x, y, serial) {
  const seen = rows.flatMap((row) => {
    const [px, py, memory] = [x.value(row, serial), y.value(row, serial), row.profiles[serial]?.peak_memory_bytes];
    return px === null || py === null || memory === undefined ? [] : [{ row, x: px, y: py, memory }];
  });
  const all = seen.map((p) => p.memory);
  const [low, high] = [Math.min(...all), Math.max(...all)];
  const crowd = Math.max(0.4, Math.min(1, Math.sqrt(ROOMY / seen.length)));
  seen.sort((a, b) => rank(a.row) - rank(b.row));
  return seen.map(({ memory, ...point }) => {
    const share = high > low ? (memory - low) / (high - low) : 0;
    return { ...point, size: crowd * Math.sqrt(SMALLEST ** 2 + share * (LARGEST ** 2 - SMALLEST ** 2)) };
  });
}

/** @param {Point} point @param {Palette} colours */
function look({ row }, colours) {
  if (row.winner) return { color: colours.gold, borderColor: colours.ink, borderWidth: 1.5, opacity: 1 };
  if (row.on_front) return { color: colours.accent, borderColor: colours.panel, borderWidth: 1.5, opacity: 1 };
  if (row.feasible) return { color: colours.accentSoft, borderColor: colours.accent, borderWidth: 1.2, opacity: 1 };
  return { color: "transparent", borderColor: colours.bad, borderWidth: 1.2, opacity: 0.75 };
}

/** @param {number} value */
const tick = (value) => String(Number(value.toPrecision(6)));

/** @param {Axis} axis @param {{min: number, max: number}} span @param {Palette} colours @param {boolean} virtual */
function scale(axis, span, colours, virtual) {
  const host = virtual && axis.timed ? " · virtual phone" : "";
  return {
    type: "value",
    name: `${axis.label}, ${axis.unit}${host}`,
    nameLocation: "middle",
    nameTextStyle: { color: colours.muted, fontSize: 12 },
    min: span.min,
    max: span.max,
    axisLine: { show: true, lineStyle: { color: colours.line } },
    axisTick: { show: false },
    axisLabel: { color: colours.muted, formatter: tick, showMinLabel: false, showMaxLabel: false, hideOverlap: true },
    splitLine: { lineStyle: { color: colours.line, opacity: 0.6 } },
  };
}

/** @param {"x"|"y"} side @param {number} bound @param {Axis} axis @param {Palette} colours */
function budgetLine(side, bound, axis, colours) {
  return {
    [`${side}Axis`]: bound,
    label: {
      formatter: `budget ${figure(bound)}`,
      color: colours.bad,
      fontSize: 11,
      position: "insideEndTop",
      rotate: side === "x" ? 90 : 0,
    },
  };
}

/**
 * @param {Point[]} shown
 * @param {{x: Axis, y: Axis, boundX: number|null, boundY: number|null, virtual: boolean, colours: Palette}} how
 */
export function plotOption(shown, { x, y, boundX, boundY, virtual, colours }) {
  const spanX = range(shown.map((p) => p.x), boundX);
  const spanY = range(shown.map((p) => p.y), boundY);
  const front = nonDominated(shown.filter((p) => p.row.feasible));
  const lines = [];
  const beyond = [];
  if (spanX.boundShown && boundX !== null) {
    lines.push(budgetLine("x", boundX, x, colours));
    beyond.push([{ xAxis: boundX }, { xAxis: spanX.max }]);
  }
  if (spanY.boundShown && boundY !== null) {
    lines.push(budgetLine("y", boundY, y, colours));
    beyond.push([{ yAxis: boundY }, { yAxis: spanY.max }]);
  }
  return {
    animation: false,
    grid: { left: 58, right: 18, top: 14, bottom: 46 },
    xAxis: { ...scale(x, spanX, colours, virtual), nameGap: 28 },
    yAxis: { ...scale(y, spanY, colours, virtual), nameGap: 42 },
    series: [
      {
        id: "front",
        type: "line",
        step: "end",
        silent: true,
        showSymbol: false,
        lineStyle: { color: colours.accent, width: 1.5, opacity: 0.8 },
        data: front.map((p) => [p.x, p.y]),
        z: 1,
      },
      {
        id: "candidates",
        type: "scatter",
        cursor: "pointer",
        data: shown.map((p) => ({
          name: String(p.row.number),
          value: [p.x, p.y],
          symbol: p.row.winner ? "diamond" : "circle",
          symbolSize: p.row.winner ? Math.max(p.size, 18) : p.size,
          itemStyle: look(p, colours),
        })),
        emphasis: { scale: 1.25, itemStyle: { borderColor: colours.ink, borderWidth: 2, opacity: 1 } },
        markLine: {
          silent: true,
          symbol: "none",
          animation: false,
          lineStyle: { color: colours.bad, type: "dashed", width: 1 },
          data: lines,
        },
        markArea: { silent: true, animation: false, itemStyle: { color: colours.badSoft, opacity: 0.35 }, data: beyond },
        z: 2,
      },
    ],
  };
}
