/** Markup in tagged templates: text becomes text nodes, never HTML. */
import { h } from "preact";
import htm from "htm";

export const html = htm.bind(h);
