/** A curriculum: of each level what succeeds, what is drawn, and since when; now, or as of any moment of the stage. */
import { useSignal } from "@preact/signals";
import { area, last, lately, levels, outline, parts } from "../curriculum.js";
import { html } from "../html.js";
import { count, percent } from "../format.js";

/** @typedef {import("../types.js").MetricPoint} MetricPoint */
/** @typedef {import("../types.js").Stage} Stage */
/** @typedef {import("../curriculum.js").Level} Level */

const MOST_PARTS = 48;
const POINTS_A_PART = 4; // not every point tells of every level
const MANY = 12;

/** @param {Level} level */
function inWords({ name, success, share }) {
  const told = [/** @type {const} */ (["success", success]), /** @type {const} */ (["share of problems", share])];
  return `${name}: ${told
    .map(([what, values]) =>
      values.length ? `${what} from ${percent(values[0][1])} to ${percent(values[values.length - 1][1])}` : `${what} not told`,
    )
    .join("; ")}`;
}

/** @param {{level: Level, end: number, at: number, wide: number}} props */
const Course = ({ level, end, at, wide }) => html`<svg class="course" viewBox=${`0 0 ${wide} 100`} preserveAspectRatio="none" role="img" aria-label=${inWords(level)}>
  <path class="course-success" d=${area(parts(level.success, end, wide))}></path>
  <path class="course-share" d=${outline(parts(level.share, end, wide))}></path>
  ${at < end && html`<line class="course-at" x1=${(wide * at) / end} x2=${(wide * at) / end} y1="0" y2="100"></line>`}
</svg>`;

/** Where a level stands: reached, the one after those, or beyond. @param {{level: Level, index: number, reached: number, at: number}} props */
function Standing({ level, index, reached, at }) {
  if (index === 0) return html`<span class="quiet">the first</span>`;
  if (index <= reached) return html`<span class="quiet">from ${count(level.reachedAt ?? at)} tokens</span>`;
  return html`<span class="quiet">${index === reached + 1 ? "the next" : "not yet"}</span>`;
}

/** Of a cell of held-out problems. @param {Level} level @param {Record<string, number>} figures */
const solved = (level, figures) => `number ${`success/${level.name}` in figures ? "" : "nothing"}`;

/** @param {{level: Level, index: number, reached: number, at: number, end: number, wide: number, stage: Stage}} props */
const Row = ({ level, index, reached, at, end, wide, stage }) => html`<tr role="row" data-level=${level.name} class=${index > reached ? "beyond" : ""}>
  <th role="rowheader" scope="row">${level.name}${index === reached && html` <span class="badge badge-feasible">hardest reached</span>`}</th>
  <td role="cell" class="standing"><${Standing} level=${level} index=${index} reached=${reached} at=${at} /></td>
  <td role="cell" class="number" data-label="success"><b>${percent(lately(level.success, at))}</b></td>
  <td role="cell" class="number" data-label="drawn">${percent(last(level.share, at))}</td>
  <td role="cell" class="course-cell"><${Course} level=${level} end=${end} at=${at} wide=${wide} /></td>
  <td role="cell" class=${solved(level, stage.before)} data-label="held out, before">${percent(stage.before[`success/${level.name}`])}</td>
  <td role="cell" class=${solved(level, stage.after)} data-label="after"><b>${percent(stage.after[`success/${level.name}`])}</b></td>
</tr>`;

/** @param {{points: MetricPoint[], stage: Stage}} props */
export function Curriculum({ points, stage }) {
  const chosen = useSignal(/** @type {number|null} tokens; null is the latest */ (null));
  const found = levels(points);
  if (!found.length) return null;
  const end = points[points.length - 1].tokens;
  const at = Math.min(chosen.value ?? end, end);
  const index = points.findLastIndex((point) => point.tokens <= at);
  const reached = found.findLastIndex((level) => level.reachedAt !== null && level.reachedAt <= at);
  const wide = Math.max(1, Math.min(MOST_PARTS, Math.floor(points.length / POINTS_A_PART)));
  const when = chosen.value === null ? `the latest, ${count(end)} tokens` : `${count(at)} of ${count(end)} tokens`;
  /** @param {Event} event */
  const move = (event) => {
    const to = Number(/** @type {HTMLInputElement} */ (event.currentTarget).value);
    chosen.value = to >= points.length - 1 ? null : points[to].tokens;
  };
  return html`<section class="curriculum" aria-label="Curriculum">
    <div class="curriculum-head">
      <h3>Curriculum</h3>
      <p>${reached < 0 ? "no level reached yet" : html`<b>${reached + 1}</b> of ${found.length} levels reached, from easy to hard`}</p>
      <label class="moment"><span>Figures as of</span>
        <input type="range" min="0" max=${points.length - 1} value=${Math.max(0, index)} aria-valuetext=${when} onInput=${move} />
        <output>${when}</output>
      </label>
    </div>
    <table role="table" class=${found.length > MANY ? "many" : ""}>
      <thead role="rowgroup"><tr role="row">
        <th role="columnheader" scope="col">level</th>
        <th role="columnheader" scope="col">reached</th>
        <th role="columnheader" scope="col" class="number" title="Of sampled answers: the mean of the last five points">success</th>
        <th role="columnheader" scope="col" class="number" title="Share of the problems to be drawn next">drawn</th>
        <th role="columnheader" scope="col" class="course-keys"><span class="key-success">success</span> <span class="key-share">drawn</span> <span class="quiet">0 to 100 %, over ${count(end)} tokens</span></th>
        <th role="columnheader" scope="col" class="number">held out, before</th>
        <th role="columnheader" scope="col" class="number">after</th>
      </tr></thead>
      <tbody role="rowgroup">
        ${found.map((level, place) => html`<${Row} key=${level.name} level=${level} index=${place} reached=${reached} at=${at} end=${end} wide=${wide} stage=${stage} />`)}
      </tbody>
    </table>
    <p class="quiet">Success of sampled answers is the mean of the last five points, each of few answers; held-out problems are answered greedily when the stage has ended.</p>
  </section>`;
}
