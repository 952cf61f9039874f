/** The list of runs beside the selected one. */
import { html } from "../html.js";
import { href } from "../route.js";
import { runs, runsNewestFirst, selectedRun } from "../store.js";
import { Command, Empty, ProgressBar, StateMark } from "./common.js";
import { RunView } from "./run.js";

const NoRun = () => html`<${Empty} title="No run yet">
  <p>A run trains a search's winner and makes it talk on the phone. When a search has ended:</p>
  <${Command}>${`curl -X POST ${location.origin}/v1/runs \\
     -H 'content-type: application/json' -d '{"search": "ID OF THE SEARCH"}'`}</${Command}>
</${Empty}>`;

/** @param {{run: import("../types.js").Run}} props */
const RunLink = ({ run }) => html`<li>
  <a class="pick" href=${href({ view: "runs", run: run.id })} aria-current=${run.id === selectedRun.value?.id ? "true" : undefined}>
    <span class="pick-name">${run.name}</span>
    <${StateMark} state=${run.state} />
    <span class="quiet">candidate #${run.candidate}</span>
    ${run.state === "running" && html`<${ProgressBar} progress=${run.progress} label=${run.name} slim />`}
  </a>
</li>`;

export function RunsPage() {
  const run = selectedRun.value;
  if (runs.value && !run) return html`<main class="single"><${NoRun} /></main>`;
  return html`<div class="split">
    <aside>
      <h2>Runs</h2>
      <ul>${runsNewestFirst.value.map((r) => html`<${RunLink} key=${r.id} run=${r} />`)}</ul>
    </aside>
    <main>${run ? html`<${RunView} key=${run.id} run=${run} />` : html`<p class="quiet">Reading…</p>`}</main>
  </div>`;
}
