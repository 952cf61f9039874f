/** Taking a phone into the fleet. */
import { useState } from "preact/hooks";
import { html } from "../html.js";
import { post } from "../api.js";
import { refresh } from "../sync.js";
import { Refused, useAction } from "./action.js";

/** @param {{serial: string}} props */
export function RegisterButton({ serial }) {
  const { busy, refused, act } = useAction();
  const register = () => act(() => post("/v1/phones", { serial })).then(() => refresh("phones"));
  return html`<div class="register-sighted">
    <button type="button" class="primary" disabled=${busy} onClick=${register}>Register ${serial}</button>
    <${Refused} refused=${refused} />
  </div>`;
}

/** @param {FormData} form */
function registration(form) {
  /** @param {string} field */
  const given = (field) => String(form.get(field) ?? "").trim();
  const tags = given("tags").split(",").map((tag) => tag.trim()).filter(Boolean);
  /** @param {string} field */
  const said = (field) => given(field) && { [field]: given(field) };
  return { serial: given("serial"), ...said("name"), ...said("group"), ...(tags.length && { tags }) };
}

export function RegisterForm() {
  const { busy, refused, act } = useAction();
  const [done, setDone] = useState("");
  /** @param {SubmitEvent} event */
  async function submit(event) {
    event.preventDefault();
    const form = /** @type {HTMLFormElement} */ (event.currentTarget);
    const body = registration(new FormData(form));
    setDone("");
    if (await act(() => post("/v1/phones", body))) {
      setDone(body.serial);
      form.reset();
      refresh("phones");
    }
  }
  return html`<form class="panel register" onSubmit=${submit} aria-label="Register a phone">
    <h2>Register a phone</h2>
    <p class="quiet">The serial is the address by which its agent reaches it, as in <code>--phone</code>, or what <code>fulcrum phone discover</code> calls it.</p>
    <div class="fields">
      <label><span>Serial</span> <input name="serial" required maxlength="128" autocomplete="off" spellcheck=${false} placeholder="192.168.1.20:5555" /></label>
      <label><span>Name <span class="quiet">optional</span></span> <input name="name" maxlength="64" autocomplete="off" placeholder="Bench 3" /></label>
      <label><span>Group <span class="quiet">optional</span></span> <input name="group" maxlength="64" autocomplete="off" placeholder="rack-a" /></label>
      <label><span>Tags <span class="quiet">optional, commas between</span></span> <input name="tags" autocomplete="off" placeholder="s24, fast" /></label>
      <button class="primary" disabled=${busy}>Register</button>
    </div>
    <${Refused} refused=${refused} />
    ${done && html`<p class="done" role="status">${done} is registered.</p>`}
  </form>`;
}
