/** One phone: its state, what it is, who sees it, what it does. */
import { html } from "../html.js";
import { ago, bytes } from "../format.js";
import { now, presence } from "../store.js";
import { Fact, FaultNote, StateMark, VIRTUAL_NOTE, VirtualMark } from "./common.js";
import { RegisterButton, ReleaseButton } from "./register.js";

/** @typedef {import("../types.js").Phone} Phone */
/** @typedef {import("../types.js").PhoneFacts} PhoneFacts */

/** What to do where a state tells of trouble and no fault came with it. */
/** @type {Record<string, string>} */
const ADVICE = {
  unproven: "No agent has proved this phone yet: start an agent with its address.",
  unauthorised: "Accept the agent's key on the phone's screen (“Allow USB debugging”).",
  unreachable: "Check cable, network and developer options; the agent goes on trying.",
  silent: "Its agent has stopped reporting: see whether “fulcrum agent” still runs on its host.",
  quarantined: "Its jobs failed one after another. Mend what failed, then end the quarantine.",
};

/** @param {Record<string, number>} clusters @returns {string} highest clocks in GHz, the fastest first */
const clocks = (clusters) =>
  Object.values(clusters)
    .sort((a, b) => b - a)
    .map((khz) => (khz / 1e6).toFixed(2))
    .join(" / ");

/** @param {{facts: PhoneFacts}} props */
const Facts = ({ facts }) => html`
  <${Fact} label="Model">${[facts.manufacturer, facts.model].filter(Boolean).join(" ")}</${Fact}>
  ${facts.soc && html`<${Fact} label="SoC">${facts.soc}</${Fact}>`}
  ${facts.android && html`<${Fact} label="Android" note=${facts.sdk && `API ${facts.sdk}`}>${facts.android}</${Fact}>`}
  ${facts.cores && html`<${Fact} label="Cores" note=${Object.keys(facts.cluster_max_khz).length > 0 && `${clocks(facts.cluster_max_khz)} GHz`}>${facts.cores}</${Fact}>`}
  ${facts.abi && html`<${Fact} label="ABI">${facts.abi}</${Fact}>`}
  ${facts.memory_bytes && html`<${Fact} label="Memory">${bytes(facts.memory_bytes)}</${Fact}>`}
  ${facts.free_bytes && html`<${Fact} label="Free space">${bytes(facts.free_bytes)}</${Fact}>`}
`;

/** @param {{phone: Phone}} props */
const LastSeen = ({ phone }) => html`<${Fact} label="Last seen">${ago(phone.last_seen, now.value)}</${Fact}>`;

/** @param {{phone: Phone}} props */
export function PhoneCard({ phone }) {
  const { facts, fault, job } = phone;
  const state = presence(phone);
  return html`<article class="panel phone" data-serial=${phone.serial}>
    <header>
      <div>
        <h3>${phone.name || facts?.model || phone.serial} ${phone.virtual && html`<${VirtualMark} />`}</h3>
        <p class="quiet mono">${phone.serial}</p>
      </div>
      <${StateMark} state=${state} />
    </header>
    ${job && html`<p>Running a <b>${job.kind}</b> job <span class="quiet mono">${job.id.slice(0, 8)}</span></p>`}
    ${!job && state === "ready" && html`<p class="quiet">Idle</p>`}
    ${fault ? html`<${FaultNote} fault=${fault} />` : ADVICE[state] && html`<p class="advice">${ADVICE[state]}</p>`}
    <dl class="facts">
      ${facts && html`<${Facts} facts=${facts} />`}
      <${Fact} label="Agent">${phone.agent || html`<span class="quiet">none</span>`}</${Fact}>
      <${LastSeen} phone=${phone} />
    </dl>
    ${phone.tags.length > 0 && html`<p class="chips">${phone.tags.map((tag) => html`<span class="chip">${tag}</span>`)}</p>`}
    ${phone.virtual && html`<p class="virtual-note">${VIRTUAL_NOTE}</p>`}
    ${state === "quarantined" && html`<${ReleaseButton} serial=${phone.serial} />`}
    ${!phone.registered && html`<${RegisterButton} serial=${phone.serial} />`}
  </article>`;
}
