/** Small parts that several views share. */
import { html } from "../html.js";

/** @typedef {import("../types.js").Fault} Fault */
/** @typedef {import("../types.js").Progress} ProgressOf */

export const VIRTUAL_NOTE = "A virtual phone is a program of its host: its milliseconds are this host's, not a phone's.";

/** @param {{kind: string, title?: string, children?: any}} props */
export const Badge = ({ kind, title, children }) => html`<span class=${`badge badge-${kind}`} title=${title}>${children}</span>`;

/** The mark that every number of a virtual phone carries. */
export const VirtualMark = () => html`<${Badge} kind="virtual" title=${VIRTUAL_NOTE}>virtual</${Badge}>`;

/** @param {{state: string}} props */
export const StateMark = ({ state }) => html`<span class=${`state state-${state}`}><i aria-hidden="true"></i>${state}</span>`;

/**
 * A bar; with a total of 0 it only says that something goes on.
 * @param {{progress: ProgressOf, label: string, slim?: boolean}} props
 */
export function ProgressBar({ progress, label, slim = false }) {
  const { done, total } = progress;
  const share = total > 0 ? Math.min(1, done / total) : 0;
  return html`<div
    class=${`bar ${slim ? "bar-slim" : ""} ${total > 0 ? "" : "bar-unknown"}`}
    role="progressbar"
    aria-label=${label}
    aria-valuemin="0"
    aria-valuemax=${total || undefined}
    aria-valuenow=${total > 0 ? done : undefined}
  >
    <div style=${{ width: `${share * 100}%` }}></div>
  </div>`;
}

/**
 * What a search or a run says behind its progress when the tries before came no further.
 * @param {{state: string, attempts: number}} work
 */
export const again = ({ state, attempts }) => (state === "running" && attempts > 1 ? ` (try ${attempts})` : "");

/** @type {Record<Fault["blame"], string>} */
const BLAME = { user: "yours to mend", phone: "the phone", infrastructure: "the bench", us: "a fault of Fulcrum" };

/** @param {{fault: Fault}} props */
export const FaultNote = ({ fault }) => html`<div class="fault">
  <p><strong>${fault.message}</strong> <span class="quiet">(${fault.slug}: ${BLAME[fault.blame] ?? fault.blame})</span></p>
  ${fault.advice && html`<p>${fault.advice}</p>`}
</div>`;

/** What to do where there is nothing yet. @param {{title: string, children?: any}} props */
export const Empty = ({ title, children }) => html`<div class="empty"><h3>${title}</h3>${children}</div>`;

/** A command to type. @param {{children?: any}} props */
export const Command = ({ children }) => html`<pre class="command" tabindex="0"><code>${children}</code></pre>`;

/** @param {{label: string, children?: any, note?: any}} props */
export const Fact = ({ label, children, note }) => html`<div class="fact">
  <dt>${label}</dt>
  <dd>${children}${note && html` <span class="quiet">${note}</span>`}</dd>
</div>`;
