/** What a user may do with a phone that is in the fleet: release, check, take out of work, describe. */
import { html } from "../html.js";
import { patch, post } from "../api.js";
import { refresh } from "../sync.js";
import { Refused, useAction } from "./action.js";

/** @typedef {import("../types.js").Phone} Phone */

/** @param {string} serial */
const address = (serial) => `/v1/phones/${encodeURIComponent(serial)}`;

/** @param {{serial: string, path: string, label: string, primary?: boolean}} props */
function PostButton({ serial, path, label, primary = false }) {
  const { busy, refused, act } = useAction();
  const send = () => act(() => post(`${address(serial)}/${path}`, {})).then(() => refresh("phones"));
  return html`<div class="register-sighted">
    <button type="button" class=${primary ? "primary" : ""} disabled=${busy} onClick=${send}>${label}</button>
    <${Refused} refused=${refused} />
  </div>`;
}

/** @param {{phone: Phone}} props */
export const ReleaseButton = ({ phone }) =>
  html`<${PostButton}
    serial=${phone.serial}
    path="release"
    primary
    label=${phone.state === "maintenance" ? "Back to work" : "End the quarantine"}
  />`;

/** @param {SubmitEvent} event @returns {(field: string) => string} */
function fieldsOf(event) {
  event.preventDefault();
  const form = new FormData(/** @type {HTMLFormElement} */ (event.currentTarget));
  return (field) => String(form.get(field) ?? "").trim();
}

/** @param {{serial: string}} props */
function MaintainForm({ serial }) {
  const { busy, refused, act } = useAction();
  /** @param {SubmitEvent} event */
  function submit(event) {
    const reason = fieldsOf(event)("reason");
    act(() => post(`${address(serial)}/maintenance`, { reason })).then(() => refresh("phones"));
  }
  return html`<form class="stack" onSubmit=${submit} aria-label=${`Maintenance of ${serial}`}>
    <label><span>Take it out of work, because</span> <input name="reason" maxlength="1000" autocomplete="off" placeholder="new battery" /></label>
    <button disabled=${busy}>Take it out</button>
    <${Refused} refused=${refused} />
  </form>`;
}

/** @param {{phone: Phone}} props */
function EditForm({ phone }) {
  const { busy, refused, act } = useAction();
  /** @param {SubmitEvent} event */
  function submit(event) {
    const given = fieldsOf(event);
    const tags = given("tags").split(",").map((tag) => tag.trim()).filter(Boolean);
    const change = {
      name: given("name") || null,
      group: given("group") || null,
      note: given("note") || null,
      add_tags: tags.filter((tag) => !phone.tags.includes(tag)),
      remove_tags: phone.tags.filter((tag) => !tags.includes(tag)),
    };
    act(() => patch(address(phone.serial), change)).then(() => refresh("phones"));
  }
  return html`<form class="stack" onSubmit=${submit} aria-label=${`Description of ${phone.serial}`}>
    <label><span>Name</span> <input name="name" maxlength="64" autocomplete="off" defaultValue=${phone.name ?? ""} /></label>
    <label><span>Group</span> <input name="group" maxlength="64" autocomplete="off" defaultValue=${phone.group ?? ""} /></label>
    <label><span>Tags, commas between</span> <input name="tags" autocomplete="off" defaultValue=${phone.tags.join(", ")} /></label>
    <label><span>Note</span> <input name="note" maxlength="1000" autocomplete="off" defaultValue=${phone.note ?? ""} /></label>
    <button disabled=${busy}>Save</button>
    <${Refused} refused=${refused} />
  </form>`;
}

/** @param {{phone: Phone}} props */
export const MoreActions = ({ phone }) => html`<details class="phone-more">
  <summary>More</summary>
  ${phone.agent && html`<${PostButton} serial=${phone.serial} path="check" label="Check its health now" />`}
  ${phone.state !== "maintenance" && html`<${MaintainForm} serial=${phone.serial} />`}
  <${EditForm} phone=${phone} key=${`${phone.name} ${phone.group} ${phone.tags} ${phone.note}`} />
</details>`;
