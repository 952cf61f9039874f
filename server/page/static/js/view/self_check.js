/** The self-check that a phone must pass before its figures count. */
import { html } from "../html.js";
import { ago } from "../format.js";
import { now, phoneOf, phones } from "../store.js";
import { Badge, Command, Fact } from "./common.js";

/** @typedef {import("../types.js").Phone} Phone */
/** @typedef {import("../types.js").SelfCheck} SelfCheck */

const NOTE = "This phone has not passed its self-check: push, hash, load, known logits, timing, memory. Its figures may be of anything.";

/** The mark that every number of a phone carries until it has passed. @param {{serial: string}} props */
export const UncheckedMark = ({ serial }) =>
  phoneOf(serial)?.self_check?.passed ? null : html`<${Badge} kind="unchecked" title=${NOTE}>self-check not passed</${Badge}>`;

/** @param {{check: SelfCheck}} props */
function Passed({ check }) {
  return html`passed ${check.finished_at && ago(check.finished_at, now.value)}`;
}

/** Where it failed, or where it is. @param {{check: SelfCheck}} props */
function NotPassed({ check }) {
  if (check.outdated) return html`<strong>not passed</strong> since Android changed: test it again`;
  if (check.state !== "failed") return html`${check.state}`;
  const last = check.steps.at(-1);
  return html`<strong>not passed</strong>${last ? `, at ${last.name}: ${last.message}` : check.fault && `: ${check.fault.message}`}`;
}

/** @param {{phone: Phone}} props */
export function SelfCheckFact({ phone }) {
  const check = phone.self_check;
  if (!check) return html`<${Fact} label="Self-check">not passed<${Command}>${`fulcrum phone test ${phone.serial}`}</${Command}></${Fact}>`;
  return html`<${Fact} label="Self-check" note=${check.runner}>
    ${check.passed ? html`<${Passed} check=${check} />` : html`<${NotPassed} check=${check} />`}
  </${Fact}>`;
}

/** Says it as long as it holds: nothing here was measured on a phone of glass and metal that passed. */
export function NoPhysicalPhone() {
  const passed = (phones.value ?? []).some((phone) => phone.virtual === false && phone.self_check?.passed);
  return passed ? null : html`<p class="quiet" role="note">No physical phone has passed the self-check here. The Java and the native runner for Android are unproven until one has.</p>`;
}
