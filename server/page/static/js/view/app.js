/** The frame of the page: the header, the state of the connection, and one of three views. */
import { html } from "../html.js";
import { clock } from "../format.js";
import { connection, lostAt } from "../live.js";
import { href, route } from "../route.js";
import { phones, presence, runs, searches, trouble } from "../store.js";
import { FleetPage } from "./fleet_page.js";
import { RunsPage } from "./runs_page.js";
import { SearchesPage } from "./searches_page.js";

const VIEWS = {
  searches: { label: "Searches", page: SearchesPage },
  fleet: { label: "Fleet", page: FleetPage },
  runs: { label: "Runs", page: RunsPage },
};

const CONNECTION = {
  connecting: "connecting",
  live: "live",
  lost: "connection lost",
  restored: "connection restored",
};

/** A number beside a view's name: what is active there, and only if something is. @param {string} view */
function active(view) {
  if (view === "searches") return searches.value?.filter((s) => s.state === "running").length;
  if (view === "runs") return runs.value?.filter((r) => r.state === "running").length;
  return phones.value?.filter((p) => p.registered && presence(p) === "ready").length;
}

const ACTIVE = { searches: "running", fleet: "ready", runs: "running" };

function Navigation() {
  return html`<nav aria-label="Views">
    ${Object.entries(VIEWS).map(([view, { label }]) => {
      const number = active(view);
      return html`<a href=${href({ view })} aria-current=${route.value.view === view ? "page" : undefined}>
        ${label}
        ${number ? html` <span class="tally">${number} <span class="tally-word">${ACTIVE[/** @type {keyof typeof ACTIVE} */ (view)]}</span></span>` : null}
      </a>`;
    })}
  </nav>`;
}

function Connection() {
  const state = connection.value;
  return html`<span class=${`connection connection-${state}`} role="status"><i aria-hidden="true"></i>${CONNECTION[state]}</span>`;
}

const Lost = () =>
  connection.value === "lost" &&
  html`<p class="banner" role="alert">
    The server does not answer: what you see is from ${clock(lostAt.value)}. The page goes on by itself when it is back.
  </p>`;

const Trouble = () =>
  trouble.value && html`<p class="banner" role="alert"><b>${trouble.value.title}:</b> ${trouble.value.message} ${trouble.value.advice}</p>`;

export function App() {
  const { page: Page } = VIEWS[/** @type {keyof typeof VIEWS} */ (route.value.view)] ?? VIEWS.searches;
  return html`
    <header class="top">
      <a class="brand" href="#"><img src="/static/icon.svg" alt="" width="22" height="22" /> Fulcrum</a>
      <${Navigation} />
      <${Connection} />
    </header>
    <${Lost} />
    <${Trouble} />
    <${Page} />
  `;
}
