/** One search: where it is, what it found, its front and its candidates. */
import { html } from "../html.js";
import { duration, figure } from "../format.js";
import { BUDGETS } from "../axes.js";
import { adjust, href } from "../route.js";
import { isVirtual, now, phoneName, runsNewestFirst, selectedPhone } from "../store.js";
import { FaultNote, ProgressBar, StateMark, VIRTUAL_NOTE, VirtualMark, again } from "./common.js";
import { Leaderboard } from "./leaderboard.js";
import { Plot } from "./plot.js";
import { UncheckedMark } from "./self_check.js";
import { Outcome } from "./verdict.js";

/** @typedef {import("../types.js").Search} Search */

/** @param {Search} search @returns {number|null} seconds that it has been running */
function spent(search) {
  if (!search.started_at) return null;
  const end = search.finished_at ? Date.parse(search.finished_at) : now.value;
  return Math.max(0, Math.floor((end - Date.parse(search.started_at)) / 1000));
}

/** @param {{search: Search}} props */
const Elapsed = ({ search }) => html`<span class="quiet">${duration(spent(search))}</span>`;

/** @param {{search: Search}} props */
function Counts({ search }) {
  const { proposed, done, feasible, failed } = search.counts;
  const shown = { proposed, done, feasible, failed };
  return html`<dl class="counts">
    ${Object.entries(shown).map(
      ([name, number]) => html`<div class=${name === "failed" && number ? "bad" : ""}><dt>${name}</dt><dd>${number}</dd></div>`,
    )}
  </dl>`;
}

/** @param {{search: Search}} props */
function Budgets({ search }) {
  const set = Object.entries(search.spec.budgets).filter(([, bound]) => bound !== null);
  return html`<p class="chips" aria-label="Budgets">
    <span class="quiet">Budgets</span>
    ${set.map(([key, bound]) => html`<span class="chip">${BUDGETS[key]?.label ?? key} ≤ <b>${figure(bound)}</b> ${BUDGETS[key]?.unit}</span>`)}
    ${!set.length && html`<span class="chip">none</span>`}
    <span class="quiet">Objectives</span>
    ${search.spec.objectives.map((objective) => html`<span class="chip">${objective}</span>`)}
  </p>`;
}

/** @param {{search: Search}} props */
function Where({ search }) {
  const { progress, state } = search;
  if (state !== "running" && state !== "queued") return null;
  return html`<div class="where">
    <${ProgressBar} progress=${progress} label="Progress of the search" />
    <p><span>${progress.message || "waiting for the worker"}${again(search)}</span><span class="quiet">${progress.total > 0 && `${progress.done} of ${progress.total}`}</span></p>
  </div>`;
}

/** @param {{search: Search}} props */
function PhoneChoice({ search }) {
  const serial = selectedPhone.value;
  const { phones } = search.spec;
  return html`<p class="phone-choice">
    ${phones.length > 1
      ? html`<label>Figures on
          <select value=${serial} onChange=${(/** @type {any} */ e) => adjust({ phone: e.currentTarget.value })}>
            ${phones.map((s) => html`<option value=${s} selected=${s === serial}>${phoneName(s)}${isVirtual(s) ? " · virtual" : ""}</option>`)}
          </select></label>`
      : html`<span>Figures on <b>${phoneName(serial)}</b></span>`}
    ${isVirtual(serial) && html`<${VirtualMark} /> <span class="virtual-note">${VIRTUAL_NOTE}</span>`}
    <${UncheckedMark} serial=${serial} />
  </p>`;
}

/** @param {{search: Search}} props */
function RunsOf({ search }) {
  const own = runsNewestFirst.value.filter((run) => run.spec.search === search.id);
  return own.length
    ? html`<p class="chips"><span class="quiet">Training</span>
        ${own.map((run) => html`<a class="chip" href=${href({ view: "runs", run: run.id })}>${run.name} of #${run.candidate} <${StateMark} state=${run.state} /></a>`)}
      </p>`
    : null;
}

/** @param {{search: Search}} props */
export function SearchView({ search }) {
  return html`<article class="search">
    <header class="head">
      <div><h1>${search.name}</h1> <${StateMark} state=${search.state} /> <${Elapsed} search=${search} /></div>
      <${Counts} search=${search} />
    </header>
    <${Where} search=${search} />
    <${Budgets} search=${search} />
    <${RunsOf} search=${search} />
    ${search.fault && html`<${FaultNote} fault=${search.fault} />`}
    <${PhoneChoice} search=${search} />
    <div class="findings">
      <${Plot} search=${search} />
      <${Outcome} search=${search} />
    </div>
    <${Leaderboard} search=${search} />
  </article>`;
}
