/** The one stream of events: what changed, and whether we still hear of it. */
import { signal } from "@preact/signals";

const RETRY_MS = 2_000;
const RESTORED_MS = 4_000;
const TYPES = ["search", "candidate", "phone", "run", "job"];

/** @type {import("@preact/signals").Signal<"connecting"|"live"|"lost"|"restored">} */
export const connection = signal("connecting");

/** When the stream broke, by this browser's clock, in milliseconds. */
export const lostAt = signal(0);

/** @typedef {{type: string, id: string, search?: string|null}} Change */

/**
 * Follow `/v1/events`. A hidden tab lets go of its connection (HTTP/1.1 has six of them for all tabs together).
 * @param {(change: Change) => void} onChange
 * @param {() => void} onOpen called whenever the stream opens: something may have been missed
 */
export function listen(onChange, onOpen) {
  /** @type {EventSource|null} */
  let source = null;
  let last = "";

  /** @param {MessageEvent} message */
  function hear(message) {
    last = message.lastEventId || last;
    const change = JSON.parse(message.data);
    onChange({ type: message.type, ...change });
  }

  function opened() {
    const broken = connection.peek() === "lost";
    connection.value = broken ? "restored" : "live";
    if (broken) setTimeout(() => connection.peek() === "restored" && (connection.value = "live"), RESTORED_MS);
    onOpen();
  }

  function failed() {
    if (connection.peek() !== "lost") lostAt.value = Date.now();
    connection.value = "lost";
    close();
    setTimeout(open, RETRY_MS);
  }

  function open() {
    if (source || document.hidden) return;
    source = new EventSource(last ? `/v1/events?after=${encodeURIComponent(last)}` : "/v1/events");
    source.onopen = opened;
    source.onerror = failed;
    source.onmessage = hear;
    for (const type of TYPES) source.addEventListener(type, hear);
  }

  function close() {
    source?.close();
    source = null;
  }

  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
  open();
}
