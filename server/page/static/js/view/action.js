/** Asking the server for a change: busy while it lasts, and what it said if it refused. */
import { useState } from "preact/hooks";
import { html } from "../html.js";
import { Problem } from "../api.js";

/** @typedef {{title: string, lines: string[]}} Refusal */

/** @param {unknown} error @returns {Refusal} */
function refusal(error) {
  if (!(error instanceof Problem)) {
    return { title: "The server cannot be reached", lines: ["Check that it runs, and try again."] };
  }
  const lines = [error.message, ...error.errors.map((e) => `${e.pointer}: ${e.detail}`), error.advice];
  return { title: error.title, lines: lines.filter(Boolean) };
}

/** One request at a time; `act` says whether it was granted. */
export function useAction() {
  const [busy, setBusy] = useState(false);
  const [refused, setRefused] = useState(/** @type {Refusal|null} */ (null));
  /** @param {() => Promise<unknown>} request @returns {Promise<boolean>} */
  async function act(request) {
    setBusy(true);
    setRefused(null);
    try {
      await request();
      return true;
    } catch (error) {
      setRefused(refusal(error));
      return false;
    } finally {
      setBusy(false);
    }
  }
  return { busy, refused, act };
}

/** @param {{refused: Refusal|null}} props */
export const Refused = ({ refused }) =>
  refused &&
  html`<div class="fault" role="alert">
    <p><strong>${refused.title}</strong></p>
    ${refused.lines.map((line) => html`<p>${line}</p>`)}
  </div>`;
