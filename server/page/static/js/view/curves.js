/** How a run's stages train, or trained: a small chart for each metric, one stage at a time. */
import { useSignal, useSignalEffect } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { hasCurriculum, ofCurriculum } from "../curriculum.js";
import { charts, curveOption, inWords, last, stroke } from "../curves.js";
import { html } from "../html.js";
import { count, spaced } from "../format.js";
import { adjust } from "../route.js";
import { selectedStage, stageMetrics } from "../store.js";
import { palette, useChart, useDark } from "./chart.js";
import { Curriculum } from "./curriculum.js";

/** @typedef {import("../types.js").Run} Run */
/** @typedef {import("../curves.js").Chart} ChartOf */

const LINKED = "metrics";

/** @param {{chart: ChartOf, colours: import("../plot_option.js").Palette}} props */
const Keys = ({ chart, colours }) => html`<ul class="curve-keys">
  ${chart.curves.map((curve, index) => {
    const { color, type } = stroke(index, colours);
    return html`<li key=${curve.name}>
      <i aria-hidden="true" style=${{ borderTop: `2px ${type} ${color}` }}></i>${curve.label} <b>${chart.format(last(curve))}</b>
    </li>`;
  })}
</ul>`;

/** @param {{chart: ChartOf}} props */
function Chart({ chart }) {
  const drawn = useSignal(/** @type {any} */ (null));
  const shown = useSignal(chart);
  const dark = useDark();
  const element = useChart((made) => {
    made.group = LINKED;
    /** @type {any} */ (window).echarts.connect(LINKED);
    drawn.value = made;
  });
  useEffect(() => {
    shown.value = chart;
  }, [chart]);
  useSignalEffect(() => {
    if (!drawn.value || dark.value === null) return;
    drawn.value.setOption(curveOption(shown.value, palette()), { replaceMerge: ["series"] });
  });
  const alone = chart.curves.length === 1;
  return html`<figure class="curve">
    <figcaption>
      <h3>${chart.title}</h3>
      <span class="quiet">${chart.unit}</span>
      ${alone && html`<b>${chart.format(last(chart.curves[0]))}</b>`}
    </figcaption>
    <div class="curve-canvas" ref=${element} role="img" aria-label=${inWords(chart)} data-points=${chart.curves[0].data.length}></div>
    ${!alone && dark.value !== null && html`<${Keys} chart=${chart} colours=${palette()} />`}
  </figure>`;
}

/** A stage's name, with a number where the run has several of it. @param {Run} run @param {number} index */
function called(run, index) {
  const { name } = run.stages[index];
  const alike = run.stages.flatMap((stage, at) => (stage.name === name ? [at] : []));
  return alike.length > 1 ? `${spaced(name)} ${alike.indexOf(index) + 1}` : spaced(name);
}

/** @param {{run: Run}} props */
const StageChoice = ({ run }) => html`<div class="filters" role="group" aria-label="Stage shown">
  ${run.stages.map(
    (stage, index) => html`<button key=${index} type="button" disabled=${stage.state === "queued"} aria-pressed=${index === selectedStage.value} title=${stage.title} onClick=${() => adjust({ stage: String(index) })}>${called(run, index)}</button>`,
  )}
</div>`;

/** @param {{run: Run}} props */
export function Curves({ run }) {
  const position = selectedStage.value;
  if (position === null) return null;
  const points = stageMetrics.value;
  const stage = run.stages[position];
  const taught = hasCurriculum(stage);
  const found = charts(points ?? [], stage.counted, (name) => !taught || !ofCurriculum(name));
  return html`<section class="panel curves-panel" aria-label="Training">
    <div class="panel-head">
      <h2>Training${points?.length ? html` <span class="quiet">${count(points[points.length - 1].tokens)} ${stage.counted} of ${called(run, position)}</span>` : null}</h2>
      <${StageChoice} run=${run} />
    </div>
    ${points === null ? html`<p class="quiet">Reading…</p>` : null}
    ${points !== null && !found.length ? html`<p class="quiet">${stage.state === "running" ? "The first figures come with its first step." : "This stage told nothing on its way."}</p>` : null}
    ${points?.length && taught ? html`<${Curriculum} key=${position} stage=${stage} points=${points} />` : null}
    <div class="curves">${found.map((chart) => html`<${Chart} key=${chart.key} chart=${chart} />`)}</div>
  </section>`;
}
