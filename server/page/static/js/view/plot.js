/** The front as a plot; a point and its row in the table light up together. */
import { useSignal, useSignalEffect } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { html } from "../html.js";
import { AXES, axis } from "../axes.js";
import { plotOption, points } from "../plot_option.js";
import { adjust, route } from "../route.js";
import { hovered, isVirtual, rows, selectedPhone } from "../store.js";
import { VirtualMark } from "./common.js";
import { Tip } from "./plot_tip.js";

/** @typedef {import("../types.js").Search} Search */
/** @typedef {import("../plot_option.js").Point} Point */

const SERIES = "candidates";
const DARK = matchMedia("(prefers-color-scheme: dark)");

/** The page's colours, from its style sheet. @returns {import("../plot_option.js").Palette} */
function palette() {
  const style = getComputedStyle(document.documentElement);
  /** @param {string} name */
  const of = (name) => style.getPropertyValue(`--${name}`).trim();
  return {
    ink: of("ink"),
    muted: of("muted"),
    line: of("line"),
    panel: of("panel"),
    accent: of("accent"),
    accentSoft: of("accent-soft"),
    gold: of("gold"),
    bad: of("bad"),
    badSoft: of("bad-soft"),
  };
}

/** @param {{which: "x"|"y", label: string}} props */
const AxisChoice = ({ which, label }) => html`<label
  >${label}
  <select value=${axis(route.value[which]).key} onChange=${(/** @type {any} */ e) => adjust({ [which]: e.currentTarget.value })}>
    ${AXES.map(({ key, label: name }) => html`<option value=${key} selected=${key === axis(route.value[which]).key}>${name}</option>`)}
  </select>
</label>`;

const Legend = () => html`<p class="legend" aria-hidden="true">
  <span><i class="dot dot-winner"></i>winner</span>
  <span><i class="dot dot-front"></i>on the front</span>
  <span><i class="dot dot-feasible"></i>feasible</span>
  <span><i class="dot dot-over"></i>over a budget</span>
  <span><i class="dot dot-small"></i><i class="dot dot-large"></i>peak memory</span>
  <span><i class="stroke"></i>front of these two axes</span>
  <span>↙ better</span>
</p>`;

/**
 * An ECharts instance that fits its element for as long as the element lives.
 * @param {(chart: any) => void} ready
 */
function useChart(ready) {
  const element = useRef(/** @type {HTMLDivElement|null} */ (null));
  useEffect(() => {
    const node = /** @type {HTMLDivElement} */ (element.current);
    const chart = /** @type {any} */ (window).echarts.init(node, null, { renderer: "canvas" });
    const observer = new ResizeObserver(() => chart.resize());
    observer.observe(node);
    ready(chart);
    return () => {
      observer.disconnect();
      chart.dispose();
    };
  }, []);
  return element;
}

function currentPoints() {
  const { x, y } = route.value;
  return points(rows.value ?? [], axis(x), axis(y), selectedPhone.value);
}

/** @param {{search: Search}} props */
export function Plot({ search }) {
  const chart = useSignal(/** @type {any} */ (null));
  const dark = useSignal(DARK.matches);
  const element = useChart((made) => {
    made.on("mouseover", { seriesId: SERIES }, (/** @type {any} */ event) => (hovered.value = Number(event.name)));
    made.on("mouseout", { seriesId: SERIES }, () => (hovered.value = null));
    chart.value = made;
  });
  useEffect(() => {
    const follow = () => (dark.value = DARK.matches);
    DARK.addEventListener("change", follow);
    return () => DARK.removeEventListener("change", follow);
  }, []);
  const [x, y] = [axis(route.value.x), axis(route.value.y)];
  const { budgets } = search.spec;
  useSignalEffect(() => {
    if (!chart.value || dark.value === null) return;
    const [across, up] = [axis(route.value.x), axis(route.value.y)];
    const how = {
      x: across,
      y: up,
      boundX: across.budget && budgets[across.budget],
      boundY: up.budget && budgets[up.budget],
      virtual: isVirtual(selectedPhone.value),
      colours: palette(),
    };
    chart.value.setOption(plotOption(currentPoints(), how), { notMerge: true });
  });
  useSignalEffect(() => {
    const number = hovered.value;
    if (!chart.value) return;
    chart.value.dispatchAction({ type: "downplay", seriesId: SERIES });
    if (number !== null) chart.value.dispatchAction({ type: "highlight", seriesId: SERIES, name: String(number) });
  });
  const shown = currentPoints();
  const under = shown.find((p) => p.row.number === hovered.value);
  const label = `${shown.length} candidates by ${x.label} and ${y.label}; the same figures are in the table below`;
  return html`<section class="panel plot" aria-label="Front">
    <div class="panel-head">
      <h2>Front ${isVirtual(selectedPhone.value) && html`<${VirtualMark} />`}</h2>
      <div class="axes"><${AxisChoice} which="y" label="Up" /><${AxisChoice} which="x" label="Across" /></div>
    </div>
    <div class="plot-area">
      <div class=${`plot-canvas ${shown.length ? "" : "plot-bare"}`} ref=${element} role="img" aria-label=${label} data-points=${shown.length}></div>
      ${under && chart.value && html`<${Tip} chart=${chart.value} point=${under} serial=${selectedPhone.value} />`}
      ${rows.value && !shown.length && html`<p class="plot-empty quiet">The first point appears when a candidate has been measured and scored.</p>`}
    </div>
    <${Legend} />
  </section>`;
}
