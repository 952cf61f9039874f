/** Reads again what changed, and nothing else; changes that come together are read together. */
import { computed, effect } from "@preact/signals";
import { clockOffset, get, Problem } from "./api.js";
import { listen } from "./live.js";
import { route } from "./route.js";
import {
  candidates,
  metrics,
  now,
  phones,
  runs,
  searches,
  selectedRun,
  selectedSearch,
  selectedStage,
  settle,
  trouble,
} from "./store.js";

const GATHER_MS = 150;
const FLEET_EVERY_MS = 10_000;
const TICK_MS = 1_000;
const POINTS = 200;

/** @type {Set<string>} */
const stale = new Set();
let reading = false;

/**
 * Replace the row with the same id, or add it.
 * @template {{id: string}} T
 * @param {T[]|null} list
 * @param {T} row
 * @returns {T[]}
 */
function merged(list, row) {
  const known = list ?? [];
  return known.some((r) => r.id === row.id) ? known.map((r) => (r.id === row.id ? row : r)) : [...known, row];
}

/** @param {string} id */
const quoted = (id) => encodeURIComponent(id);

/** @type {Record<string, (id: string) => Promise<void>>} */
const readers = {
  searches: async () => settle(searches, await get("/v1/searches")),
  search: async (id) => settle(searches, merged(searches.peek(), await get(`/v1/searches/${quoted(id)}`))),
  candidates: async (id) =>
    settle(candidates, { search: id, rows: await get(`/v1/searches/${quoted(id)}/candidates`) }),
  phones: async () => settle(phones, await get("/v1/phones")),
  runs: async () => settle(runs, await get("/v1/runs")),
  metrics: async (key) => {
    const [run, stage] = key.split("/");
    const found = await get(`/v1/runs/${quoted(run)}/metrics?stage=${stage}&limit=${POINTS}`);
    settle(metrics, { run, stage: Number(stage), points: found[0].points });
  },
  run: async (id) => settle(runs, merged(runs.peek(), await get(`/v1/runs/${quoted(id)}`))),
};

/** @param {string} key "kind" or "kind:id" */
async function read(key) {
  const at = key.indexOf(":");
  await readers[at < 0 ? key : key.slice(0, at)](at < 0 ? "" : key.slice(at + 1));
}

/** @param {string[]} keys */
export function refresh(...keys) {
  for (const key of keys) stale.add(key);
  if (!reading) {
    reading = true;
    setTimeout(readStale, GATHER_MS);
  }
}

/** @type {Map<string, Problem>} */
const refused = new Map();

/**
 * What is refused is said until it can be read: a list always, what belongs to one thing until something else is read.
 * @param {string[]} keys @param {PromiseSettledResult<void>[]} outcomes
 */
function note(keys, outcomes) {
  for (const key of refused.keys()) if (keys.includes(key) || key.includes(":")) refused.delete(key);
  outcomes.forEach((outcome, index) => {
    if (outcome.status === "rejected" && outcome.reason instanceof Problem) refused.set(keys[index], outcome.reason);
  });
  trouble.value = refused.values().next().value ?? null;
}

async function readStale() {
  while (stale.size) {
    const keys = [...stale];
    stale.clear();
    // A read that fails is not lost: the stream breaks with the server, and its return reads everything again.
    const outcomes = await Promise.allSettled(keys.map(read));
    note(keys, outcomes);
    await new Promise((resolve) => setTimeout(resolve, GATHER_MS));
  }
  reading = false;
}

/** The metrics that are looked at, as a key to read them by; empty while none are. */
const watched = computed(() => {
  const [run, stage] = [selectedRun.value, selectedStage.value];
  return route.value.view === "runs" && run && stage !== null ? `metrics:${run.id}/${stage}` : "";
});

function refreshMetrics() {
  if (watched.peek()) refresh(watched.peek());
}

function refreshAll() {
  refresh("searches", "phones", "runs");
  refreshMetrics();
  const search = selectedSearch.peek();
  if (search) refresh(`candidates:${search.id}`);
}

/** @param {{type: string, id: string, search?: string|null}} event */
function onChange(event) {
  const search = event.search ?? (event.type === "search" ? event.id : null);
  if (event.type === "phone" || event.type === "job") refresh("phones");
  if (event.type === "run") {
    refresh(`run:${event.id}`);
    if (event.id === selectedRun.peek()?.id) refreshMetrics();
  }
  if (search && (event.type === "search" || event.type === "candidate")) {
    refresh(`search:${search}`);
    if (search === selectedSearch.peek()?.id) refresh(`candidates:${search}`);
  }
}

/** Begin: read everything once, then follow the events. */
export function start() {
  listen(onChange, refreshAll);
  refreshAll();
  let last = "";
  effect(() => {
    const id = selectedSearch.value?.id ?? "";
    if (id && id !== last) refresh(`candidates:${id}`);
    last = id;
  });
  effect(() => {
    if (watched.value) refresh(watched.value);
  });
  setInterval(() => (now.value = Date.now() + clockOffset), TICK_MS);
  setInterval(() => document.hidden || refresh("phones"), FLEET_EVERY_MS);
}
