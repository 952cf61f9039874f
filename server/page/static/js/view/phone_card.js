/** One phone: its state and why, what it is, how it fares, who sees it, what it does. */
import { html } from "../html.js";
import { ago, bytes } from "../format.js";
import { now, presence } from "../store.js";
import { Fact, FaultNote, StateMark, VIRTUAL_NOTE, VirtualMark } from "./common.js";
import { MoreActions, ReleaseButton } from "./phone_actions.js";
import { SelfCheckFact } from "./self_check.js";
import { RegisterButton } from "./register.js";

/** @typedef {import("../types.js").Phone} Phone */
/** @typedef {import("../types.js").PhoneFacts} PhoneFacts */
/** @typedef {import("../types.js").Health} Health */
/** @typedef {import("../types.js").Vitals} Vitals */

/** What to do where a state tells of trouble and no fault came with it. */
/** @type {Record<string, string>} */
const ADVICE = {
  unproven: "No agent has proved this phone yet: start an agent with its address.",
  unauthorised: "Accept the agent's key on the phone's screen (“Allow USB debugging”).",
  unreachable: "Check cable, network and developer options; the agent goes on trying.",
  silent: "Its agent has stopped reporting: see whether “fulcrum agent” still runs on its host.",
};

/** @param {number[]} cores @returns {string} 0–3, 7: neighbours together */
function span(cores) {
  const runs = /** @type {number[][]} */ ([]);
  for (const core of cores) {
    const last = runs.at(-1);
    if (last && core === last[1] + 1) last[1] = core;
    else runs.push([core, core]);
  }
  return runs.map(([first, last]) => (first === last ? `${first}` : `${first}–${last}`)).join(", ");
}

/** @param {PhoneFacts} facts @returns {string[]} a text for each cluster, the fastest first */
const clusters = (facts) =>
  Object.entries(facts.cluster_max_khz)
    .sort((a, b) => b[1] - a[1])
    .map(([policy, khz]) => {
      const cores = facts.cluster_cores?.[policy];
      return `${(khz / 1e6).toFixed(2)} GHz${cores ? ` (${cores.length > 1 ? "cores" : "core"} ${span(cores)})` : ""}`;
    });

/** @param {{facts: PhoneFacts}} props */
const Facts = ({ facts }) => html`
  <${Fact} label="Model">${[facts.manufacturer, facts.model].filter(Boolean).join(" ")}</${Fact}>
  ${facts.soc && html`<${Fact} label="SoC">${facts.soc}</${Fact}>`}
  ${facts.android && html`<${Fact} label="Android" note=${facts.sdk && `API ${facts.sdk}`}>${facts.android}</${Fact}>`}
  ${facts.cores && html`<${Fact} label="Cores" note=${clusters(facts).join(" · ")}>${facts.cores}</${Fact}>`}
  ${facts.abi && html`<${Fact} label="ABI">${facts.abi}</${Fact}>`}
  ${facts.memory_bytes && html`<${Fact} label="Memory">${bytes(facts.memory_bytes)}</${Fact}>`}
  ${facts.fingerprint && html`<${Fact} label="Build"><span class="mono fingerprint">${facts.fingerprint}</span></${Fact}>`}
`;

/** @param {{vitals: Vitals}} props */
const Battery = ({ vitals }) =>
  vitals.battery_percent !== null &&
  html`<${Fact} label="Battery" note=${vitals.charging && "charging"}>
    ${vitals.battery_percent} %${vitals.battery_celsius !== null && `, ${vitals.battery_celsius.toFixed(1)} °C`}
  </${Fact}>`;

/** @param {{health: Health}} props */
const HealthFact = ({ health }) => html`<div class="fact health">
  <dt>Health</dt>
  <dd>
    <details>
      <summary>
        <span class=${health.passed ? "passed" : "failed"}>${health.passed ? "passed" : "failed"}</span>
        ${" "}<span class="quiet">${ago(health.started_at, now.value)}</span>
      </summary>
      <ul>
        ${health.items.map((item) => html`<li class=${item.passed ? "" : "failed"}><b>${item.name}</b>: ${item.detail}</li>`)}
      </ul>
    </details>
  </dd>
</div>`;

/** Who sees the phone, and when. @param {{phone: Phone}} props */
const Presence = ({ phone }) => {
  const { worker } = phone;
  const restarts = worker?.restarts ? `, ${worker.restarts} ${worker.restarts > 1 ? "restarts" : "restart"}` : "";
  return html`
    <${Fact} label="Agent" note=${phone.via && `found by ${phone.via}`}>
      ${phone.agent || html`<span class="quiet">none</span>`}
    </${Fact}>
    ${worker && html`<${Fact} label="Process" note=${`${bytes(worker.rss_bytes)}${restarts}`}>${worker.pid}</${Fact}>`}
    <${Fact} label="Last seen" note=${phone.probed_at && `tried ${ago(phone.probed_at, now.value)}`}>
      ${ago(phone.last_seen, now.value)}
    </${Fact}>
  `;
};

/** @param {{phone: Phone, state: string}} props */
const Doing = ({ phone: { job, fault }, state }) => html`
  ${job && html`<p>Running a <b>${job.kind}</b> job <span class="quiet mono">${job.id.slice(0, 8)}</span></p>`}
  ${!job && state === "ready" && html`<p class="quiet">Idle</p>`}
  ${fault ? html`<${FaultNote} fault=${fault} />` : ADVICE[state] && html`<p class="advice">${ADVICE[state]}</p>`}
`;

/** @param {{phone: Phone}} props */
const Labels = ({ phone }) =>
  (phone.group || phone.tags.length > 0) &&
  html`<p class="chips">
    ${phone.group && html`<span class="chip chip-group" title="Group">${phone.group}</span>`}
    ${phone.tags.map((tag) => html`<span class="chip" title="Tag">${tag}</span>`)}
  </p>`;

/** @param {{phone: Phone}} props */
export function PhoneCard({ phone }) {
  const { facts, vitals, health } = phone;
  const state = presence(phone);
  const free = vitals?.free_bytes ?? facts?.free_bytes;
  return html`<article class="panel phone" data-serial=${phone.serial}>
    <header>
      <div>
        <h3>${phone.name || facts?.model || phone.serial} ${phone.virtual && html`<${VirtualMark} />`}</h3>
        <p class="quiet mono">${phone.serial}</p>
      </div>
      <${StateMark} state=${state} />
    </header>
    <${Doing} phone=${phone} state=${state} />
    <dl class="facts">
      ${facts && html`<${Facts} facts=${facts} />`}
      ${free && html`<${Fact} label="Free space">${bytes(free)}</${Fact}>`}
      ${vitals && html`<${Battery} vitals=${vitals} />`}
      ${health && html`<${HealthFact} health=${health} />`}
      <${SelfCheckFact} phone=${phone} />
      <${Presence} phone=${phone} />
    </dl>
    <${Labels} phone=${phone} />
    ${phone.note && html`<p class="note">${phone.note}</p>`}
    ${phone.virtual && html`<p class="virtual-note">${VIRTUAL_NOTE}</p>`}
    ${(state === "quarantined" || state === "maintenance") && html`<${ReleaseButton} phone=${phone} />`}
    ${phone.registered ? html`<${MoreActions} phone=${phone} />` : html`<${RegisterButton} serial=${phone.serial} />`}
  </article>`;
}
