/** The candidates of a search as a table that keeps still while someone reads it. */
import { useRef, useState } from "preact/hooks";
import { html } from "../html.js";
import { COLUMNS, ordering } from "../columns.js";
import { held, sorted } from "../order.js";
import { adjust, route } from "../route.js";
import { isVirtual, phoneName, rows, selectedPhone } from "../store.js";
import { Empty, VirtualMark } from "./common.js";
import { Row } from "./row.js";
import { UncheckedMark } from "./self_check.js";

/** @typedef {import("../types.js").Candidate} Candidate */
/** @typedef {import("../columns.js").Column} Column */

const PAGE = 200;

/** @type {Record<string, {label: string, keeps: (row: Candidate) => boolean}>} */
const FILTERS = {
  all: { label: "All", keeps: () => true },
  feasible: { label: "Feasible", keeps: (row) => row.feasible },
  front: { label: "Front", keeps: (row) => row.on_front },
  failed: { label: "Failed", keeps: (row) => row.phase === "failed" },
};

/** @param {{all: Candidate[]}} props */
function Filters({ all }) {
  return html`<div class="filters" role="group" aria-label="Show">
    ${Object.entries(FILTERS).map(
      ([key, { label, keeps }]) => html`<button
        type="button"
        aria-pressed=${route.value.show === key ? "true" : "false"}
        onClick=${() => adjust({ show: key })}
      >
        ${label} <span class="quiet">${all.filter(keeps).length}</span>
      </button>`,
    )}
  </div>`;
}

/** @param {{column: Column}} props */
function Heading({ column }) {
  const { column: by, falling } = ordering(route.value.sort);
  const here = by.key === column.key;
  const fall = here ? !falling : column.falls;
  const next = fall ? `-${column.key}` : column.key;
  return html`<th scope="col" class=${`col-${column.key}`} aria-sort=${here ? (falling ? "descending" : "ascending") : "none"}>
    <button type="button" title=${column.title} onClick=${() => adjust({ sort: next })}>
      <span>${column.label}</span>
      <span class="unit">${column.unit}</span>
    </button>
  </th>`;
}

/** The phone that the last columns were measured on, above them. @param {{serial: string}} props */
function Groups({ serial }) {
  const onPhone = COLUMNS.filter((column) => column.onPhone).length;
  return html`<tr class="groups">
    <td colspan=${COLUMNS.length - onPhone}></td>
    <th scope="colgroup" colspan=${onPhone}>
      <span>measured on ${phoneName(serial)} ${isVirtual(serial) && html`<${VirtualMark} />`} <${UncheckedMark} serial=${serial} /></span>
    </th>
  </tr>`;
}

/**
 * The rows in the order asked for; while the pointer or the focus is inside, those already there keep their places.
 * @param {Candidate[]} shown
 * @param {boolean} still
 * @returns {{order: Candidate[], waits: boolean}} `waits` when the rows have moved on from the places they are held in
 */
function useOrder(shown, still) {
  const { column, falling } = ordering(route.value.sort);
  const serial = selectedPhone.value;
  const asked = `${route.value.sort} ${route.value.show} ${serial}`;
  const before = useRef({ asked: "", places: /** @type {number[]} */ ([]) });
  const fresh = sorted(shown, column, falling, serial);
  const order = still && before.current.asked === asked ? held(fresh, before.current.places) : fresh;
  before.current = { asked, places: order.map((row) => row.number) };
  return { order, waits: order.some((row, i) => row !== fresh[i]) };
}

/** @param {{search: import("../types.js").Search}} props */
export function Leaderboard({ search }) {
  const [still, setStill] = useState(false);
  const [open, setOpen] = useState(/** @type {number|null} */ (null));
  const [limit, setLimit] = useState(PAGE);
  const all = rows.value ?? [];
  const filter = FILTERS[route.value.show] ?? FILTERS.all;
  const { order, waits } = useOrder(all.filter(filter.keeps), still);
  const serial = selectedPhone.value;
  return html`<section class="panel leaderboard" aria-label="Candidates">
    <div class="panel-head">
      <h2>
        Candidates
        ${waits && html`<span class="waits" role="status">order held while you read</span>`}
      </h2>
      <${Filters} all=${all} />
    </div>
    <div
      class="table-scroll"
      tabindex="0"
      role="region"
      aria-label="Leaderboard"
      onPointerEnter=${() => setStill(true)}
      onPointerLeave=${() => setStill(false)}
    >
      <table>
        <thead>
          <${Groups} serial=${serial} />
          <tr>${COLUMNS.map((column) => html`<${Heading} key=${column.key} column=${column} />`)}</tr>
        </thead>
        <tbody onFocusIn=${() => setStill(true)} onFocusOut=${() => setStill(false)}>
          ${order.slice(0, limit).map(
            (row) => html`<${Row}
              key=${row.number}
              row=${row}
              search=${search}
              serial=${serial}
              open=${open === row.number}
              toggle=${() => setOpen(open === row.number ? null : row.number)}
            />`,
          )}
        </tbody>
      </table>
      ${rows.value && !order.length && html`<${Nothing} filtered=${all.length > 0} />`}
    </div>
    ${order.length > limit && html`<button type="button" class="more" onClick=${() => setLimit(limit + PAGE)}>Show ${Math.min(PAGE, order.length - limit)} more of ${order.length}</button>`}
  </section>`;
}

/** @param {{filtered: boolean}} props */
const Nothing = ({ filtered }) =>
  filtered
    ? html`<${Empty} title="None of the candidates is of this kind"><p>Choose “All” to see every candidate.</p></${Empty}>`
    : html`<${Empty} title="No candidate yet"><p>The first appear as soon as the worker has taken up the search.</p></${Empty}>`;
