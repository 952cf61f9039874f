/** An architecture's blocks at a glance. */
import { html } from "../html.js";

const MOST = 16;

/** @typedef {import("../types.js").Architecture} Architecture */

/** @param {Architecture["blocks"][number]} block */
const letter = (block) => (block.operator === "attention" ? "A" : "c");

/** @param {Architecture["blocks"][number]} block */
function words(block) {
  if (block.operator === "conv") return `gated short convolution, kernel ${block.kernel}`;
  return `attention, ${block.heads} heads of ${block.head_dim}, ${block.kv_heads} for keys and values`;
}

/** One letter per block, in order: c a short convolution, A attention. @param {{architecture: Architecture}} props */
export function Blocks({ architecture }) {
  const { blocks } = architecture;
  const title = blocks.map((b, i) => `${i}: ${words(b)}`).join("\n");
  return html`<span class="blocks" title=${title} role="img" aria-label=${`blocks ${blocks.map(letter).join(" ")}`}>
    ${blocks.slice(0, MOST).map((b) => html`<b class=${`block-${b.operator}`}>${letter(b)}</b>`)}
    ${blocks.length > MOST && html`<span class="quiet">+${blocks.length - MOST}</span>`}
  </span>`;
}
