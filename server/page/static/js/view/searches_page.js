/** The list of searches beside the selected one. */
import { html } from "../html.js";
import { href } from "../route.js";
import { phones, presence, searches, searchesNewestFirst, selectedSearch } from "../store.js";
import { Command, Empty, ProgressBar, StateMark, VirtualMark } from "./common.js";
import { SearchView } from "./search.js";

/** @typedef {import("../types.js").Search} Search */

/** @param {{search: Search}} props */
function SearchLink({ search }) {
  const here = search.id === selectedSearch.value?.id;
  const { counts, spec } = search;
  return html`<li>
    <a class="pick" href=${href({ view: "searches", search: search.id, phone: "" })} aria-current=${here ? "true" : undefined}>
      <span class="pick-name">${search.name}</span>
      <${StateMark} state=${search.state} />
      <span class="quiet">${counts.done + counts.failed} of ${spec.effort.candidates} candidates</span>
      ${search.state === "running" && html`<${ProgressBar} progress=${search.progress} label=${search.name} slim />`}
    </a>
  </li>`;
}

/** The fleet in short, so that a phone in trouble is seen from here. */
function FleetInShort() {
  const known = (phones.value ?? []).filter((p) => p.registered);
  return html`<section class="rail-fleet" aria-label="Fleet in short">
    <h2>Fleet</h2>
    ${phones.value && !known.length && html`<p class="quiet">No phone is registered. <a href=${href({ view: "fleet" })}>Add one</a></p>`}
    <ul>
      ${known.map(
        (phone) => html`<li key=${phone.serial}>
          <a class="pick" href=${href({ view: "fleet" })}>
            <span class="pick-name">${phone.name || phone.serial}</span>
            <${StateMark} state=${presence(phone)} />
            <span class="quiet">${phone.job ? `runs a ${phone.job.kind} job` : presence(phone) === "ready" && "idle"}</span>
            ${phone.virtual && html`<${VirtualMark} />`}
          </a>
        </li>`,
      )}
    </ul>
  </section>`;
}

const NoSearch = () => html`<${Empty} title="No search yet">
  <p>Register a phone under <a href=${href({ view: "fleet" })}>Fleet</a>, then submit a search:</p>
  <${Command}>${`curl -X POST ${location.origin}/v1/searches \\
     -H 'content-type: application/json' -d @search.json`}</${Command}>
  <p>Its fields, with their meaning and defaults, are in the API's description, <a href="/openapi.json">/openapi.json</a> (SearchSpec). To see a whole search with a virtual phone:</p>
  <${Command}>make demo</${Command}>
</${Empty}>`;

export function SearchesPage() {
  const search = selectedSearch.value;
  if (searches.value && !searches.value.length) return html`<main class="single"><${NoSearch} /></main>`;
  return html`<div class="split">
    <aside>
      <section aria-label="Searches">
        <h2>Searches</h2>
        <ul class="searches">${searchesNewestFirst.value.map((s) => html`<${SearchLink} key=${s.id} search=${s} />`)}</ul>
      </section>
      <${FleetInShort} />
    </aside>
    <main>${search ? html`<${SearchView} key=${search.id} search=${search} />` : html`<p class="quiet">Reading…</p>`}</main>
  </div>`;
}
