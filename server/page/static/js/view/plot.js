/** The front as a plot; a point and its row in the table light up together. */
import { useSignal, useSignalEffect } from "@preact/signals";
import { html } from "../html.js";
import { AXES, axis } from "../axes.js";
import { plotOption, points } from "../plot_option.js";
import { adjust, route } from "../route.js";
import { hovered, isVirtual, rows, selectedPhone } from "../store.js";
import { palette, useChart, useDark } from "./chart.js";
import { VirtualMark } from "./common.js";
import { Tip } from "./plot_tip.js";

/** @typedef {import("../types.js").Search} Search */
/** @typedef {import("../plot_option.js").Point} Point */

const SERIES = "candidates";

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

function currentPoints() {
  const { x, y } = route.value;
  return points(rows.value ?? [], axis(x), axis(y), selectedPhone.value);
}

/** @param {{search: Search}} props */
export function Plot({ search }) {
  const chart = useSignal(/** @type {any} */ (null));
  const dark = useDark();
  const element = useChart((made) => {
    made.on("mouseover", { seriesId: SERIES }, (/** @type {any} */ event) => (hovered.value = Number(event.name)));
    made.on("mouseout", { seriesId: SERIES }, () => (hovered.value = null));
    chart.value = made;
  });
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
