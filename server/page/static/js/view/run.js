/** One run: its stages, what the phone measured of the result, and what the model said there. */
import { html } from "../html.js";
import { count, figure } from "../format.js";
import { href } from "../route.js";
import { phoneName, searches } from "../store.js";
import { Blocks } from "./blocks.js";
import { FaultNote, ProgressBar, StateMark, VIRTUAL_NOTE, VirtualMark, again } from "./common.js";
import { Curves } from "./curves.js";
import { ProfileFacts } from "./detail.js";
import { Stages } from "./stages.js";

/** @typedef {import("../types.js").Run} Run */

/** @param {{run: Run}} props */
function Spoken({ run }) {
  if (run.text === null) return null;
  const { generation, check } = run;
  const steps = generation?.steps ?? [];
  const seconds = steps.reduce((sum, step) => sum + step.ns, 0) / 1e9;
  return html`<section class="panel" aria-label="On the phone">
    <h2>On the phone ${generation?.virtual && html`<${VirtualMark} />`}</h2>
    <blockquote class="spoken"><span class="prompt" title="the prompt">${run.spec.prompt}</span><span class="answer" title="what the phone made of it">${run.text}</span></blockquote>
    ${generation && html`<p class="quiet">${steps.length} tokens on ${phoneName(generation.serial)}${seconds > 0 && `, ${figure(steps.length / seconds)} per second`}</p>`}
    ${check && html`<${Check} check=${check} />`}
    ${generation?.virtual && html`<p class="virtual-note">${VIRTUAL_NOTE}</p>`}
  </section>`;
}

/** @param {{check: import("../types.js").TokenCheck}} props */
const Check = ({ check }) => html`<p class=${`check ${check.passed ? "check-passed" : "check-failed"}`}>
  <b>${check.passed ? "Same tokens as PyTorch" : "Tokens differ from PyTorch"}</b>:
  ${" "}${check.agreed} of ${check.tokens} agree${check.near_ties.length > 0 && `, ${check.near_ties.length} near ${check.near_ties.length === 1 ? "tie" : "ties"} (gap at most ${figure(Math.max(...check.near_ties.map((t) => t.logit_gap)))})`};
  ${" "}largest difference of a logit ${figure(check.max_logit_difference)}.
</p>`;

/** @param {{run: Run}} props */
export function RunView({ run }) {
  const search = searches.value?.find((s) => s.id === run.spec.search);
  const profiles = Object.entries(run.profiles);
  return html`<article class="run">
    <header class="head"><div><h1>${run.name}</h1> <${StateMark} state=${run.state} /></div></header>
    <p>Trains candidate <b>#${run.candidate}</b> of <a href=${href({ view: "searches", search: run.spec.search })}>${search?.name ?? run.spec.search}</a> <${Blocks} architecture=${run.architecture} /></p>
    ${(run.state === "running" || run.state === "queued") && html`<div class="where">
      <${ProgressBar} progress=${run.progress} label="Progress of the run" />
      <p><span>${run.progress.message || "waiting for the worker"}${again(run)}</span><span class="quiet">${run.progress.total > 0 && `${count(run.progress.done)} of ${count(run.progress.total)}`}</span></p>
    </div>`}
    ${run.fault && html`<${FaultNote} fault=${run.fault} />`}
    <${Spoken} run=${run} />
    <${Stages} run=${run} />
    <${Curves} run=${run} />
    ${profiles.length > 0 && html`<section class="panel final" aria-label="Final profile">
      <h2>The trained model, measured</h2>
      ${profiles.map(([serial, profile]) => html`<${ProfileFacts} key=${serial} serial=${serial} profile=${profile} />`)}
    </section>`}
  </article>`;
}
