/** Everything known of one candidate. */
import { html } from "../html.js";
import { bytes, count, duration, figure, fixed } from "../format.js";
import { isVirtual, phoneName } from "../store.js";
import { Fact, FaultNote, VirtualMark } from "./common.js";

/** @typedef {import("../types.js").Candidate} Candidate */
/** @typedef {import("../types.js").Figure} Interval */

/** @param {{of: Interval, unit: string}} props */
const WithInterval = ({ of, unit }) => html`${figure(of.value)} ${unit} <span class="quiet">${figure(of.low)}–${figure(of.high)}</span>`;

/** @param {{predicted: number, measured: number}} props */
const Expected = ({ predicted, measured }) => html`${figure(predicted)} ms <span class="quiet">off by ${fixed(100 * Math.abs(predicted / measured - 1), 1)} %</span>`;

/** @param {{serial: string, profile: import("../types.js").Profile, again?: boolean, predicted?: import("../types.js").Candidate["predicted"][string]}} props */
export const ProfileFacts = ({ serial, profile, again = false, predicted }) => html`<section>
  <h4>${phoneName(serial)}${again && ", measured again as one file"} ${isVirtual(serial) && html`<${VirtualMark} />`}</h4>
  <dl class="facts">
    <${Fact} label="Time to first token"><${WithInterval} of=${profile.ttft_ms} unit="ms" /></${Fact}>
    <${Fact} label="Prefill"><${WithInterval} of=${profile.prefill_tokens_per_second} unit="tok/s" /></${Fact}>
    <${Fact} label="Decode, median"><${WithInterval} of=${profile.decode_ms} unit="ms" /></${Fact}>
    ${predicted && html`<${Fact} label="Decode, predicted from blocks"><${Expected} predicted=${predicted.decode_ms} measured=${profile.decode_ms.value} /></${Fact}>`}
    <${Fact} label="Decode, 95th percentile"><${WithInterval} of=${profile.decode_p95_ms} unit="ms" /></${Fact}>
    <${Fact} label="Decode speed">${figure(1000 / profile.decode_ms.value)} tok/s</${Fact}>
    <${Fact} label="Peak memory">${bytes(profile.peak_memory_bytes)}</${Fact}>
    <${Fact} label="Load"><${WithInterval} of=${profile.load_ms} unit="ms" /></${Fact}>
  </dl>
  ${profile.flags.map((flag) => html`<p key=${flag} class="quiet">Flag: ${flag}</p>`)}
</section>`;

/** @param {{row: Candidate, search: {id: string}}} props */
export function Detail({ row, search }) {
  const { architecture, quality } = row;
  const parts = Object.entries(row.seconds);
  return html`<div class="detail">
    ${row.fault && html`<${FaultNote} fault=${row.fault} />`}
    ${row.confirm_fault && html`<${FaultNote} fault=${row.confirm_fault} />`}
    <div class="detail-grid">
      <section>
        <h4>Architecture</h4>
        <dl class="facts">
          <${Fact} label="Width">${architecture.width}</${Fact}>
          <${Fact} label="FFN width">${architecture.ffn_width}</${Fact}>
          <${Fact} label="Vocabulary">${count(architecture.vocab_size)}</${Fact}>
          <${Fact} label="Parameters">${count(row.parameters)}</${Fact}>
          ${row.program && html`<${Fact} label="Program, of blocks"><code title=${row.program}>${row.program.slice(0, 12)}</code></${Fact}>`}
          ${row.linked && html`<${Fact} label="Program, one file"><code title=${row.linked}>${row.linked.slice(0, 12)}</code></${Fact}>`}
          ${quality && html`<${Fact} label="Quality" note=${`after ${count(quality.tokens)} tokens`}>${fixed(quality.bits_per_byte, 4)} bits/byte</${Fact}>`}
        </dl>
      </section>
      ${Object.entries(row.profiles).map(([serial, profile]) => html`<${ProfileFacts} key=${serial} serial=${serial} profile=${profile} predicted=${row.predicted[serial]} />`)}
      ${Object.entries(row.confirmed).map(([serial, profile]) => html`<${ProfileFacts} key=${`${serial} again`} serial=${serial} profile=${profile} again />`)}
      ${parts.length > 0 && html`<section>
        <h4>Where its time went</h4>
        <dl class="facts">${parts.map(([part, seconds]) => html`<${Fact} key=${part} label=${part}>${duration(seconds)}</${Fact}>`)}</dl>
      </section>`}
    </div>
    <p><a href=${`/v1/searches/${encodeURIComponent(search.id)}/candidates/${row.number}/measurements`}>Raw samples and the phone's condition (JSON)</a></p>
  </div>`;
}
