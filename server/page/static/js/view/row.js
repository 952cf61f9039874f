/** One candidate of the leaderboard. */
import { html } from "../html.js";
import { BUDGETS, broken, budgetName } from "../axes.js";
import { COLUMNS } from "../columns.js";
import { figure } from "../format.js";
import { hovered } from "../store.js";
import { Blocks } from "./blocks.js";
import { Badge } from "./common.js";
import { Detail } from "./detail.js";

/** @typedef {import("../types.js").Candidate} Candidate */
/** @typedef {import("../columns.js").Column} Column */

/** @param {Candidate} row @returns {(key: string) => string} */
const excess = (row) => (key) => `${budgetName(key).label} is ${figure(row.violations[key] * 100)} % over its budget`;

/** Why it failed, where its figures would stand. @param {{row: Candidate, span: number}} props */
const Reason = ({ row, span }) => html`<td class="reason" colspan=${span}>
  ${row.fault?.message} ${row.fault?.advice && html`<em>${row.fault.advice}</em>`}
</td>`;

/** @param {{row: Candidate}} props */
function Standing({ row }) {
  const over = broken(row);
  return html`<span class="badges">
      ${row.winner && html`<${Badge} kind="winner">winner</${Badge}>`}
      ${row.on_front && html`<${Badge} kind="front" title="No feasible candidate is better in every objective">front</${Badge}>`}
      ${row.feasible && html`<${Badge} kind="feasible" title="Done, and within every budget">feasible</${Badge}>`}
      ${row.phase === "failed" && html`<${Badge} kind="failed">failed</${Badge}>`}
      ${row.phase !== "done" && row.phase !== "failed" && html`<${Badge} kind="phase" title="How far it came">${row.phase}</${Badge}>`}
      ${over.length > 0 && html`<${Badge} kind="broken" title=${over.map(excess(row)).join("\n")}>over ${over.map((key) => budgetName(key).short).join(", ")}</${Badge}>`}
    </span>`;
}

/** @param {{row: Candidate, column: Column, serial: string, bound: number|null}} props */
function Cell({ row, column, serial, bound }) {
  const spread = column.interval?.(row, serial);
  const value = column.sort(row, serial);
  const over = bound !== null && value !== null && value > bound;
  const text = column.text?.(row, serial) ?? "";
  return html`<td class=${`number ${over ? "over" : ""}`} title=${spread && `95 % interval ${figure(spread.low)} to ${figure(spread.high)}`}>
    ${text}${spread && column.key === "decode_ms" && html`<small>${figure(spread.low)}–${figure(spread.high)}</small>`}
  </td>`;
}

/** @param {{row: Candidate, search: import("../types.js").Search, serial: string, open: boolean, toggle: () => void}} props */
export function Row({ row, search, serial, open, toggle }) {
  const budgets = /** @type {Record<string, number|null>} */ (search.spec.budgets);
  const kind = [row.winner && "is-winner", row.phase === "failed" && "is-failed", hovered.value === row.number && "is-hovered"];
  const figures = COLUMNS.filter((column) => column.text);
  const known = row.fault ? figures.filter((column) => column.sort(row, serial) !== null) : figures;
  const missing = figures.length - known.length;
  return html`<tr
      class=${kind.filter(Boolean).join(" ")}
      data-number=${row.number}
      onMouseEnter=${() => (hovered.value = row.number)}
      onMouseLeave=${() => (hovered.value = null)}
    >
      <th scope="row">
        <button type="button" class="open" aria-expanded=${open ? "true" : "false"} aria-label=${`Candidate ${row.number}, details`} onClick=${toggle}>
          ${row.number}
        </button>
      </th>
      <td class="standing"><${Standing} row=${row} /></td>
      <td><${Blocks} architecture=${row.architecture} /></td>
      ${known.map((column) => html`<${Cell} key=${column.key} row=${row} column=${column} serial=${serial} bound=${column.budget && column.budget in BUDGETS ? budgets[column.budget] : null} />`)}
      ${missing > 0 && html`<${Reason} row=${row} span=${missing} />`}
    </tr>
    ${open && html`<tr class="detail-row"><td colspan=${COLUMNS.length}><${Detail} row=${row} search=${search} /></td></tr>`}`;
}
