/** What stands beside the point under the pointer. */
import { html } from "../html.js";
import { count, figure, fixed } from "../format.js";
import { isVirtual } from "../store.js";
import { Blocks } from "./blocks.js";
import { VirtualMark } from "./common.js";

const AWAY = 14;

/** @param {{chart: any, point: import("../plot_option.js").Point, serial: string}} props */
export function Tip({ chart, point, serial }) {
  const [left, top] = chart.convertToPixel({ xAxisIndex: 0, yAxisIndex: 0 }, [point.x, point.y]);
  const flip = left > chart.getWidth() / 2;
  const low = top > chart.getHeight() / 2;
  const place = {
    left: flip ? "auto" : `${left + AWAY}px`,
    right: flip ? `${chart.getWidth() - left + AWAY}px` : "auto",
    top: low ? "auto" : `${top}px`,
    bottom: low ? `${chart.getHeight() - top}px` : "auto",
  };
  const { row } = point;
  const profile = row.profiles[serial];
  return html`<div class="plot-tip" role="tooltip" style=${place}>
    <p><b>#${row.number}</b> ${isVirtual(serial) && html`<${VirtualMark} />`}</p>
    <p><${Blocks} architecture=${row.architecture} /></p>
    <table>
      <tbody>
        <tr><td>${fixed(row.quality?.bits_per_byte, 3)}</td><td>bits per byte</td></tr>
        <tr><td>${figure(profile.decode_ms.value)}</td><td>ms per token</td></tr>
        <tr><td>${figure(profile.ttft_ms.value)}</td><td>ms to first token</td></tr>
        <tr><td>${figure(profile.peak_memory_bytes / 1e6)}</td><td>MB peak</td></tr>
        <tr><td>${count(row.parameters)}</td><td>parameters</td></tr>
      </tbody>
    </table>
  </div>`;
}
