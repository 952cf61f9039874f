import { render } from "preact";
import { html } from "./html.js";
import { start } from "./sync.js";
import { App } from "./view/app.js";

const root = /** @type {HTMLElement} */ (document.getElementById("page"));
root.replaceChildren();
render(html`<${App} />`, root);
start();
