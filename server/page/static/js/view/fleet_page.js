/** The fleet: the phones that are registered, those that are only seen, and a form to add one. */
import { html } from "../html.js";
import { phones } from "../store.js";
import { Command, Empty } from "./common.js";
import { PhoneCard } from "./phone_card.js";
import { RegisterForm } from "./register.js";

const NoPhone = () => html`<${Empty} title="No phone yet">
  <p>Let the phone listen (<code>adb tcpip 5555</code> over its cable, once), and start an agent; <code>--phone</code> takes its address, and may be repeated:</p>
  <${Command}>${`fulcrum agent --server ${location.origin} --phone 192.168.1.20:5555`}</${Command}>
  <p>Without a phone at hand, a virtual one answers like a Galaxy S24 (its milliseconds are this host's):</p>
  <${Command}>${`fulcrum phone virtual --accept-first-key
fulcrum agent --server ${location.origin} --phone 127.0.0.1:5599`}</${Command}>
  <p>Then register the same address here, before or after the agent sees it.</p>
</${Empty}>`;

export function FleetPage() {
  const all = phones.value;
  if (!all) return html`<main class="single"><p class="quiet">Reading…</p></main>`;
  const registered = all.filter((p) => p.registered);
  const sighted = all.filter((p) => !p.registered);
  return html`<main class="single fleet">
    <h1>Fleet</h1>
    ${!all.length && html`<${NoPhone} />`}
    ${registered.length > 0 && html`<div class="cards">${registered.map((p) => html`<${PhoneCard} key=${p.serial} phone=${p} />`)}</div>`}
    ${sighted.length > 0 && html`<section class="sighted" aria-label="Seen, not registered">
      <h2>Seen by an agent, not registered</h2>
      <p class="quiet">A phone gets work only once it is registered.</p>
      <div class="cards">${sighted.map((p) => html`<${PhoneCard} key=${p.serial} phone=${p} />`)}</div>
    </section>`}
    <${RegisterForm} />
  </main>`;
}
