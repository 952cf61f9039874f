/** What each stage of a run did: its headline before and after in a row; all its figures on demand. */
import { useSignal } from "@preact/signals";
import { html } from "../html.js";
import { bytes, count, duration, fixed, NONE, percent, spaced } from "../format.js";
import { StateMark } from "./common.js";

/** @typedef {import("../types.js").Run} Run */
/** @typedef {import("../types.js").Stage} Stage */
/** @typedef {import("../types.js").Reading} Reading */

/** @type {Record<string, string>} */
const CHANGES = { better: "better", worse: "worse", same: "no change" };

/** @param {Reading} reading @param {number|null} value */
const read = ({ unit }, value) => (unit === "percent" ? percent(value) : fixed(value, 3));

/** @param {{reading: Reading}} props */
const Change = ({ reading: { change } }) =>
  change && html`<span class=${`change change-${change}`}>${CHANGES[change]}</span>`;

const Arrow = () => html`<span class="arrow" aria-label="to">→</span>`;

/** Plain text before and after, beside a headline that is another. @param {{reading: Reading|null}} props */
const Forgetting = ({ reading }) =>
  reading && html`${read(reading, reading.before)}<${Arrow} />${read(reading, reading.after)} <${Change} reading=${reading} />`;

/** What is named as the headline, or as a part of it, has its unit. @param {Stage} stage @param {string} name @param {number|undefined} value */
function valued({ headline }, name, value) {
  if (name.split("/", 1)[0] === headline.figure) return read(headline, value ?? null);
  return name.endsWith("_bytes") ? bytes(value) : Number.isInteger(value) ? count(value ?? 0) : fixed(value, 3);
}

/** @param {{stage: Stage}} props */
function Figures({ stage }) {
  const names = [...new Set([...Object.keys(stage.before), ...Object.keys(stage.after)])];
  const families = [...new Set(names.filter((name) => name.includes("/")).map((name) => name.split("/", 1)[0]))];
  return html`<dl class="figures">
      ${names
        .filter((name) => !name.includes("/"))
        .map(
          (name) => html`<div key=${name}>
            <dt>${spaced(name)}</dt>
            <dd>
              ${name in stage.before && html`<span>${valued(stage, name, stage.before[name])}</span>`}
              ${name in stage.before && name in stage.after && html`<${Arrow} />`}
              ${name in stage.after && html`<b>${valued(stage, name, stage.after[name])}</b>`}
            </dd>
          </div>`,
        )}
    </dl>
    <${Funnel} stage=${stage} />
    ${families
      .filter((family) => family !== REMOVED)
      .map((family) => html`<${Family} key=${family} family=${family} names=${names} stage=${stage} />`)}`;
}

/** Figures that differ only after a slash: of each source of text, of each length. @param {{family: string, names: string[], stage: Stage}} props */
const Family = ({ family, names, stage }) => html`<table class="family">
  <thead><tr><th scope="col">${spaced(family)}</th><th scope="col">before</th><th scope="col">after</th></tr></thead>
  <tbody>
    ${names
      .filter((name) => name.startsWith(`${family}/`))
      .map(
        (name) => html`<tr key=${name}>
          <th scope="row">${spaced(name.slice(family.length + 1))}</th>
          <td>${valued(stage, name, stage.before[name])}</td>
          <td><b>${valued(stage, name, stage.after[name])}</b></td>
        </tr>`,
      )}
  </tbody>
</table>`;

const REMOVED = "removed";

/** What each filter took away of what came to it, in their order, and what was left of all. @param {{stage: Stage}} props */
function Funnel({ stage }) {
  const filters = Object.entries(stage.after).filter(([name]) => name.startsWith(`${REMOVED}/`));
  if (!filters.length) return null;
  const { examples, yield: passed } = stage.after;
  let left = 1;
  const rows = filters.map(([name, removed]) => {
    const came = left;
    left *= 1 - removed;
    return { name: name.slice(REMOVED.length + 1), removed, left, gone: came - left };
  });
  return html`<table class="funnel">
    <caption>${passed > 0 && `Of ${count(Math.round(examples / passed))} answers asked for`}</caption>
    <thead><tr><th scope="col">filter</th><th scope="col">removed</th><th scope="col">left of all</th><td></td></tr></thead>
    <tbody>
      ${rows.map(
        (row) => html`<tr key=${row.name}>
          <th scope="row">${spaced(row.name)}</th>
          <td>${percent(row.removed)}</td>
          <td><b>${percent(row.left)}</b></td>
          <td class="funnel-bar" aria-hidden="true"><i style=${{ width: `${100 * row.left}%` }}></i><i class="gone" style=${{ width: `${100 * row.gone}%` }}></i></td>
        </tr>`,
      )}
    </tbody>
  </table>`;
}

/** Roles are said, for a narrow window lays rows out as no table. @param {{stage: Stage, index: number}} props */
function Lever({ stage, index }) {
  const open = useSignal(false);
  const { headline } = stage;
  const told = Object.keys(stage.before).length + Object.keys(stage.after).length > 0;
  const more = `stage-figures-${index}`;
  const name = html`${stage.title[0].toUpperCase()}${stage.title.slice(1)}`;
  return html`<tr role="row" class=${`stage-${stage.state}`}>
      <td role="cell" class="lever-number" data-label="lever">${stage.lever}</td>
      <th role="rowheader" scope="row">
        ${told ? html`<button type="button" class="unfold" aria-expanded=${open.value ? "true" : "false"} aria-controls=${more} title="All its figures" onClick=${() => (open.value = !open.value)}>${name}</button>` : html`<span class="folded">${name}</span>`}
      </th>
      <td role="cell" class="lever-figure">${headline.title}${headline.unit !== "percent" && html`<span class="quiet">, ${headline.unit}</span>`}</td>
      <td role="cell" class="number" data-label="before">${read(headline, headline.before)}</td>
      <td role="cell" class="number" data-label="after"><b>${stage.state === "running" ? "…" : read(headline, headline.after)}</b></td>
      <td role="cell"><${Change} reading=${headline} /></td>
      <td role="cell" class=${`forgetting ${stage.forgetting ? "" : "nothing"}`} data-label="text, bits per byte">${stage.forgetting ? html`<${Forgetting} reading=${stage.forgetting} />` : NONE}</td>
      <td role="cell" class=${`number quiet ${stage.seconds === null ? "nothing" : ""}`} data-label="time">${duration(stage.seconds)}</td>
      <td role="cell"><${StateMark} state=${stage.state} /></td>
    </tr>
    ${told &&
    html`<tr role="row" id=${more} class="stage-more" hidden=${!open.value}>
      <td role="cell" colspan="9">
        ${stage.notes.map((note) => html`<p key=${note} class="quiet">${note}</p>`)}
        <${Figures} stage=${stage} />
      </td>
    </tr>`}`;
}

const COLUMNS = ["lever", "stage", "figure", "before", "after", "change", "text, bits per byte", "time", "state"];

/** @param {{run: Run}} props */
export const Stages = ({ run }) => html`<section class="panel stages-panel" aria-label="Stages">
  <h2>What each lever did</h2>
  <table class="levers" role="table">
    <thead role="rowgroup"><tr role="row">${COLUMNS.map((name) => html`<th key=${name} role="columnheader" scope="col">${name}</th>`)}</tr></thead>
    <tbody role="rowgroup">
      ${run.stages.map((stage, index) => html`<${Lever} key=${index} stage=${stage} index=${index} />`)}
    </tbody>
  </table>
  <p class="quiet stages-note">Better and worse say which way a figure went in this one run, not that it would go so with another seed.</p>
</section>`;
