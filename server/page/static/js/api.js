/** Talking to the REST API: JSON in, JSON out, refusals as `Problem`. */

/** A refusal of the server, as RFC 9457 problem details. */
export class Problem extends Error {
  /**
   * @param {number} status
   * @param {{title?: string, detail?: string, advice?: string, errors?: {pointer: string, detail: string}[]}} body
   */
  constructor(status, body) {
    super(body.detail || body.title || `the server answered ${status}`);
    this.status = status;
    this.title = body.title || "Refused";
    this.advice = body.advice || "";
    this.errors = body.errors || [];
  }
}

/** The server's clock minus this browser's, in milliseconds; the server's is told in whole seconds. */
export let clockOffset = 0;

/** @param {Response} response */
function readClock(response) {
  const there = Date.parse(response.headers.get("date") ?? "");
  const offset = there + 500 - Date.now();
  if (Math.abs(offset) > 2_000) clockOffset = offset;
}

/**
 * @param {string} path
 * @param {RequestInit} [options]
 * @returns {Promise<any>} the decoded answer
 * @throws {Problem} when the server refuses; TypeError when it cannot be reached
 */
async function request(path, options) {
  const response = await fetch(path, { ...options, headers: { accept: "application/json", ...options?.headers } });
  readClock(response);
  if (response.ok) return response.status === 204 ? null : response.json();
  let body = {};
  try {
    body = await response.json();
  } catch {
    body = { detail: `the server answered ${response.status} ${response.statusText}` };
  }
  throw new Problem(response.status, body);
}

/** @param {string} path */
export const get = (path) => request(path);

/** @param {string} method @returns {(path: string, body: object) => Promise<any>} */
const sending = (method) => (path, body) =>
  request(path, { method, body: JSON.stringify(body), headers: { "content-type": "application/json" } });

export const post = sending("POST");
export const patch = sending("PATCH");
