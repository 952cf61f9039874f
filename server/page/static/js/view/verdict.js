/** How a search ended, or where it stands: the winner, why, and how the budgets bear on it. */
import { html } from "../html.js";
import { broken, BUDGETS, budgetName } from "../axes.js";
import { count, figure, fixed, probability } from "../format.js";
import { hovered, isVirtual, rows, selectedPhone } from "../store.js";
import { Blocks } from "./blocks.js";
import { Badge, VirtualMark } from "./common.js";

/** @typedef {import("../types.js").Search} Search */
/** @typedef {import("../types.js").Candidate} Candidate */
/** @typedef {import("../types.js").BudgetReport} BudgetReport */

/** @param {{row: Candidate}} props */
function InShort({ row }) {
  const serial = selectedPhone.value;
  const profile = row.profiles[serial];
  return html`<div
    class="in-short"
    onMouseEnter=${() => (hovered.value = row.number)}
    onMouseLeave=${() => (hovered.value = null)}
  >
    <p><b>#${row.number}</b> <${Blocks} architecture=${row.architecture} /></p>
    <p>width ${row.architecture.width} · ${row.architecture.blocks.length} blocks · ${count(row.parameters)} parameters</p>
    <p>
      <b>${fixed(row.quality?.bits_per_byte, 3)}</b> bits/byte
      ${profile && html` · <b>${figure(profile.decode_ms.value)}</b> ms/token · TTFT <b>${figure(profile.ttft_ms.value)}</b> ms · <b>${figure(profile.peak_memory_bytes / 1e6)}</b> MB`}
      ${profile && isVirtual(serial) && html` <${VirtualMark} />`}
    </p>
  </div>`;
}

/** @param {{report: BudgetReport}} props */
function BudgetRow({ report }) {
  const { label, unit } = budgetName(report.budget);
  const value = report.winner_value;
  const share = value === null ? 0 : Math.min(1.15, value / report.bound);
  return html`<li class=${report.binding ? "binding" : ""}>
    <div class="budget-head">
      <b>${label}</b>
      ${report.binding ? html`<${Badge} kind="binds" title="Without this budget another candidate would win">binds</${Badge}>` : html`<span class="quiet">slack</span>`}
    </div>
    <div class="gauge" role="img" aria-label=${`${figure(value)} of ${figure(report.bound)} ${unit}`}>
      <div class=${share > 1 ? "over" : ""} style=${{ width: `${(share / 1.15) * 100}%` }}></div><i></i>
    </div>
    <p><b>${figure(value)}</b> of ${figure(report.bound)} ${unit}${report.keeps_probability !== null && html` · kept with <b>${probability(report.keeps_probability)}</b>`}</p>
    <p class="quiet">${report.excluded ? `excludes ${report.excluded}` : "excludes none"} · best reached ${figure(report.best_value)} ${unit}</p>
  </li>`;
}

/** @param {{verdict: import("../types.js").Verdict}} props */
function Decided({ verdict }) {
  const winner = (rows.value ?? []).find((row) => row.number === verdict.winner);
  return html`<section class="panel outcome outcome-decided" aria-label="Verdict">
    <h2>${verdict.winner === null ? "No winner" : html`Winner <${Badge} kind="winner">#${verdict.winner}</${Badge}>`}</h2>
    ${winner && html`<${InShort} row=${winner} />`}
    <p class="why">${verdict.why}</p>
    <h3>How the budgets bear on it</h3>
    <ul class="budgets">${verdict.budgets.map((report) => html`<${BudgetRow} key=${report.budget} report=${report} />`)}</ul>
  </section>`;
}

/** How many finished candidates each budget turned away so far. @param {{search: Search, all: Candidate[]}} props */
function SoFar({ search, all }) {
  const set = Object.entries(search.spec.budgets).filter(([, bound]) => bound !== null);
  const finished = all.filter((row) => row.phase === "done");
  return html`<ul class="budgets">
    ${set.map(([key, bound]) => {
      const out = finished.filter((row) => broken(row).includes(key)).length;
      return html`<li key=${key}>
        <div class="budget-head"><b>${BUDGETS[key]?.label ?? key}</b> <span class="quiet">≤ ${figure(bound)} ${BUDGETS[key]?.unit}</span></div>
        <div class="gauge gauge-share" role="img" aria-label=${`kept by ${finished.length - out} of ${finished.length}`}>
          <div style=${{ width: `${finished.length ? (1 - out / finished.length) * 100 : 0}%` }}></div>
        </div>
        <p>kept by ${finished.length - out} of ${finished.length} measured</p>
      </li>`;
    })}
  </ul>`;
}

/** @param {{search: Search}} props */
export function Outcome({ search }) {
  if (search.verdict) return html`<${Decided} verdict=${search.verdict} />`;
  const all = rows.value ?? [];
  const best = all.filter((row) => row.feasible && row.quality).sort((a, b) => quality(a) - quality(b))[0];
  return html`<section class="panel outcome" aria-label="Standing">
    <h2>So far</h2>
    ${best ? html`<p class="quiet">Best quality within the budgets</p><${InShort} row=${best} />` : html`<p class="quiet">No candidate has kept every budget yet.</p>`}
    <${SoFar} search=${search} all=${all} />
    ${search.state === "running" && html`<p class="quiet">The winner is named when the search ends.</p>`}
  </section>`;
}

/** @param {Candidate} row */
const quality = (row) => row.quality?.bits_per_byte ?? Infinity;
