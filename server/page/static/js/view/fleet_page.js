/** The fleet: the phones that are registered, those that are only seen, and a form to add one. */
import { useState } from "preact/hooks";
import { html } from "../html.js";
import { phones, presence } from "../store.js";
import { Command, Empty } from "./common.js";
import { PhoneCard } from "./phone_card.js";
import { RegisterForm } from "./register.js";
import { NoPhysicalPhone } from "./self_check.js";

const NoPhone = () => html`<${Empty} title="No phone yet">
  <p>Let the phone listen (<code>adb tcpip 5555</code> over its cable, once), and start an agent; <code>--phone</code> takes its address, and may be repeated:</p>
  <${Command}>${`fulcrum agent --server ${location.origin} --phone 192.168.1.20:5555`}</${Command}>
  <p>Without a phone at hand, a virtual one answers like a Galaxy S24 (its milliseconds are this host's):</p>
  <${Command}>${`fulcrum phone virtual --accept-first-key
fulcrum agent --server ${location.origin} --phone 127.0.0.1:5599`}</${Command}>
  <p>On the phone's host, <code>fulcrum phone discover</code> shows what is within reach by cable and adb, and <code>fulcrum agent --discover</code> serves it.</p>
  <p>Then register the same address here, before or after the agent sees it.</p>
</${Empty}>`;

/** @typedef {import("../types.js").Phone} Phone */

/** All that a phone may be looked for by. @param {Phone} phone */
function words(phone) {
  const { facts } = phone;
  const known = facts ? [facts.manufacturer, facts.model, facts.soc, facts.android && `android ${facts.android}`] : [];
  return [phone.serial, phone.name, phone.group, presence(phone), phone.agent, phone.note, ...phone.tags, ...known]
    .filter(Boolean)
    .join(" ")
    .toLowerCase();
}

/** @param {string} looked @returns {(phone: Phone) => boolean} whether every word of `looked` is said of a phone */
const fits = (looked) => {
  const parts = looked.toLowerCase().split(/\s+/).filter(Boolean);
  return (phone) => parts.every((part) => words(phone).includes(part));
};

/** @param {{all: Phone[]}} props */
const Cards = ({ all }) => html`<div class="cards">${all.map((p) => html`<${PhoneCard} key=${p.serial} phone=${p} />`)}</div>`;

export function FleetPage() {
  const [looked, setLooked] = useState("");
  const all = phones.value;
  if (!all) return html`<main class="single"><p class="quiet">Reading…</p></main>`;
  const shown = all.filter(fits(looked));
  const registered = shown.filter((p) => p.registered);
  const sighted = shown.filter((p) => !p.registered);
  return html`<main class="single fleet">
    <h1>Fleet</h1>
    <${NoPhysicalPhone} />
    ${!all.length && html`<${NoPhone} />`}
    ${all.length > 1 && html`<label class="fleet-filter">
      <span class="quiet">Show those with</span>
      <input type="search" value=${looked} onInput=${(/** @type {any} */ e) => setLooked(e.currentTarget.value)} placeholder="model, SoC, group, tag, state" autocomplete="off" spellcheck=${false} />
      <span class="quiet" role="status">${shown.length} of ${all.length}</span>
    </label>`}
    ${registered.length > 0 && html`<${Cards} all=${registered} />`}
    ${sighted.length > 0 && html`<section class="sighted" aria-label="Seen, not registered">
      <h2>Seen by an agent, not registered</h2>
      <p class="quiet">A phone gets work only once it is registered.</p>
      <${Cards} all=${sighted} />
    </section>`}
    <${RegisterForm} />
  </main>`;
}
