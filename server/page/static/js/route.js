/** What the address bar remembers after `#`: the view, the selection, sort order and axes. */
import { signal } from "@preact/signals";

const DEFAULTS = {
  view: "searches",
  search: "",
  run: "",
  stage: "",
  phone: "",
  sort: "number",
  show: "all",
  x: "decode_ms",
  y: "bits_per_byte",
};

/** @typedef {typeof DEFAULTS} Route */

/** @param {string} hash @returns {Route} */
function parse(hash) {
  const given = new URLSearchParams(hash.replace(/^#/, ""));
  return /** @type {Route} */ (
    Object.fromEntries(Object.entries(DEFAULTS).map(([key, value]) => [key, given.get(key) ?? value]))
  );
}

/** @type {import("@preact/signals").Signal<Route>} */
export const route = signal(parse(location.hash));

addEventListener("hashchange", () => {
  route.value = parse(location.hash);
});

/**
 * The link that changes only what `patch` names.
 * @param {Partial<Route>} patch
 */
export function href(patch) {
  const next = { ...route.value, ...patch };
  const kept = Object.entries(next).filter(([key, value]) => value !== DEFAULTS[/** @type {keyof Route} */ (key)]);
  return `#${new URLSearchParams(kept)}`;
}

/**
 * Change how the same thing is shown, without a step in the history.
 * @param {Partial<Route>} patch
 */
export function adjust(patch) {
  history.replaceState(null, "", href(patch));
  route.value = { ...route.value, ...patch };
}
