/** What the page knows, as signals; null means not loaded yet. */
import { computed, signal } from "@preact/signals";
import { route } from "./route.js";

/** @typedef {import("./types.js").Search} Search */
/** @typedef {import("./types.js").Candidate} Candidate */
/** @typedef {import("./types.js").Phone} Phone */
/** @typedef {import("./types.js").Run} Run */
/** @typedef {import("./types.js").MetricPoint} MetricPoint */

/** @type {import("@preact/signals").Signal<Search[]|null>} */
export const searches = signal(null);
/** @type {import("@preact/signals").Signal<{search: string, rows: Candidate[]}|null>} */
export const candidates = signal(null);
/** @type {import("@preact/signals").Signal<Phone[]|null>} */
export const phones = signal(null);
/** @type {import("@preact/signals").Signal<Run[]|null>} */
export const runs = signal(null);

/** @type {import("@preact/signals").Signal<{run: string, stage: number, points: MetricPoint[]}|null>} */
export const metrics = signal(null);

/** What the server said when it last refused to be read. */
export const trouble = signal(/** @type {import("./api.js").Problem|null} */ (null));

/** The candidate under the pointer, in the table or in the plot. */
export const hovered = signal(/** @type {number|null} */ (null));

/** The time by the server's clock, in milliseconds. */
export const now = signal(Date.now());

/** @template {{created_at: string}} T @param {T[]|null} rows @returns {T[]} */
const newestFirst = (rows) => [...(rows ?? [])].sort((a, b) => b.created_at.localeCompare(a.created_at));

export const searchesNewestFirst = computed(() => newestFirst(searches.value));
export const runsNewestFirst = computed(() => newestFirst(runs.value));

/** The search that the address names; else the one that runs; else the newest. */
export const selectedSearch = computed(() => {
  const all = searchesNewestFirst.value;
  return all.find((s) => s.id === route.value.search) ?? all.find((s) => s.state === "running") ?? all[0] ?? null;
});

export const selectedRun = computed(() => {
  const all = runsNewestFirst.value;
  return all.find((r) => r.id === route.value.run) ?? all[0] ?? null;
});

/** The stage of the selected run whose metrics are shown: the address's; else the one that runs; else the last that did. */
export const selectedStage = computed(() => {
  const stages = selectedRun.value?.stages ?? [];
  const begun = stages.map((stage, index) => (stage.state === "queued" ? -1 : index));
  if (route.value.stage !== "" && begun.includes(Number(route.value.stage))) return Number(route.value.stage);
  const running = stages.findIndex((stage) => stage.state === "running");
  const last = Math.max(-1, ...begun);
  return running >= 0 ? running : last >= 0 ? last : null;
});

/** Its points; null while they load. */
export const stageMetrics = computed(() => {
  const held = metrics.value;
  return held && held.run === selectedRun.value?.id && held.stage === selectedStage.value ? held.points : null;
});

/** The phone whose figures are shown: the one that the address names, else the first of the search. */
export const selectedPhone = computed(() => {
  const serials = selectedSearch.value?.spec.phones ?? [];
  return serials.includes(route.value.phone) ? route.value.phone : (serials[0] ?? "");
});

/** Candidates of the selected search; null while they load. */
export const rows = computed(() => {
  const held = candidates.value;
  return held && held.search === selectedSearch.value?.id ? held.rows : null;
});

/** @param {string} serial @returns {Phone|undefined} */
export const phoneOf = (serial) => phones.value?.find((p) => p.serial === serial);

/** @param {string} serial */
export const phoneName = (serial) => phoneOf(serial)?.name || serial;

const SILENT_MS = 20_000;

/** A phone's state, or "silent" when nobody has spoken of it for too long to believe it. @param {Phone} phone */
export function presence(phone) {
  const old = phone.last_seen && now.value - Date.parse(phone.last_seen) > SILENT_MS;
  return old && phone.state === "ready" ? "silent" : phone.state;
}

/** @param {string} serial */
export const isVirtual = (serial) => phoneOf(serial)?.virtual === true;

/**
 * Put a value into a signal only if it differs, so that nothing is drawn again for nothing.
 * @template T
 * @param {import("@preact/signals").Signal<T>} target
 * @param {T} value
 */
export function settle(target, value) {
  if (JSON.stringify(target.peek()) !== JSON.stringify(value)) target.value = value;
}
